"""Clusters should look the same from far away: isolated pixels and ragged edges raise the loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from monai.utils import LossReduction, look_up_option
from torch import Tensor
from torch.nn.modules.loss import _Loss

from monai_fusenet.losses.self_labeling import reduce_loss, with_background
from monai_fusenet.utils.checks import check_scores, check_whole
from monai_fusenet.utils.precision import at_least_float32, full_precision
from monai_fusenet.utils.strips import rows_at_once

__all__ = ["EdgeRefinementLoss", "edge_disagreement", "published_edge_map", "resampling_matrix"]


def resampling_matrix(size: int, new_size: int, device: torch.device | None = None) -> Tensor:
    """Weights of bilinear resampling along one axis, antialiased where it shrinks; each row sums to 1.

    New pixel i looks at (i + 1/2) size / new_size with a tent as wide as the scale (at least 1) to each side.
    `F.interpolate(..., antialias=True)` has the same weights, but works in 2-D only, and torch 2.13 gives wrong values
    where a side becomes 1.

    Returns:
        (new_size, size), float64
    """
    scale = size / new_size
    # Made where they are used: a copy from the host would wait for the device.
    positions = torch.arange(size, dtype=torch.float64, device=device) + 0.5
    centres = (torch.arange(new_size, dtype=torch.float64, device=device) + 0.5) * scale
    weights = (1 - (positions - centres.unsqueeze(1)).abs() / max(scale, 1.0)).clamp(min=0)
    return weights / weights.sum(dim=1, keepdim=True)


def seen_from_afar(strips: Sequence[Tensor], factor: int) -> Iterator[Tensor]:
    """A map as it looks from `factor` times as far away: down-sampled and back up.

    Args:
        strips: rows of the map (B, rows, *other spatial axes, K), in order.
        factor: how much smaller each axis becomes; at least one pixel is left.

    Yields:
        the same strips, seen from afar.
    """
    height, others = sum(strip.shape[1] for strip in strips), strips[0].shape[2:-1]
    lengths = [strip.shape[1] for strip in strips]
    device = strips[0].device
    down, up = zip(*(_there_and_back(side, factor, device) for side in (height, *others)), strict=True)
    far = torch.zeros((), dtype=strips[0].dtype, device=strips[0].device)
    for strip, weights in zip(strips, down[0].split(lengths, dim=1), strict=True):
        for axis in range(len(others), 0, -1):
            strip = _resample(strip, axis + 1, down[axis])
        far = far + _resample(strip, 1, weights)
    for axis in range(len(others), 0, -1):
        far = _resample(far, axis + 1, up[axis])
    for weights in up[0].split(lengths):
        yield _resample(far, 1, weights)


def _there_and_back(side: int, factor: int, device: torch.device) -> tuple[Tensor, Tensor]:
    small = max(1, side // factor)
    return resampling_matrix(side, small, device), resampling_matrix(small, side, device)


def _resample(pixels: Tensor, axis: int, weights: Tensor) -> Tensor:
    """One matrix product along one axis, without moving it: all axes behind it count as columns."""
    columns = pixels.flatten(axis + 1).flatten(0, axis - 1)
    with full_precision(pixels):
        return (weights.to(pixels) @ columns).view(*pixels.shape[:axis], -1, *pixels.shape[axis + 1 :])


def _strips(scores: Tensor) -> tuple[Tensor, ...]:
    """Rows (B, rows, ..., K) of scores (B, K, *spatial), float32 at least; no copy of FuseNet's, kept channels-last."""
    return at_least_float32(scores).movedim(1, -1).split(rows_at_once(scores, axis=2), dim=1)


def edge_disagreement(scores: Tensor, factor: int = 16) -> Tensor:
    """Total variation distance between each pixel's soft assignment and that of its surroundings.

    `p = softmax(scores)`; q is p down-sampled by `factor` and up-sampled back; `d = sum_k |p_k - q_k| / 2`.

    Args:
        scores: (B, K, *spatial), K at least 2; -inf for clusters that a pixel cannot have, but not for all of them.
        factor: how far away the map is looked at.

    Returns:
        (B, *spatial), float32 at least, values in [0, 1]: 0 where the surroundings agree, 1 where none of them has the
        pixel's cluster.
    """
    near = [_SoftmaxAnew.apply(strip) for strip in _strips(scores)]
    pairs = zip(near, seen_from_afar(near, factor), strict=True)
    return torch.cat([_TotalVariation.apply(p, q) for p, q in pairs], dim=1)


