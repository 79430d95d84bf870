"""Checks of single values, each with one line that says what was expected and what came."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

__all__ = [
    "check_network",
    "check_number",
    "check_scores",
    "check_sides",
    "check_switch",
    "check_whole",
    "warn_unscaled",
]


def check_whole(name: str, value: Any, least: int) -> None:
    """Raises `ValueError` unless `value` is an integer (no bool) of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value}")


def check_number(name: str, value: Any, least: float = -math.inf, most: float = math.inf) -> None:
    """Raises `ValueError` unless `value` is a finite number (no bool) from `least` to `most`."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and math.isfinite(value) and least <= value <= most):
        above = "" if math.isinf(least) else f" of at least {least:g}"
        bounds = above if math.isinf(most) else f" from {least:g} to {most:g}"
        raise ValueError(f"{name} must be a finite number{bounds}, got {value}")


def check_switch(name: str, value: Any) -> None:
    """Raises `ValueError` unless `value` is `True` or `False`."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value}")


def check_network(spatial_dims: int, **counts: int) -> None:
    """Raises `ValueError` unless a network is of 2 or 3 axes, and each of the counts a whole number of at least 1."""
    if spatial_dims not in (2, 3):
        raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}")
    for name, count in counts.items():
        check_whole(name, count, 1)


def check_scores(scores: Any, spatial_dims: Sequence[int] = (2, 3)) -> None:
    """Raises `ValueError` unless scores are a tensor (B, K, *spatial) with one of these numbers of spatial axes."""
    axes = f"in {' or '.join(f'{dims}-D' for dims in spatial_dims)}"
    shape = getattr(scores, "shape", None)
    if shape is None:
        raise ValueError(
            f"scores must be a tensor (B, K, *spatial) {axes}, got a {type(scores).__name__}; "
            "with deep supervision, call the loss on one head"
        )
    if len(shape) - 2 not in spatial_dims:
        raise ValueError(f"scores must have the shape (B, K, *spatial) {axes}, got {tuple(shape)}")


def warn_unscaled(image: Any) -> None:
    """Warns where values of an image, an array or a tensor, lie far outside [0, 1]; a filter may overshoot a little."""
    low, high = float(image.min()), float(image.max())
    if low < -0.5 or high > 1.5:
        warnings.warn(
            f"an image must have values in [0, 1], got {low:g} to {high:g}: scale it, for example by MONAI's "
            "ScaleIntensity or by ScaleByPercentilesd of monai_fusenet.data",
            stacklevel=3,
        )


def check_sides(name: str, size: int | Sequence[int], spatial_dims: int) -> list[int]:
    """A size as one side for each axis; a single number stands for all of them.

    Raises:
        ValueError: unless it is a whole number of at least 1, or one for each axis.
    """
    sides = [size] * spatial_dims if isinstance(size, int | float) else list(size)
    if len(sides) != spatial_dims or not all(map(_is_side, sides)):
        raise ValueError(
            f"{name} must be a whole number of at least 1, or {spatial_dims} of them, one for each axis, got {size}"
        )
    return [int(side) for side in sides]


def _is_side(side: Any) -> bool:
    is_number = hasattr(side, "__index__") or isinstance(side, float)  # numpy's and torch's whole numbers are some
    return is_number and not isinstance(side, bool) and math.isfinite(side) and side == int(side) >= 1
