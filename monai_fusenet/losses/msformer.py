"""The weighted sum that MS-Former minimises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

from monai_fusenet.losses.inter_scale import InterScaleConsistencyLoss
from monai_fusenet.losses.intra_scale import IntraScaleConsistencyLoss
from monai_fusenet.losses.self_labeling import SelfLabelingLoss
from monai_fusenet.utils.checks import check_number

__all__ = ["MSFormerLoss", "MSFormerTerms"]

Output = tuple[Tensor, Tensor, Tensor, Tensor]


class MSFormerTerms(NamedTuple):
    """Weighted terms, each a scalar; `total` is their sum."""

    total: Tensor
    self_labeling: Tensor
    inter_scale: Tensor
    intra_scale: Tensor


class MSFormerLoss(nn.Module):
    """Weighted sum of self-labelling, inter-scale and intra-scale consistency loss.

    Args:
        lambda_self: weight of the self-labelling loss.
        lambda_inter: weight of the inter-scale consistency loss.
        lambda_intra: weight of the intra-scale consistency loss.

    Shape:
        an `MSFormerOutput`, or any (scores, fine_context, coarse_context, patch_attention) -> scalar, computed in
        float32 at least

    Raises:
        ValueError: for a negative weight, an output of other than these four, and as the three losses do.

    Reference:
        Karimijafarbigloo et al. 2023, PMLR 227:680-694; the weights are those of the published demonstration, whose
        evaluation uses 1.5 and 1.3 for the two consistency losses.
    """

    def __init__(self, lambda_self: float = 1.0, lambda_inter: float = 2.0, lambda_intra: float = 1.2) -> None:
        super().__init__()
        check_number("lambda_self", lambda_self, 0)
        check_number("lambda_inter", lambda_inter, 0)
        check_number("lambda_intra", lambda_intra, 0)
        self.lambda_self = lambda_self
        self.lambda_inter = lambda_inter
        self.lambda_intra = lambda_intra
        self.self_labeling = SelfLabelingLoss()
        self.inter_scale = InterScaleConsistencyLoss()
        self.intra_scale = IntraScaleConsistencyLoss()

    def terms(self, output: Output, batch: Mapping[str, Tensor] | None = None) -> MSFormerTerms:
        """The weighted terms and their sum, for logging; the views of the batch are not used."""
        if len(output) != 4:
            raise ValueError(
                "MSFormerLoss needs scores, two contexts and a patch attention, which MSFormer returns for "
                f"network(image, image), got {len(output)} of them"
            )
        scores, fine_context, coarse_context, patch_attention = output
        self_labeling = self.lambda_self * self.self_labeling(scores)
        inter_scale = self.lambda_inter * self.inter_scale(fine_context, coarse_context)
        intra_scale = self.lambda_intra * self.intra_scale(patch_attention)
        total = self_labeling + inter_scale + intra_scale
        return MSFormerTerms(total, self_labeling, inter_scale, intra_scale)

    def forward(self, output: Output, batch: Mapping[str, Tensor] | None = None) -> Tensor:
        """The scalar to minimise."""
        return self.terms(output, batch).total