class _SoftmaxAnew(torch.autograd.Function):
    """Softmax along the last axis; keeps its input, which is there anyway, where autograd would keep the result."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        ctx.save_for_backward(scores)
        return scores.softmax(dim=-1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (scores,) = ctx.saved_tensors
        p = scores.softmax(dim=-1)
        gradient = gradient * p
        return gradient.addcmul_(p, gradient.sum(dim=-1, keepdim=True), value=-1)


class _TotalVariation(torch.autograd.Function):
    """sum_k |p_k - q_k| / 2 along the last axis; keeps signs, in a byte each, where autograd would keep p - q."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, q: Tensor) -> Tensor:
        difference = p - q
        ctx.save_for_backward(difference.sign().to(torch.int8))
        return difference.abs_().sum(dim=-1) / 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        (signs,) = ctx.saved_tensors
        gradient = signs * (gradient / 2).unsqueeze(-1)
        return gradient, -gradient


@torch.no_grad()
def published_edge_map(scores: Tensor, factor: int = 16) -> Tensor:
    """Difference of two cluster maps: argmax of the scores, less argmax of the scores seen from far away.

    Args:
        scores: (B, K, *spatial).
        factor: how far away the map is looked at.

    Returns:
        (B, *spatial), integers in (-K, K), of the dtype of the scores, but float32 at least. It has no gradient.
    """
    near = _strips(scores)
    pairs = zip(near, seen_from_afar(near, factor), strict=True)
    return torch.cat([p.argmax(dim=-1) - q.argmax(dim=-1) for p, q in pairs], dim=1).to(near[0].dtype)


class EdgeRefinementLoss(_Loss):
    """Asks each pixel to agree with its surroundings; also works as a regulariser beside a supervised loss.

    Differs from the published code. There the edge term is a difference of integer argmaxes, which has no gradient and
    changes only the printed loss. Here, by default, the difference is taken between soft assignments, so it trains the
    network.

    Args:
        factor: how far away the map is looked at: it is down-sampled by this factor and back up. With 1 the loss is 0.
            From the longest side of the map on, larger factors change nothing.
        mode: "soft" (differentiable, see `edge_disagreement`), or "published" (mean absolute difference of label
            numbers, see `published_edge_map`), which reproduces the printed number and trains nothing.
        reduction: "mean" over pixels, "sum", or "none" for a map (B, *spatial).

    Shape:
        input (B, K, *spatial), 2-D or 3-D, any real values: scores or logits. With K = 1 it is read as the logit of a
        foreground against its background. Target is ignored. Computed in float32 at least, whatever the type of the
        input, and under autocast too.

    Raises:
        ValueError: for a factor below 1, an unknown mode or reduction, or an input that is no tensor in 2-D or 3-D.

    Reference:
        Kazerouni et al. 2023, arXiv 2311.13069, section 2 (the published form).
    """

    def __init__(
        self, factor: int = 16, mode: str = "soft", reduction: LossReduction | str = LossReduction.MEAN
    ) -> None:
        super().__init__(reduction=look_up_option(reduction, LossReduction).value)
        check_whole("factor", factor, 1)
        if mode not in ("soft", "published"):
            raise ValueError(f'mode must be "soft" or "published", got "{mode}"')
        self.factor = factor
        self.mode = mode

    def forward(self, input: Tensor, target: Tensor | None = None) -> Tensor:
        """The loss of scores or logits `input`."""
        check_scores(input)
        input = with_background(input)
        if self.mode == "published":
            return reduce_loss(published_edge_map(input, self.factor).abs(), self.reduction)
        return reduce_loss(edge_disagreement(input, self.factor), self.reduction)
