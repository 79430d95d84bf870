"""Views between maps (B, C, *spatial) and tokens (B, N, C); both are free while maps are kept channels-last."""

from __future__ import annotations

from torch import Tensor

__all__ = ["channels_last", "row_strips", "to_map", "to_tokens"]


def channels_last(image: Tensor) -> Tensor:
    """The same values with the channels of a pixel side by side in memory; (B, C, *spatial), 2-D or 3-D."""
    # Not contiguous(memory_format=...), which torch.vmap does not know.
    return image.movedim(1, -1).contiguous().movedim(-1, 1)


def to_tokens(features: Tensor) -> Tensor:
    """Pixels as tokens: (B, C, *spatial) -> (B, N, C)."""
    return features.flatten(2).transpose(1, 2)


def to_map(tokens: Tensor, spatial: list[int]) -> Tensor:
    """Tokens back on their grid: (B, N, C) -> (B, C, *spatial)."""
    return tokens.unflatten(1, spatial).movedim(-1, 1)


def row_strips(features: Tensor, rows: int) -> tuple[Tensor, ...]:
    """Views of a map (B, C, *spatial) in strips of rows (slices in a volume): (B, rows, pixels of a row, C)."""
    return to_tokens(features).unflatten(1, [features.shape[2], -1]).split(rows, dim=1)
