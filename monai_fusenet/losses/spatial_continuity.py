"""Neighbours should be alike: each difference between two of them costs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from monai.utils import LossReduction, look_up_option
from torch import Tensor
from torch.nn.modules.loss import _Loss

from monai_fusenet.losses.self_labeling import reduce_loss
from monai_fusenet.utils.precision import at_least_float32
from monai_fusenet.utils.strips import rows_at_once

__all__ = ["SpatialContinuityLoss", "spatial_continuity"]


def spatial_continuity(maps: Tensor) -> Tensor:
    """Mean absolute difference of neighbours, summed over the axes.

    c = sum over the axes of mean |x[i + 1] - x[i]|, the mean over all neighbours along that axis and all channels. An
    axis of a single pixel has no neighbours and costs nothing.

    Differs from the published code: that compares the differences with a map of zeros, which it keeps in memory.

    Args:
        maps: (B, K, *spatial), finite values.

    Returns:
        (B,), float32 at least: what each image costs.
    """
    return _NeighbourDifferences.apply(at_least_float32(maps))


class _NeighbourDifferences(torch.autograd.Function):
    """Keeps its input, which is there anyway, where autograd would keep the signs of all differences as floats."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        ctx.save_for_backward(maps)
        costs = maps.new_zeros(len(maps))
        for before, after, share in _neighbours(maps):
            costs += share * (after - before).abs_().flatten(1).sum(dim=1)
        return costs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (maps,) = ctx.saved_tensors
        gradient = gradient.view([-1] + [1] * (maps.ndim - 1))
        total = torch.zeros_like(maps)
        pairs = zip(_neighbours(maps), _neighbours(total), strict=True)
        for (before, after, share), (total_before, total_after, _) in pairs:
            signs = (after - before).sign_().mul_(share * gradient)
            total_after += signs
            total_before -= signs
        return total


def _neighbours(maps: Tensor) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Views of neighbours along each axis, some rows at a time, and the share of each of them in the mean."""
    rows = rows_at_once(maps, axis=2)
    for axis in range(2, maps.ndim):
        count = math.prod(maps.shape[1:]) // maps.shape[axis] * (maps.shape[axis] - 1)
        # Along the first axis each strip needs the first row of the next one.
        reach = 1 if axis == 2 else 0
        for start in range(0, maps.shape[2] - reach, rows):
            strip = maps[:, :, start : start + rows + reach]
            pairs = strip.shape[axis] - 1
            if pairs > 0:
                yield strip.narrow(axis, 0, pairs), strip.narrow(axis, 1, pairs), 1 / count


class SpatialContinuityLoss(_Loss):
    """Asks neighbours to have like scores; stands beside a supervised loss as a regulariser, too.

    Args:
        on: what is compared: "scores" as they are (published; meant for scores that a norm has brought to one scale),
            or "probabilities", their softmax, which no scale of the scores can cheapen.
        reduction: "mean" over images, "sum", or "none" for one value an image.

    Shape:
        input (B, K, *spatial), 2-D or 3-D, finite scores or logits. With K = 1, probabilities are those of a foreground
        against its background. Target is ignored. Computed in float32 at least, whatever the input and autocast are.

    Raises:
        ValueError: for an unknown `on` or reduction, or an input that is not 2-D or 3-D.

    Reference:
        Kim, Kanezaki, Tanaka 2020, "Unsupervised Learning of Image Segmentation Based on Differentiable Feature
        Clustering", arXiv 2007.09990.
    """

    def __init__(self, on: str = "scores", reduction: LossReduction | str = LossReduction.MEAN) -> None:
        super().__init__(reduction=look_up_option(reduction, LossReduction).value)
        if on not in ("scores", "probabilities"):
            raise ValueError(f'on must be "scores" or "probabilities", got "{on}"')
        self.on = on

    def forward(self, input: Tensor, target: Tensor | None = None) -> Tensor:
        """The loss of scores or logits `input`."""
        if input.ndim not in (4, 5):
            raise ValueError(f"scores must have the shape (B, K, *spatial) in 2-D or 3-D, got {tuple(input.shape)}")
        if self.on == "probabilities":
            if input.shape[1] == 1:
                input = torch.cat([torch.zeros_like(input), input], dim=1)
            input = at_least_float32(input).softmax(dim=1)
        return reduce_loss(spatial_continuity(input), self.reduction)
