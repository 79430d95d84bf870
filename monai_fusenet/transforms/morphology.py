"""Shape operations on masks: distances, connected parts, holes, cuts at thin bridges, and convex hulls."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
from scipy import ndimage
from skimage.measure import label as connected_components
from skimage.morphology import convex_hull_image

__all__ = ["Box", "convex_hull", "convex_hulls", "fill_holes", "opened_components", "parts", "within_distance"]

Box = tuple[slice, ...]


def within_distance(mask: np.ndarray, radius: float) -> np.ndarray:
    """The pixels at most `radius` pixels away from a mask (*spatial), bool.

    For a mask that is not empty, this is `ndimage.distance_transform_edt(~mask) <= radius`, in less time if the radius
    is small compared with the image. For an empty mask, no pixel is near.
    """
    far = len(mask) + math.ceil(radius) + 1
    places = np.arange(len(mask), dtype=np.int16 if far < 2**14 else np.int32).reshape(-1, *[1] * (mask.ndim - 1))
    before = np.maximum.accumulate(np.where(mask, places, -far), axis=0)
    after = np.minimum.accumulate(np.where(mask, places, len(mask) + far)[::-1], axis=0)[::-1]
    distance = np.minimum(places - before, after - places)  # along the first axis
    near = np.zeros(mask.shape, dtype=bool)
    most = math.floor(radius**2 + 1e-9)  # squares of distances are whole numbers
    sides = mask.shape[1:]
    reach = [min(math.isqrt(most), side - 1) for side in sides]
    for shift in itertools.product(*(range(-steps, steps + 1) for steps in reach)):
        left = most - sum(step**2 for step in shift)
        if left >= 0:
            here = tuple(slice(max(0, -step), side - max(0, step)) for step, side in zip(shift, sides, strict=True))
            there = tuple(slice(max(0, step), side - max(0, -step)) for step, side in zip(shift, sides, strict=True))
            near[(slice(None), *here)] |= distance[(slice(None), *there)] <= math.isqrt(left)
    return near


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """A mask (*spatial) with its holes filled; from a hole, no path along faces leads out of the image."""
    around = ndimage.label(np.pad(~mask, 1, constant_values=True))[0]  # half the time of ndimage.binary_fill_holes
    return around[(slice(1, -1),) * mask.ndim] != around.flat[0]


def parts(components: np.ndarray, least: float) -> Iterator[tuple[Box, np.ndarray]]:
    """Yields bounding box and mask in it of each label from 1 on with at least `least` pixels."""
    sizes = np.bincount(components.ravel())
    for label, box in enumerate(ndimage.find_objects(components), start=1):
        if box is not None and sizes[label] >= least:
            yield box, components[box] == label


def opened_components(mask: np.ndarray, radius: float) -> np.ndarray:
    """Connected components of a mask, cut where they are thinner than two radii, from 1 on; thin places are 0."""
    if radius == 0:
        return connected_components(mask, connectivity=1)
    cores, count = connected_components(mask & ~within_distance(~mask, radius), connectivity=1, return_num=True)
    if count == 0:
        return cores
    reached = mask & within_distance(cores > 0, radius + 1)
    if count == 1:
        return reached.astype(cores.dtype)
    nearest = ndimage.distance_transform_edt(cores == 0, return_distances=False, return_indices=True)
    components = np.zeros_like(cores)
    components[reached] = cores[tuple(places[reached] for places in nearest)]
    return components


def convex_hull(mask: np.ndarray, of_centres: bool = False) -> np.ndarray:
    """The pixels whose centres lie in the convex hull of a mask (*spatial), bool.

    The same as scikit-image's `convex_hull_image`, but faster for pictures: that function tests for each pixel whether
    it lies in a polygon. Here the two sides of the hull give begin and end of each row.

    Args:
        mask: bool, at least one pixel; volumes go to scikit-image.
        of_centres: use the hull of the pixels' centres, not of the middles of their sides (`offset_coordinates=False`).
    """
    if mask.ndim != 2:
        return convex_hull_image(mask, offset_coordinates=not of_centres)
    width = mask.shape[1]
    rows = np.flatnonzero(mask.any(axis=1))
    ends = np.stack([mask[rows].argmax(axis=1), mask[rows, ::-1].argmax(axis=1)]).astype(float)
    places = rows.astype(float)
    if not of_centres:
        places = np.concatenate([places, places - 0.5, places + 0.5])
        ends = np.concatenate([ends - 0.5, ends, ends], axis=1)
    order = np.argsort(places, kind="stable")
    inner = np.arange(rows[0], rows[-1] + 1)
    first, last = (np.interp(inner, *_lower_side(places[order], end[order])) for end in ends)
    columns = np.arange(width)
    hull = np.zeros(mask.shape, dtype=bool)
    hull[inner] = (columns >= first[:, None] - 1e-9) & (width - 1 - columns >= last[:, None] - 1e-9)
    return hull


def _lower_side(places: np.ndarray, values: np.ndarray) -> tuple[list[float], list[float]]:
    """The corners of the convex hull of points, by ascending place, from below: their places and values."""
    corners: list[tuple[float, float]] = []
    for place, value in zip(places.tolist(), values.tolist(), strict=True):
        if corners and corners[-1][0] == place:
            if corners[-1][1] <= value:
                continue
            corners.pop()
        while len(corners) > 1:
            (first, at_first), (second, at_second) = corners[-2:]
            if (at_second - at_first) * (place - first) < (value - at_first) * (second - first):
                break
            corners.pop()
        corners.append((place, value))
    return [place for place, _ in corners], [value for _, value in corners]


def convex_hulls(mask: np.ndarray) -> np.ndarray:
    """The convex hulls of the connected parts of a mask."""
    filled = mask.copy()
    for box, inside in parts(connected_components(mask, connectivity=1), 1):
        filled[box] |= convex_hull(inside) if min(inside.shape) > 1 else inside
    return filled
