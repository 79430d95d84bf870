"""Cross-view attention that turns two embeddings into scores for clusters."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn
from torch.nn import functional as F

from monai_fusenet.networks.blocks.anew import Checkpointing, linear_of_anew
from monai_fusenet.networks.blocks.attention import collected, context_of
from monai_fusenet.networks.blocks.depthwise import depthwise_conv
from monai_fusenet.networks.blocks.fusion_pass import FusionWeights, Layout, fuse_by_hand
from monai_fusenet.networks.blocks.layout import row_strips, to_map, to_tokens
from monai_fusenet.utils.precision import at_least_float32, full_precision
from monai_fusenet.utils.strips import rows_at_once

__all__ = ["FusionBlock", "MixFeedForward"]

Pair = tuple[Tensor, Tensor]


class MixFeedForward(nn.Module):
    """Feed-forward that mixes in the neighbours: W_b GELU(LN(DWConv3x3(h) + h)) with h = W_a z.

    Args:
        spatial_dims: 2 or 3.
        features: channels in and out.
        hidden: inner channels.

    Shape:
        tokens (B, N, features) with their grid -> (B, N, features)
    """

    def __init__(self, spatial_dims: int, features: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(features, hidden)
        self.depthwise = Conv[Conv.CONV, spatial_dims](hidden, hidden, kernel_size=3, padding=1, groups=hidden)
        self.norm = nn.LayerNorm(hidden)
        self.fc2 = nn.Linear(hidden, features)

    def forward(self, tokens: Tensor, spatial: list[int]) -> Tensor:
        """Mixes the channels of each token and those of its neighbours on the grid `spatial`."""
        return self.fc2(self.mix(tokens, spatial))

    def mix(self, tokens: Tensor, spatial: list[int]) -> Tensor:
        """All but the last map: (B, N, features) -> (B, N, hidden)."""
        hidden = to_map(self.fc1(tokens), spatial)
        if torch.jit.is_scripting() or torch.jit.is_tracing():
            return F.gelu(self.norm(to_tokens(self.depthwise(hidden) + hidden)))
        return F.gelu(self.norm(to_tokens(depthwise_conv(hidden, self.kernel(), self.depthwise.bias))))

    @torch.jit.unused
    def kernel(self) -> Tensor:
        """A kernel that also adds the pixel itself, so that DWConv3x3(h) + h needs no second read or copy of h."""
        dims = self.depthwise.weight.ndim - 2
        itself = torch.ones_like(self.depthwise.bias).view(-1, *[1] * (dims + 1))
        return self.depthwise.weight + F.pad(itself, [1, 1] * dims)

    @torch.jit.unused
    def inner_rows(self, hidden: Tensor, spatial: list[int], spare: bool) -> Tensor:
        """Everything after the first map, for all rows of the grid except the first and the last.

        Args:
            hidden: result of the first map, (B, N, hidden).
            spatial: the grid of the tokens.
            spare: keep only `hidden` for the backward pass, and compute the rest again there.

        Returns:
            tokens of the inner rows (B, number of tokens, features)
        """
        function = linear_of_anew if spare else _linear_of
        return function(
            partial(_look_around, spatial, self.norm.eps),
            *(self.fc2.weight, self.fc2.bias, hidden, self.kernel(), self.depthwise.bias),
            *(self.norm.weight, self.norm.bias),
        )


def _linear_of(function: Callable[..., Tensor], weight: Tensor, bias: Tensor, *inputs: Tensor) -> Tensor:
    return F.linear(function(*inputs), weight, bias)


def _look_around(
    spatial: list[int], eps: float, hidden: Tensor, kernel: Tensor, bias: Tensor, gain: Tensor, shift: Tensor
) -> Tensor:
    convolve = {2: F.conv2d, 3: F.conv3d}[len(spatial)]
    padding = [0] + [1] * (len(spatial) - 1)
    summed = to_tokens(convolve(to_map(hidden, spatial), kernel, bias, padding=padding, groups=len(kernel)))
    return F.gelu(F.layer_norm(summed, gain.shape, gain, shift, eps))


class FusionBlock(Checkpointing):
    """Fuses two views of one image in both directions and sums: F(w1 a, w2 b) + F(w2 b, w1 a).

    F(a, b) first lets a's pixels collect information from b by efficient attention: softmax of a's channels against
    softmax of a's pixels, values from b; the cost is linear in the number of pixels. It adds this to [a, b] and then
    mixes each pixel with its neighbours. The residual [a, b] is not normalised, so clusters c and c + features start
    nearly alike (twins).

    Args:
        spatial_dims: 2 or 3.
        features: channels of each view; the output has twice as many.
        weights: factors w1 and w2 of the two views.
        use_checkpoint: keep only the two views for the backward pass, and compute the rest again there. Takes about
            half more time, and little more memory than the scores.

    Shape:
        two maps (B, features, *spatial) -> scores (B, 2 * features, *spatial)

    Reference:
        Kazerouni et al. 2023, arXiv 2311.13069, section 2.
    """

    def __init__(
        self,
        spatial_dims: int,
        features: int = 64,
        weights: tuple[float, float] = (1.0, 1.0),
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__(use_checkpoint)
        self.weights = weights
        self.norm1 = nn.LayerNorm(features)
        self.reprojection = nn.Linear(features, 2 * features)
        self.attention_norm = nn.LayerNorm(2 * features)
        self.norm2 = nn.LayerNorm(2 * features)
        self.feed_forward = MixFeedForward(spatial_dims, 2 * features, 4 * features)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Scores each pixel for 2 * features clusters; with equal weights the order of the views does not matter."""
        spatial = list(first.shape[2:])
        if torch.jit.is_scripting():
            views = self._weigh(to_tokens(first), to_tokens(second))
            return to_map(self._fuse(views, self._context([self._collect(views)]), spatial), spatial)
        return to_map(self._in_strips(first, second, spatial), spatial)

    def _weigh(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.stack([self.weights[0] * first, self.weights[1] * second])

    def _collect(self, views: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the keys of one view collect of the values of the other, as softmax over pixels weighs them.

        Args:
            views: (2, B, N, d), some of the pixels.

        Returns:
            see `collected`: (2, B, 1, d), (2, B, 1, d) and (2, B, d, d); float32 at least
        """
        normalized = at_least_float32(self.norm1(views))
        return collected(normalized, normalized.flip(0))

    def _context(self, parts: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        """Attention of all pixels together, reprojected: (2, B, d, 2d)."""
        # The queries of a pixel sum to 1: what follows them can be applied to this small matrix, bias included.
        return self.reprojection(context_of(parts).to(self.reprojection.weight.dtype))

    def _fuse(self, views: Tensor, context: Tensor, spatial: list[int]) -> Tensor:
        """All that follows the context: (2, B, N, d) -> (B, N, 2d)."""
        attended = self.attention_norm(self.norm1(views).softmax(dim=3) @ context)
        fused = torch.cat([views, views.flip(0)], dim=3) + attended  # (2, B, N, 2d)
        mixed = self.feed_forward.mix(self.norm2(fused).flatten(0, 1), spatial)
        # Both directions share the last map, so their mean goes through it, once.
        mixed = self.feed_forward.fc2(mixed.unflatten(0, [2, views.shape[1]]).mean(0))
        return fused.sum(0) + 2 * mixed

    def _in_strips(self, first: Tensor, second: Tensor, spatial: list[int]) -> Tensor:
        """The same in strips of rows, each fused with a row of its neighbours at either side; (B, N, 2d)."""
        rows = rows_at_once(first, axis=2)
        if self._gains(first):
            return self._by_hand(self._weigh(to_tokens(first), to_tokens(second)), spatial, rows)
        strips = list(zip(row_strips(first, rows), row_strips(second, rows), strict=True))
        context = self._context([self._run(self._collect_strip, *strip) for strip in strips])
        none = tuple(view[:, :0] for view in strips[0])
        fused = []
        for index, strip in enumerate(strips):
            before = tuple(view[:, -1:] for view in strips[index - 1]) if index > 0 else none
            after = tuple(view[:, :1] for view in strips[index + 1]) if index + 1 < len(strips) else none
            fused.append(self._run(self._fuse_strip, before, strip, after, context, spatial[1:]))
        return torch.cat(fused, dim=1)

    def _gains(self, view: Tensor) -> bool:
        """Whether the pass with a backward by hand is open: on a CPU, in full precision, where gradients are wanted."""
        plain = torch.jit.is_tracing() or torch.compiler.is_compiling() or torch.is_autocast_enabled(view.device.type)
        full = view.device.type == "cpu" and view.dtype in (torch.float32, torch.float64)
        return torch.is_grad_enabled() and full and not plain and not self.use_checkpoint

    def _by_hand(self, views: Tensor, spatial: list[int], rows: int) -> Tensor:
        normalized = self.norm1(views)
        strips = normalized.split(rows * math.prod(spatial[1:]), dim=2)
        context = self._context([collected(strip, strip.flip(0)) for strip in strips])
        return fuse_by_hand(views, normalized, context, Layout(tuple(spatial), rows, self.norm2.eps), self._weights())

    def _weights(self) -> FusionWeights:
        mix = self.feed_forward
        norms = (self.attention_norm.weight, self.attention_norm.bias, self.norm2.weight, self.norm2.bias)
        inner = (mix.fc1.weight, mix.fc1.bias, mix.kernel(), mix.depthwise.bias, mix.norm.weight, mix.norm.bias)
        return FusionWeights(*norms, *inner, mix.fc2.weight, mix.fc2.bias)

    # Strips are put together where they are used, so that checkpointing keeps views of both embeddings and no copy.
    def _collect_strip(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self._tidy(first)
        with full_precision(first):
            return self._collect(self._weigh(first, second).flatten(2, 3))

    def _fuse_strip(self, before: Pair, strip: Pair, after: Pair, context: Tensor, row: list[int]) -> Tensor:
        self._tidy(strip[0])
        wide = self._weigh(*(torch.cat(parts, dim=1) for parts in zip(before, strip, after, strict=True)))
        fused = self._fuse(wide.flatten(2, 3), context, [wide.shape[2], *row])
        pixels = wide.shape[3]
        return fused.narrow(1, before[0].shape[1] * pixels, strip[0].shape[1] * pixels)
