"""Masks as shapes: their connected parts, cuts at thin bridges, and convex hulls."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import ndimage
from skimage.measure import label as connected_components
from skimage.morphology import convex_hull_image

__all__ = ["Box", "convex_hulls", "opened_components", "parts"]

Box = tuple[slice, ...]


def parts(components: np.ndarray, least: float) -> Iterator[tuple[Box, np.ndarray]]:
    """Each label from 1 on that has at least so many pixels: its bounding box, and where it is therein."""
    sizes = np.bincount(components.ravel())
    for label, box in enumerate(ndimage.find_objects(components), start=1):
        if box is not None and sizes[label] >= least:
            yield box, components[box] == label


def opened_components(mask: np.ndarray, radius: float) -> np.ndarray:
    """Connected components of a mask, cut where they are thinner than two radii, from 1 on; 0: what is thin."""
    if radius == 0:
        return connected_components(mask, connectivity=1)
    cores = connected_components(ndimage.distance_transform_edt(mask) > radius, connectivity=1)
    if not cores.any():
        return cores
    distance, nearest = ndimage.distance_transform_edt(cores == 0, return_indices=True)
    return np.where(mask & (distance <= radius + 1), cores[tuple(nearest)], 0)


def convex_hulls(mask: np.ndarray) -> np.ndarray:
    """The convex hulls of the connected parts of a mask."""
    filled = mask.copy()
    for box, inside in parts(connected_components(mask, connectivity=1), 1):
        filled[box] |= convex_hull_image(inside) if min(inside.shape) > 1 else inside
    return filled
