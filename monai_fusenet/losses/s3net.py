"""The weighted sum that S3-Net minimises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from monai_fusenet.losses.self_labeling import SelfLabelingLoss
from monai_fusenet.losses.spatial_continuity import SpatialContinuityLoss
from monai_fusenet.losses.transform_consistency import TransformConsistencyLoss
from monai_fusenet.utils.checks import check_number

__all__ = ["S3NetLoss", "S3NetTerms"]


class S3NetTerms(NamedTuple):
    """Weighted terms, each a scalar; `total` is their sum."""

    total: Tensor
    self_labeling: Tensor
    transform_consistency: Tensor
    spatial_continuity: Tensor


class S3NetLoss(nn.Module):
    """Weighted sum of self-labelling, transform consistency and spatial continuity.

    Args:
        lambda_self: weight of the self-labelling loss.
        lambda_transform: weight of the transform consistency loss.
        lambda_spatial: weight of the spatial continuity loss.
        transform_mode: `mode` of the transform consistency loss: "equivariant", or "published".
        spatial_mode: `mode` of the spatial continuity loss: "soft", or "published", which trains nothing.
        spatial_on: `on` of the spatial continuity loss.
        greys: of the spatial continuity loss.

    Shape:
        an `S3NetOutput`, or any (scores, auxiliary_scores), and a batch -> scalar, computed in float32 at least. The
        batch needs `correspondence` (B, 1, *spatial), unless `transform_mode` is "published".

    Raises:
        ValueError: for a negative weight, an output without auxiliary scores, and as the three losses do.

    Reference:
        Karimijafarbigloo et al. 2023, arXiv 2309.00143; the weights are those of the published code.
    """

    def __init__(
        self,
        lambda_self: float = 3.5,
        lambda_transform: float = 0.2,
        lambda_spatial: float = 4.0,
        transform_mode: str = "equivariant",
        spatial_mode: str = "soft",
        spatial_on: str = "scores",
        greys: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        check_number("lambda_self", lambda_self, 0)
        check_number("lambda_transform", lambda_transform, 0)
        check_number("lambda_spatial", lambda_spatial, 0)
        self.lambda_self = lambda_self
        self.lambda_transform = lambda_transform
        self.lambda_spatial = lambda_spatial
        self.self_labeling = SelfLabelingLoss()
        self.transform_consistency = TransformConsistencyLoss(transform_mode)
        self.spatial_continuity = SpatialContinuityLoss(on=spatial_on, mode=spatial_mode, greys=greys)

    def terms(self, output: tuple[Tensor, Tensor], batch: Mapping[str, Tensor] | None = None) -> S3NetTerms:
        """The weighted terms and their sum, for logging."""
        if len(output) != 2:
            raise ValueError(
                "expected scores of the image and auxiliary scores of a second view, which the augmentation must add, "
                f"got {len(output)} outputs"
            )
        scores, auxiliary_scores = output
        correspondence = None if batch is None else batch.get("correspondence")
        self_labeling = self.lambda_self * self.self_labeling(scores)
        transform = self.lambda_transform * self.transform_consistency(scores, auxiliary_scores, correspondence)
        spatial = self.lambda_spatial * self.spatial_continuity(scores)
        return S3NetTerms(self_labeling + transform + spatial, self_labeling, transform, spatial)

    def forward(self, output: tuple[Tensor, Tensor], batch: Mapping[str, Tensor] | None = None) -> Tensor:
        """The scalar to minimise."""
        return self.terms(output, batch).total
