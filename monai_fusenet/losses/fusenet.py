"""The weighted sum that FuseNet minimises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

from monai_fusenet.losses.cross_modal import CrossModalLoss
from monai_fusenet.losses.edge_refinement import EdgeRefinementLoss
from monai_fusenet.losses.self_labeling import SelfLabelingLoss
from monai_fusenet.utils.checks import check_number

__all__ = ["FuseNetLoss", "FuseNetTerms"]


class FuseNetTerms(NamedTuple):
    """Weighted terms, each a scalar; `total` is their sum."""

    total: Tensor
    self_labeling: Tensor
    cross_modal: Tensor
    edge: Tensor


class FuseNetLoss(nn.Module):
    """Weighted sum of self-labelling, cross-modal and edge loss.

    Args:
        lambda_self: weight of the self-labelling loss.
        lambda_cross: weight of the cross-modal loss.
        lambda_edge: weight of the edge refinement loss.
        temperature: of the cross-modal loss.
        detach_targets: of the cross-modal loss.
        edge_factor: `factor` of the edge refinement loss.
        edge_mode: `mode` of the edge refinement loss: "soft", or "published", which trains nothing.

    Shape:
        a `FuseNetOutput`, or any (scores, image_tokens, augmented_tokens) -> scalar, computed in float32 at least

    Raises:
        ValueError: for a negative weight, for a tensor in the place of the three, and as the three losses do.

    Reference:
        Kazerouni et al. 2023, arXiv 2311.13069, section 2; the weights are those of the published code.
    """

    def __init__(
        self,
        lambda_self: float = 2.5,
        lambda_cross: float = 0.5,
        lambda_edge: float = 0.5,
        temperature: float = 5.0,
        detach_targets: bool = False,
        edge_factor: int = 16,
        edge_mode: str = "soft",
    ) -> None:
        super().__init__()
        check_number("lambda_self", lambda_self, 0)
        check_number("lambda_cross", lambda_cross, 0)
        check_number("lambda_edge", lambda_edge, 0)
        self.lambda_self = lambda_self
        self.lambda_cross = lambda_cross
        self.lambda_edge = lambda_edge
        self.self_labeling = SelfLabelingLoss()
        self.cross_modal = CrossModalLoss(temperature, detach_targets)
        self.edge = EdgeRefinementLoss(edge_factor, edge_mode)

    def terms(self, output: tuple[Tensor, Tensor, Tensor], batch: Mapping[str, Tensor] | None = None) -> FuseNetTerms:
        """The weighted terms and their sum, for logging; the views of the batch are not used."""
        if isinstance(output, Tensor):
            raise ValueError(
                "expected (scores, image_tokens, augmented_tokens), as FuseNet gives them in training, got one tensor: "
                "for scores alone take SelfLabelingLoss and EdgeRefinementLoss"
            )
        scores, image_tokens, augmented_tokens = output
        self_labeling = self.lambda_self * self.self_labeling(scores)
        cross_modal = self.lambda_cross * self.cross_modal(image_tokens, augmented_tokens)
        edge = self.lambda_edge * self.edge(scores)
        return FuseNetTerms(self_labeling + cross_modal + edge, self_labeling, cross_modal, edge)

    def forward(self, output: tuple[Tensor, Tensor, Tensor], batch: Mapping[str, Tensor] | None = None) -> Tensor:
        """The scalar to minimise."""
        return self.terms(output, batch).total
