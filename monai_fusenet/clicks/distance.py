"""Distances of pixels from the outline of a mask, and the size of the mask."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

__all__ = ["depth_of", "radius_of", "signed_distance"]


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """Distance to the outline of a mask (*spatial), in pixels: positive inside, negative outside.

    The border of the image is no outline. An empty or full mask has no outline and gets only the sign.
    """
    if mask.all() or not mask.any():
        return np.where(mask, 1.0, -1.0) * float(np.mean(mask.shape))
    return ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)


def depth_of(mask: np.ndarray) -> float:
    """Distance of the deepest pixel from the outline; here the border of the image counts as outline."""
    return float(ndimage.distance_transform_edt(np.pad(mask, 1)).max())


def radius_of(mask: np.ndarray) -> float:
    """Radius of the ball of the same size (a disc in 2-D), in pixels."""
    volume_of_unit_ball = {2: np.pi, 3: 4 / 3 * np.pi}[mask.ndim]
    return float((max(mask.sum(), 1) / volume_of_unit_ball) ** (1 / mask.ndim))
