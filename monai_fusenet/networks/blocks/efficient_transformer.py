"""A transformer block for whole images: attention that is linear in the pixels, and a mix with the neighbours."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_fusenet.networks.blocks.anew import Checkpointing, anew
from monai_fusenet.networks.blocks.attention import collected, context_of, efficient_attention
from monai_fusenet.networks.blocks.fusion import MixFeedForward
from monai_fusenet.networks.blocks.layout import row_strips, to_map, to_tokens
from monai_fusenet.utils.precision import at_least_float32, full_precision
from monai_fusenet.utils.strips import CPU_VALUES, rows_at_once

__all__ = ["EfficientTransformerBlock"]

WIDTH = 4  # of the feed-forward, in widths of a token


class EfficientTransformerBlock(Checkpointing):
    """Efficient attention over all pixels, then a feed-forward that mixes neighbours; each is added to its input.

    t + W_r A(K, Q, V) with keys, queries and values from LN1(t); then t + MixFeedForward(LN2(t)). One head.
    Differs from the published code, which evaluates the feed-forward's first map twice, and computes values and
    reprojection for each pixel. Both are linear, and the weights over pixels and over features sum to 1. So here they
    are applied to the small context, with the same result.

    Args:
        spatial_dims: 2 or 3.
        features: channels in and out.
        use_checkpoint: keep only the input for the backward pass, and compute the rest again there.

    Shape:
        (B, features, *spatial) -> (B, features, *spatial), and the context of the attention (B, features, features):
        row i holds the mean value over the pixels, weighted by feature i of the keys

    Reference:
        Karimijafarbigloo et al. 2023, "MS-Former: Multi-Scale Self-Guided Transformer for Medical Image Segmentation",
        PMLR 227:680-694; attention after Shen et al. 2021, arXiv 1812.01243.
    """

    def __init__(self, spatial_dims: int, features: int = 100, use_checkpoint: bool = False) -> None:
        super().__init__(use_checkpoint)
        self.norm1 = nn.LayerNorm(features)
        self.keys = nn.Linear(features, features)
        self.queries = nn.Linear(features, features)
        self.values = nn.Linear(features, features)
        self.reprojection = nn.Linear(features, features)
        self.norm2 = nn.LayerNorm(features)
        self.feed_forward = MixFeedForward(spatial_dims, features, WIDTH * features)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mixes each pixel with the whole image and with its neighbours."""
        spatial = list(features.shape[2:])
        if torch.jit.is_scripting():
            tokens = to_tokens(features)
            normalized = self.norm1(tokens)
            attended, context = efficient_attention(
                self.keys(normalized), self.queries(normalized), self.values(normalized)
            )
            tokens = tokens + self.reprojection(attended)
            return to_map(tokens + self.feed_forward(self.norm2(tokens), spatial), spatial), context
        rows = rows_at_once(features, axis=2, cpu_values=3 * CPU_VALUES)
        strips = row_strips(features, rows)
        context = self._context([self._run(self._collect, strip) for strip in strips])
        # The queries of a pixel sum to 1: what follows them can be applied to this small matrix, bias included.
        answers = self.reprojection(context)
        none = strips[0][:, :0]
        mixed = []
        for index, strip in enumerate(strips):
            before = strips[index - 1][:, -1:] if index > 0 else none
            after = strips[index + 1][:, :1] if index + 1 < len(strips) else none
            mixed.append(self._run(self._mix, before, strip, after, answers, spatial[1:]))
        return to_map(torch.cat(mixed, dim=1), spatial), context

    def _context(self, parts: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        """Values of all pixels: as the weights of a row sum to 1, the map to values follows them, bias included."""
        collected_inputs = context_of(parts).to(self.values.weight.dtype)
        with full_precision(collected_inputs):
            return self.values(collected_inputs)

    def _collect(self, strip: Tensor) -> tuple[Tensor, ...]:
        """What the keys of some rows (B, rows, pixels, d) collect of the normalised tokens."""
        self._tidy(strip)
        return self._spare(_collected, strip.flatten(1, 2), *_weights(self.norm1), *_weights(self.keys))

    def _mix(self, before: Tensor, strip: Tensor, after: Tensor, answers: Tensor, row: list[int]) -> Tensor:
        """Some rows (B, rows, pixels, d), with a row of their neighbours at either side, as tokens (B, N, d)."""
        self._tidy(strip)
        weights = (*_weights(self.norm1), *_weights(self.queries), *_weights(self.norm2))
        tokens, normalized = self._spare(_attended, before, strip, after, answers, *weights)
        hidden = self.feed_forward.fc1(normalized)
        missing = [strip.shape[2] * (1 - rows.shape[1]) for rows in (before, after)]
        if max(missing) > 0:  # the image ends here, and beyond it there are zeros
            hidden = F.pad(hidden, [0, 0, *missing])
        return tokens + self.feed_forward.inner_rows(hidden, [strip.shape[1] + 2, *row], not self.use_checkpoint)

    def _spare(self, function: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> tuple[Tensor, ...]:
        return function(*inputs) if self.use_checkpoint else anew(function, *inputs)


def _weights(module: nn.Module) -> tuple[Tensor, Tensor]:
    return module.weight, module.bias  # type: ignore[return-value]


def _collected(tokens: Tensor, gain: Tensor, shift: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    normalized = F.layer_norm(tokens, gain.shape, gain, shift)
    keys = at_least_float32(F.linear(normalized, weight, bias))
    with full_precision(keys):
        return collected(keys, at_least_float32(normalized))


def _attended(before: Tensor, strip: Tensor, after: Tensor, answers: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
    """Tokens of a strip with what attention adds to them, and those of its neighbours, too, after the second norm."""
    gain, shift, weight, bias, gain2, shift2 = weights
    tokens = torch.cat([before, strip, after], dim=1).flatten(1, 2)
    queries = F.linear(F.layer_norm(tokens, gain.shape, gain, shift), weight, bias).softmax(dim=-1)
    tokens = tokens + queries @ answers.to(queries.dtype)
    inner = tokens.narrow(1, before.shape[1] * strip.shape[2], strip.shape[1] * strip.shape[2])
    return inner, F.layer_norm(tokens, gain2.shape, gain2, shift2)
