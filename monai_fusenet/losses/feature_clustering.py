"""The weighted sum that feature clustering minimises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from monai_fusenet.losses.scribble import NO_SCRIBBLE, ScribbleLoss
from monai_fusenet.losses.self_labeling import self_labeling_loss
from monai_fusenet.losses.spatial_continuity import SpatialContinuityLoss
from monai_fusenet.utils.checks import check_number

__all__ = ["FeatureClusteringLoss", "FeatureClusteringTerms"]


class FeatureClusteringTerms(NamedTuple):
    """Weighted terms, each a scalar; `total` is their sum."""

    total: Tensor
    self_labeling: Tensor
    continuity: Tensor
    scribble: Tensor


class FeatureClusteringLoss(nn.Module):
    """Weighted sum of self-labelling, spatial continuity and, where there are scribbles, agreement with them.

    Pixels with a scribble are left out of the self-labelling.

    Args:
        lambda_self: weight of the self-labelling loss.
        lambda_continuity: weight of the spatial continuity loss; 1 in the published code for one image, 5 in that for
            many.
        lambda_scribble: weight of the scribble loss.
        ignore_index: of the scribble loss.

    Shape:
        a named tuple or tuple that begins with scores (B, K, *spatial), and views, which may hold `scribble` (B, 1,
        *spatial), see `ScribbleLoss` -> scalar, computed in float32 at least, a mean over images

    Raises:
        ValueError: for a negative weight, and as the losses do.

    Reference:
        Kim, Kanezaki, Tanaka 2020, arXiv 2007.09990; the weights are those of the published code.
    """

    def __init__(
        self,
        lambda_self: float = 1.0,
        lambda_continuity: float = 1.0,
        lambda_scribble: float = 0.5,
        ignore_index: int = NO_SCRIBBLE,
    ) -> None:
        super().__init__()
        check_number("lambda_self", lambda_self, 0)
        check_number("lambda_continuity", lambda_continuity, 0)
        check_number("lambda_scribble", lambda_scribble, 0)
        self.lambda_self = lambda_self
        self.lambda_continuity = lambda_continuity
        self.lambda_scribble = lambda_scribble
        self.continuity = SpatialContinuityLoss()
        self.scribble = ScribbleLoss(ignore_index)

    def terms(self, output: tuple[Tensor, ...], batch: Mapping[str, Tensor] | None = None) -> FeatureClusteringTerms:
        """The weighted terms and their sum, for logging."""
        scores = output[0]
        pixels = self_labeling_loss(scores)
        continuity = self.lambda_continuity * self.continuity(scores)
        if batch is None or "scribble" not in batch:
            self_labeling, scribble = self.lambda_self * pixels.mean(), pixels.new_zeros(())
        else:
            scribble = self.lambda_scribble * self.scribble(scores, batch["scribble"])
            free = batch["scribble"][:, 0] == self.scribble.ignore_index
            self_labeling = self.lambda_self * _mean_where(free, pixels).mean()
        return FeatureClusteringTerms(self_labeling + continuity + scribble, self_labeling, continuity, scribble)

    def forward(self, output: tuple[Tensor, ...], batch: Mapping[str, Tensor] | None = None) -> Tensor:
        """The scalar to minimise."""
        return self.terms(output, batch).total


def _mean_where(chosen: Tensor, pixels: Tensor) -> Tensor:
    """Mean of the chosen pixels of each image (B, *spatial); 0 where none is chosen."""
    total = torch.where(chosen, pixels, 0.0).flatten(1).sum(dim=1)
    return total / chosen.flatten(1).sum(dim=1).clamp(min=1)
