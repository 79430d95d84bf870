"""The wide part of a fusion on a CPU, with a hand-written backward pass: few copies, and no row is computed twice."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from monai_fusenet.networks.blocks.depthwise import gradient_of_weight

__all__ = ["FusionWeights", "Layout", "fuse_by_hand"]


class FusionWeights(NamedTuple):
    """The weights after the context: of two norms, of the mix feed-forward, and of its inner norm."""

    attention_gain: Tensor
    attention_shift: Tensor
    gain: Tensor
    shift: Tensor
    inner: Tensor
    inner_bias: Tensor
    kernel: Tensor
    kernel_bias: Tensor
    mix_gain: Tensor
    mix_shift: Tensor
    outer: Tensor
    outer_bias: Tensor


class Layout(NamedTuple):
    """The grid of the pixels, how many rows of its first axis are worked on together, and epsilon of all norms."""

    grid: tuple[int, ...]
    rows: int
    eps: float

    def strips(self) -> list[tuple[int, int]]:
        """First row of each strip, and the first one after it."""
        return [(start, min(start + self.rows, self.grid[0])) for start in range(0, self.grid[0], self.rows)]

    def pixels(self, strip: tuple[int, int]) -> slice:
        """Where the pixels of a strip are among all."""
        row = math.prod(self.grid[1:])
        return slice(strip[0] * row, strip[1] * row)

    def with_room(self, like: Tensor, features: int, strip: tuple[int, int]) -> Tensor:
        """A strip of a map for each direction, with a row of zeros at either end: (2, rows + 2, *others, features)."""
        maps = like.new_empty(2, strip[1] - strip[0] + 2, *self.grid[1:], features)
        maps[:, 0] = 0
        maps[:, -1] = 0
        return maps


def fuse_by_hand(views: Tensor, normalized: Tensor, context: Tensor, layout: Layout, weights: FusionWeights) -> Tensor:
    """The result of both directions of a fusion of two views, given the context of each.

    With z = [view, other view] + LN(softmax(normalized) context), each direction is z + W_b GELU(LN(K * h)) with
    h = W_a LN(z), where the kernel K adds the pixel itself; the result is their sum.

    Args:
        views: (2, B, N, d), multiplied by their weights.
        normalized: of the same shape, the views after their norm.
        context: (2, B, d, 2d).
        layout: of the N pixels, 2-D or 3-D.
        weights: all of the type of the views, float32 or float64.

    Returns:
        (B, N, 2d)
    """
    return _Fuse.apply(views, normalized, context, layout, [], *weights)


class _Fuse(torch.autograd.Function):
    @staticmethod
    def forward(
        views: Tensor, normalized: Tensor, context: Tensor, layout: Layout, kept: list, *weights: Tensor
    ) -> Tensor:
        kept += [_Image(layout, FusionWeights(*weights)) for _ in range(views.shape[1])]
        parts = zip(kept, *(part.unbind(1) for part in (views, normalized, context)), strict=True)
        return _together([image.forward(*own) for image, *own in parts], 0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.images = inputs[4]
        ctx.save_for_backward(inputs[2], *inputs[5:])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        context, *_ = ctx.saved_tensors  # also says when somebody has changed a weight meanwhile
        parts = zip(ctx.images, gradient, context.unbind(1), strict=True)
        results = [image.backward(own.contiguous(), of) for image, own, of in parts]
        inputs = [_together(own, 1) for own in zip(*(result[:3] for result in results), strict=True)]
        weights = [sum(own) for own in zip(*(result[3] for result in results), strict=True)]
        return *inputs, None, None, *weights

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *inputs: Any) -> tuple[Tensor, int]:
        """One network after the other."""

        def of(index: int) -> list[Any]:
            own = [
                value if axis is None or not isinstance(value, Tensor) else value.select(axis, index)
                for value, axis in zip(inputs, in_dims, strict=True)
            ]
            return [*own[:4], [], *own[5:]]

        return torch.stack([_Fuse.apply(*of(index)) for index in range(info.batch_size)]), 0


def _together(parts: Sequence[Tensor], axis: int) -> Tensor:
    """What `torch.stack` makes; a single part is not copied."""
    return parts[0].unsqueeze(axis) if len(parts) == 1 else torch.stack(list(parts), dim=axis)


class _Image:
    """Both passes of one image; keeps between them what the second needs of the first."""

    def __init__(self, layout: Layout, weights: FusionWeights) -> None:
        self.layout = layout
        self.weights = weights
        # The norm's gain and shift are in the map that follows it.
        self.inner = weights.inner * weights.gain
        self.inner_bias = torch.addmv(weights.inner_bias, weights.inner, weights.shift)
        self.attended: list[tuple[Tensor, ...]] = []  # of each strip
        self.hidden: list[Tensor] = []
        self.mixed: list[tuple[Tensor, ...]] = []

    def forward(self, views: Tensor, normalized: Tensor, context: Tensor) -> Tensor:
        """The scores (N, 2d) of views (2, N, d)."""
        scores = views.new_empty(views.shape[1], 2 * views.shape[2])
        for strip in self.layout.strips():
            pixels = self.layout.pixels(strip)
            z = self._attend(views[:, pixels], normalized[:, pixels], context)
            torch.add(z[0], z[1], out=scores[pixels])
            maps = self.layout.with_room(views, len(self.weights.kernel), strip)
            for own, normal in zip(maps, self.attended[-1][4], strict=True):
                torch.addmm(self.inner_bias, normal, self.inner.t(), out=own[1:-1].flatten(0, -2))
            self.hidden.append(maps)
        _meet(self.hidden)
        for strip, maps in zip(self.layout.strips(), self.hidden, strict=True):
            scores[self.layout.pixels(strip)] += self._mix(maps)
        return scores

    def _attend(self, views: Tensor, normalized: Tensor, context: Tensor) -> Tensor:
        """[view, other view] and what each has attended to, for some of the pixels: (2, n, 2d)."""
        weights, features = self.weights, views.shape[2]
        queries = normalized.softmax(dim=2)
        attended = queries @ context
        z, *statistics = self._norm(attended, weights.attention_gain, weights.attention_shift)
        z[..., :features] += views
        z[0, :, features:] += views[1]
        z[1, :, features:] += views[0]
        normal, _, scale = self._norm(z)
        self.attended.append((queries, attended, *statistics, normal, scale))
        return z

    def _mix(self, maps: Tensor) -> Tensor:
        """What the feed-forward adds to the sum of both directions."""
        weights = self.weights
        seen = _convolved(maps, weights.kernel, weights.kernel_bias)
        normal, *statistics = self._norm(seen, weights.mix_gain, weights.mix_shift)
        both = F.gelu(normal)
        both = both[0] + both[1]
        self.mixed.append((seen, *statistics, both))
        return torch.addmm(2 * weights.outer_bias, both, weights.outer.t())

    def backward(self, gradient: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """The gradients of views, normalised views, context and weights, given that of the scores (N, 2d)."""
        of = FusionWeights(*(torch.zeros_like(weight) for weight in self.weights))
        of_seen = []
        for index, strip in enumerate(self.layout.strips()):
            own = self._backward_of_mix(gradient[self.layout.pixels(strip)], index, of)
            of_seen.append(self.layout.with_room(own, own.shape[-1], strip))
            of_seen[-1][:, 1:-1] = own.view_as(of_seen[-1][:, 1:-1])
        _meet(of_seen)
        features = context.shape[1]
        of_views = gradient.new_empty(2, len(gradient), features)
        of_normalized, of_context = torch.empty_like(of_views), torch.zeros_like(context)
        for strip, maps, kept in zip(self.layout.strips(), of_seen, self.attended, strict=True):
            pixels = self.layout.pixels(strip)
            of_z = self._backward_of_inner(maps, kept[4:], of).add_(gradient[pixels])
            torch.add(of_z[0, :, :features], of_z[1, :, features:], out=of_views[0, pixels])
            torch.add(of_z[1, :, :features], of_z[0, :, features:], out=of_views[1, pixels])
            of_context += self._backward_of_attend(of_z, context, kept[:4], of, of_normalized[:, pixels])
        # `inner` so far holds the gradient of the map with the norm's gain in it.
        of.gain.add_((self.weights.inner * of.inner).sum(dim=0))
        of.shift.addmv_(self.weights.inner.t(), of.inner_bias)
        of.inner.mul_(self.weights.gain).addr_(of.inner_bias, self.weights.shift)
        return of_views, of_normalized, of_context, list(of)

    def _backward_of_mix(self, gradient: Tensor, index: int, of: FusionWeights) -> Tensor:
        """The gradient of what the convolution saw (2, n, hidden), for the next strip."""
        weights = self.weights
        seen, mean, scale, both = self.mixed[index]
        of.outer.addmm_(gradient.t(), both)
        of.outer_bias.add_(gradient.sum(dim=0), alpha=2)
        normal = self._norm(seen, weights.mix_gain, weights.mix_shift)[0]
        of_normal = torch.ops.aten.gelu_backward((gradient @ weights.outer).expand_as(normal), normal)
        of_seen, of_gain, of_shift = _backward_of_norm(
            of_normal, seen, mean, scale, weights.mix_gain, weights.mix_shift
        )
        of.mix_gain.add_(of_gain)
        of.mix_shift.add_(of_shift)
        of.kernel_bias.add_(of_seen.flatten(0, 1).sum(dim=0))
        around = self.hidden[index].movedim(-1, 1)
        inside = of_seen.unflatten(1, (-1, *self.layout.grid[1:])).movedim(-1, 1)
        of.kernel.add_(gradient_of_weight(around, weights.kernel, inside, neighbours=True))
        return of_seen

    def _backward_of_inner(self, of_seen: Tensor, kept: tuple[Tensor, ...], of: FusionWeights) -> Tensor:
        """The gradient of z (2, n, 2d) that comes through the feed-forward."""
        normal, scale = kept
        kernel = self.weights.kernel
        of_hidden = _convolved(of_seen, kernel.flip(list(range(2, kernel.ndim)))).flatten(0, 1)
        of.inner.addmm_(of_hidden.t(), normal.flatten(0, 1))
        of.inner_bias.add_(of_hidden.sum(dim=0))
        of_normal = (of_hidden @ self.inner).view_as(normal)
        # Of the normalised values themselves, whose mean is 0 and whose deviation is 1.
        zeros, ones = torch.zeros_like(scale), torch.ones_like(scale)
        return _backward_of_norm(of_normal, normal, zeros, ones)[0].mul_(scale)

    def _backward_of_attend(
        self, of_z: Tensor, context: Tensor, kept: tuple[Tensor, ...], of: FusionWeights, of_normalized: Tensor
    ) -> Tensor:
        """Writes the gradient of the normalised views (2, n, d), and returns that of the context."""
        queries, attended, mean, scale = kept
        gain, shift = self.weights.attention_gain, self.weights.attention_shift
        of_attended, of_gain, of_shift = _backward_of_norm(of_z, attended, mean, scale, gain, shift)
        of.attention_gain.add_(of_gain)
        of.attention_shift.add_(of_shift)
        of_queries = of_attended @ context.mT
        of_normalized.copy_(torch.ops.aten._softmax_backward_data(of_queries, queries, 2, queries.dtype))
        return queries.mT @ of_attended

    def _norm(self, values: Tensor, gain: Tensor | None = None, shift: Tensor | None = None) -> tuple[Tensor, ...]:
        """Normalised values, mean and reciprocal deviation."""
        return torch.native_layer_norm(values, values.shape[-1:], gain, shift, self.layout.eps)


def _meet(strips: list[Tensor]) -> None:
    """Gives each strip with room the rows of its neighbours."""
    for one, other in itertools.pairwise(strips):
        one[:, -1] = other[:, 1]
        other[:, 0] = one[:, -2]


def _convolved(around: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """Tokens (2, n, hidden) of the inner rows of a strip with room."""
    maps = around.movedim(-1, 1)
    convolve = {4: F.conv2d, 5: F.conv3d}[maps.ndim]
    padding = [0] + [1] * (maps.ndim - 3)
    return convolve(maps, kernel, bias, padding=padding, groups=len(kernel)).flatten(2).mT


def _backward_of_norm(
    gradient: Tensor,
    values: Tensor,
    mean: Tensor,
    scale: Tensor,
    gain: Tensor | None = None,
    shift: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """The gradients of the values of a norm, of its gain and of its shift, if it has any."""
    wanted = [True, gain is not None, shift is not None]
    sides = values.shape[-1:]
    return torch.ops.aten.native_layer_norm_backward(gradient, values, sides, mean, scale, gain, shift, wanted)
