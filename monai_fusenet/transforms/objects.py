"""Cuts a mask into touching objects, such as nuclei or cells, by a watershed of the distance to the background."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from scipy import ndimage
from skimage.measure import label as connected_components
from skimage.morphology import local_maxima, reconstruction
from skimage.segmentation import watershed

from monai_fusenet.utils.arrays import array_of, count_labels, put_back, tensor_of
from monai_fusenet.utils.geometry import spacing_of

__all__ = ["MaskToObjectsd", "split_objects"]

NECK = 0.8  # of the width of the thinner one of two objects: where they are joined by less, they are two
SMOOTHING = 0.1  # of the typical radius; outlines are rougher than objects
FRAGMENT = 1 / 3  # of the typical width


def split_objects(mask: np.ndarray, spacing: Sequence[float] | None = None) -> np.ndarray:
    """Cuts a mask into objects at its necks.

    Two parts are two objects if the neck between them is less than 0.8 times as wide as the thinner part. Widths come
    from the distance map of the mask, smoothed by a tenth of the typical radius, or by a pixel. A watershed of the
    distance draws the cut. A fragment is less than a third as wide as is typical (a ninth of the area). It joins the
    larger neighbour with which it shares most of its border. Without a neighbour it is debris and belongs to no object.
    The typical radius and size are those where half of the mask lies in larger objects. So the result does not depend
    on the size of objects in pixels, and a shape without a neck stays whole, however long it is.

    Brightness is not used: combined with the distance, it did harm as often as it helped, because nuclei have texture.

    Args:
        mask: (*spatial), foreground above 0, 2-D or 3-D.
        spacing: sides of a pixel, in any unit; `None`: equal ones.

    Returns:
        (*spatial), int32: objects 1..n in their order along the axes, 0 elsewhere.

    Raises:
        ValueError: `spacing` does not fit the axes, or a side is not above 0.

    Source:
        S. Beucher and C. Lantuejoul, Use of watersheds in contour detection, 1979, with markers by the dynamics of
        maxima (M. Grimaud, SPIE 1769, 1992), here on the logarithm of the distance; by scikit-image.
    """
    sides = np.ones(mask.ndim) if spacing is None else np.asarray(spacing, dtype=float)
    if sides.shape != (mask.ndim,) or not (sides > 0).all():
        raise ValueError(f"spacing must have {mask.ndim} values above 0, one per axis, got {spacing}")
    inside = np.asarray(mask) > 0
    if inside.all() or not inside.any():
        return inside.astype(np.int32)
    components = connected_components(inside, connectivity=1)
    distance = ndimage.distance_transform_edt(inside, sampling=sides)
    # At least a pixel: along a thin part, the distance goes up and down with the steps of its outline.
    sigma = max(SMOOTHING * _typical_radius(distance, components), sides.min()) / sides
    # In logarithms, a share of a width is a difference.
    depth = np.where(inside, np.log(np.maximum(ndimage.gaussian_filter(distance, sigma), np.finfo(float).tiny)), 0)
    depth[~inside] = depth[inside].min() - 1
    flooded = reconstruction(depth + math.log(NECK), depth)
    markers = connected_components(local_maxima(flooded) & inside, connectivity=inside.ndim)
    return _without_fragments(watershed(-depth, markers, mask=inside))


def _typical_radius(distance: np.ndarray, components: np.ndarray) -> float:
    """Half of the mask lies in components that are at least so thick, by their greatest distance to the background."""
    sizes = np.bincount(components.ravel())[1:]
    radii = ndimage.maximum(distance, components, np.arange(1, len(sizes) + 1))
    return _typical(np.asarray(radii), sizes)


def _typical(values: np.ndarray, sizes: np.ndarray) -> float:
    """The median of the values of objects, of which each counts by its size: specks hardly count."""
    order = np.argsort(values)
    places = np.cumsum(sizes[order])
    return float(values[order][np.searchsorted(places, places[-1] / 2)])


def _without_fragments(objects: np.ndarray) -> np.ndarray:
    """Objects (*spatial) of which each fragment has joined a larger neighbour, or is gone; numbered without a gap."""
    sizes = np.bincount(objects.ravel())
    sizes[0] = 0
    least = FRAGMENT**objects.ndim * _typical(sizes[1:], sizes[1:])
    rank = np.argsort(np.argsort(sizes, kind="stable"), kind="stable")  # orders equal sizes, too
    joins = np.arange(len(sizes))
    borders = _borders(objects)
    fragments = [label for label in np.argsort(sizes, kind="stable") if 0 < sizes[label] < least]
    for label in fragments:
        larger = {other: length for other, length in borders.get(label, {}).items() if rank[other] > rank[label]}
        if larger:
            joins[label] = max(larger, key=lambda other: (larger[other], other))
    for label in reversed(fragments):  # the larger ones first, so that a fragment of a fragment follows it
        joins[label] = joins[joins[label]]
    whole = np.bincount(joins, weights=sizes)
    joins[whole[joins] < least] = 0
    position = count_labels(np.append(joins[objects].ravel(), 0)).position[:-1]  # 0 is 0, where nothing is background
    return position.reshape(objects.shape).astype(np.int32)


def _borders(objects: np.ndarray) -> dict[int, dict[int, int]]:
    """How many faces each object shares with each of its neighbours."""
    pairs = []
    for axis in range(objects.ndim):
        along = np.moveaxis(objects, axis, 0)
        faces = np.stack([along[:-1].ravel(), along[1:].ravel()], axis=1)
        pairs.append(faces[(faces[:, 0] != faces[:, 1]) & (faces > 0).all(axis=1)])
    met, lengths = np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0, return_counts=True)
    borders: dict[int, dict[int, int]] = {}
    for (one, other), length in zip(met.tolist(), lengths.tolist(), strict=True):
        borders.setdefault(one, {})[other] = length
        borders.setdefault(other, {})[one] = length
    return borders


class MaskToObjectsd(MapTransform):
    """Puts the objects of a mask beside it, see `split_objects`; it uses the millimetres of an image with a geometry.

    Args:
        keys: key of the mask (1, *spatial), foreground above 0, with the `meta` of the image if it has any.
        objects_key: where the objects go: (1, *spatial), int32, 1..n and 0 for background, with the `meta` of the mask.
        allow_missing_keys: whether samples may lack the mask.
    """

    def __init__(
        self, keys: KeysCollection = "pred", objects_key: str = "objects", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.objects_key = objects_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns the sample with its objects."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            mask = tensor_of(sample[key])
            objects = torch.from_numpy(split_objects(array_of(mask)[0], spacing_of(mask))).unsqueeze(0)
            sample[self.objects_key] = put_back(objects, mask)
        return sample
