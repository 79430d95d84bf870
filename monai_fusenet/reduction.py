"""Large arrays on a smaller grid, where all of their pixels would only cost time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

__all__ = ["reduced_shape", "resize_area", "resize_nearest"]


def reduced_shape(shape: Sequence[int], pixels: int) -> tuple[int, ...]:
    """The shape of about the same proportions that has about so many pixels; the shape itself where it has fewer."""
    ratio = (pixels / float(np.prod(shape))) ** (1 / len(shape))
    return tuple(shape) if ratio >= 1 else tuple(max(1, round(side * ratio)) for side in shape)


def resize_area(channels: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Floats (C, *spatial) on a smaller grid (C, *shape): the mean of the pixels that fall into each new one."""
    if channels.shape[1:] == tuple(shape):
        return channels
    return F.interpolate(torch.as_tensor(channels).unsqueeze(0), size=tuple(shape), mode="area")[0].numpy()


def resize_nearest(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Any values (*spatial) on another grid (*shape): those of the nearest pixel."""
    chosen = (
        np.minimum(((np.arange(new) + 0.5) * old / new).astype(np.intp), old - 1)
        for new, old in zip(shape, array.shape, strict=True)
    )
    return array if array.shape == tuple(shape) else array[np.ix_(*chosen)]
