"""The sizes at which an image is fitted, one after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["check_resolutions", "sizes_to_fit"]


def check_resolutions(resolutions: Sequence[int] | Sequence[float] | None) -> None:
    """Raises `ValueError` unless these are resolutions that `sizes_to_fit` accepts."""
    if resolutions is None:
        return
    sides = list(resolutions) if isinstance(resolutions, Sequence) else []
    whole = all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in sides)
    parts = all(isinstance(side, float) and 0 < side <= 1 for side in sides)
    if not (sides and (whole or parts) and sides == sorted(sides)):
        raise ValueError(
            f"resolutions must be None or ascending whole numbers above 0, or parts up to 1.0, got {resolutions}"
        )


def sizes_to_fit(
    resolutions: Sequence[int] | Sequence[float] | None, spatial: Sequence[int], most: float = math.inf
) -> list[list[int]]:
    """The spatial sizes of an image for these resolutions; each size once.

    Args:
        resolutions: lengths of the shortest side in pixels, limited to the image's own, or, as floats in (0, 1],
            fractions of the image's size; `None`: the image as it is.
        spatial: spatial size of the image.
        most: upper limit for the length of the shortest side.

    Example:
        >>> sizes_to_fit([12, 100], [24, 36])
        [[12, 18], [24, 36]]
        >>> sizes_to_fit([0.5, 1.0], [24, 36], most=16)
        [[12, 18], [16, 24]]
    """
    sizes: list[list[int]] = []
    for resolution in resolutions or [min(spatial)]:
        scale = resolution if isinstance(resolution, float) else min(1.0, resolution / min(spatial))
        scale = min(scale, most / min(spatial))
        size = [max(1, round(side * scale)) for side in spatial]
        if size not in sizes:  # once the image's own size is reached
            sizes.append(size)
    return sizes
