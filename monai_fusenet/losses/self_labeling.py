"""Pixels are pulled towards the cluster they already prefer."""

from __future__ import annotations

import torch
from monai.utils import LossReduction, look_up_option
from torch import Tensor
from torch.nn.modules.loss import _Loss

from monai_fusenet.utils.checks import check_scores
from monai_fusenet.utils.precision import at_least_float32
from monai_fusenet.utils.strips import rows_at_once

__all__ = ["SelfLabelingLoss", "self_labeling_loss"]


def self_labeling_loss(scores: Tensor) -> Tensor:
    """Cross-entropy of each pixel against its own strongest cluster; log(K) when all scores tie.

    Args:
        scores: (B, K, *spatial), any real values; -inf for clusters that a pixel cannot have, but not for all of them.

    Returns:
        (B, *spatial), float32 at least, values in [0, log(K)].
    """
    # Contiguous for maps that are kept channels-last, as FuseNet's are.
    pixels = at_least_float32(scores).movedim(1, -1)
    flat = pixels.flatten(0, -2)
    parts = flat.split(rows_at_once(flat, axis=0))
    # Not F.cross_entropy, which would keep the log-probabilities, another map as large as the scores.
    losses = [part.logsumexp(dim=1) - part.gather(1, part.argmax(dim=1, keepdim=True)).squeeze(1) for part in parts]
    return torch.cat(losses).view(pixels.shape[:-1])


class SelfLabelingLoss(_Loss):
    """Self-labelling: cross-entropy of each pixel's scores against their own argmax.

    Args:
        reduction: "mean" over pixels, "sum", or "none" for a map (B, *spatial).

    Shape:
        input (B, K, *spatial), any real values: scores or logits. With K = 1 it is read as the logit of a foreground
        against its background. Target is ignored, so that the loss can be used beside supervised losses. Computed in
        float32 at least, whatever the type of the input.

    Raises:
        ValueError: when the input is no tensor with one to three spatial axes, or `reduction` is unknown.

    Reference:
        Kazerouni et al. 2023, arXiv 2311.13069, section 2; after Kim et al. 2020, arXiv 2007.09990.
    """

    def __init__(self, reduction: LossReduction | str = LossReduction.MEAN) -> None:
        super().__init__(reduction=look_up_option(reduction, LossReduction).value)

    def forward(self, input: Tensor, target: Tensor | None = None) -> Tensor:
        """The loss of scores `input`."""
        check_scores(input, (1, 2, 3))
        return reduce_loss(self_labeling_loss(with_background(input)), self.reduction)


def with_background(scores: Tensor) -> Tensor:
    """Scores (B, K, *spatial) of at least two classes: a single channel is the logit of a foreground."""
    return torch.cat([torch.zeros_like(scores), scores], dim=1) if scores.shape[1] == 1 else scores


def reduce_loss(loss: Tensor, reduction: str) -> Tensor:
    """Mean or sum of a loss map, or the map itself for "none"."""
    if reduction == LossReduction.MEAN.value:
        return loss.mean()
    return loss.sum() if reduction == LossReduction.SUM.value else loss
