"""The shapes that the clusters of an image offer, and their scores before any click."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from skimage.color import rgb2lab

from monai_fusenet.clicks.distance import depth_of, radius_of, signed_distance
from monai_fusenet.transforms.kmeans import is_rgb, kmeans_clusters
from monai_fusenet.transforms.morphology import Box, convex_hulls, opened_components
from monai_fusenet.utils.arrays import border_of

__all__ = ["MIN_FRACTION", "Shapes", "find_shapes"]

RING_WIDTH = 0.04  # of the mean side: how far on either side of its outline a candidate's contrast is measured
OPENINGS = (0, 0.02, 0.04, 0.08)  # of the mean side: half the widths of bridges at which components are cut
MIN_FRACTION, MAX_FRACTION = 0.002, 0.9  # share of the image that a candidate covers
MANY = 5  # parts from which on they may be objects of one kind
LEAST_PART = 0.0005  # share of the image that a part of many covers
MOST_SHAPES = 500  # candidates that are kept beside those of many parts, the best ones, for time and memory

# Shapes that clusters may not show: of thresholds between these percentiles of the values, after a blur.
PERCENTILES = (1, 99)
THRESHOLDS = 6  # at even distances, and as many that leave even shares of the image above
BLUR = 0.01  # of the mean side
PLAIN_OPENINGS = (0, 0.04)

# How much speaks for a candidate: exponents, chosen on even images of skin, chest, optic discs, nuclei, glands,
# ultrasound and polyps.
CONTRAST_WEIGHT = 2.0
COMPACTNESS_WEIGHT = 1.0
BORDER_WEIGHT = 20.0
SOLIDITY_WEIGHT = 2.0  # a hull that is mostly filled by its shape; people outline convexly, but not that much
HULL_BONUS = 1.0  # logarithm, for what people's outlines have in common
PLAIN_COST = 2.0  # logarithm, for shapes of no cluster, so that they are chosen where clusters offer nothing
LEAST_SPREAD = 1e-4  # variance that is added to that of the values, so that flat images count as finite


class Shapes(NamedTuple):
    """Candidates for the object of a click, best first.

    Attributes:
        distances: signed distances to their outlines in half pixels, (n, *grid), int8.
        scores: logarithm of the score of each, (n,).
        radii: radii of balls of the same size, in pixels, (n,).
        depths: distances of their deepest pixels from the outline, in pixels, (n,).
        hulls: whether each is a convex hull, (n,), bool.
        plain: whether each comes from 2-means or a threshold instead of a cluster, (n,), bool.
        many: whether each consists of all pixels of its values, in several separate parts, (n,), bool.
    """

    distances: np.ndarray
    scores: np.ndarray
    radii: np.ndarray
    depths: np.ndarray
    hulls: np.ndarray
    plain: np.ndarray
    many: np.ndarray

    def at(self, points: np.ndarray) -> np.ndarray:
        """Signed distances of all candidates at points (n, axes): (candidates, n)."""
        grid = self.distances.shape[1:]
        flat = self.distances.reshape(len(self.distances), int(np.prod(grid)))
        return flat[:, np.ravel_multi_index(tuple(points.T), grid)] / 2


class _Offer(NamedTuple):
    """A candidate in a box of the grid, with a margin around; how much of it its shape fills, and as in `Shapes`."""

    box: Box
    mask: np.ndarray
    solidity: float
    is_hull: bool
    is_plain: bool
    is_many: bool


def find_shapes(clusters: np.ndarray, image: np.ndarray) -> Shapes:
    """Collects the candidates, with everything about them that does not depend on clicks.

    Args:
        clusters: (*grid), integer labels, 2-D or 3-D.
        image: (C, *grid), values in [0, 1].
    """
    ring_width = max(1, round(RING_WIDTH * float(np.mean(clusters.shape))))
    border = border_of(np.ones(clusters.shape, dtype=bool))
    offers = list(_offers(clusters, image, ring_width + 1))
    depths = np.array([depth_of(offer.mask) for offer in offers])
    radii = np.array([radius_of(offer.mask) for offer in offers])
    scores = np.array([_score(offer, image[(slice(None), *offer.box)], border, ring_width) for offer in offers])
    many = np.array([offer.is_many for offer in offers], dtype=bool)
    scores += np.where(many, 0, COMPACTNESS_WEIGHT * np.log(depths / radii))
    order = np.argsort(scores)[::-1]
    order = order[many[order] | (np.cumsum(~many[order]) <= MOST_SHAPES)]
    distances = np.empty((len(order), *clusters.shape), dtype=np.int8)
    for place, index in enumerate(order):
        mask = np.zeros(clusters.shape, dtype=bool)
        mask[offers[index].box] = offers[index].mask
        distances[place] = (2 * signed_distance(mask)).round().clip(-127, 127)

    hulls, plain = (np.array([getattr(one, name) for one in offers], dtype=bool) for name in ("is_hull", "is_plain"))
    return Shapes(distances, *(values[order] for values in (scores, radii, depths, hulls, plain, many)))


def _score(offer: _Offer, image: np.ndarray, border: np.ndarray, ring_width: int) -> float:
    """What speaks for a candidate, but for its compactness, as a logarithm; `image` is that in its box."""
    contrast = CONTRAST_WEIGHT * np.log(_contrast(signed_distance(offer.mask), image, ring_width) + 1e-2)
    if offer.is_many:  # whose outlines alone say whether they are objects
        return float(contrast - PLAIN_COST * offer.is_plain)
    touching = float((border[offer.box] & offer.mask).sum() / border.sum())
    return float(
        contrast
        + BORDER_WEIGHT * np.log(1.001 - touching)
        + SOLIDITY_WEIGHT * np.log(offer.solidity)
        + HULL_BONUS * offer.is_hull
        - PLAIN_COST * offer.is_plain
    )


def _contrast(distance: np.ndarray, image: np.ndarray, ring_width: int) -> float:
    """How the colours on either side of an outline differ, in standard deviations."""
    sides = (distance > 0) & (distance <= ring_width), (distance < 0) & (distance >= -ring_width)
    inner, outer = (image[:, side] for side in sides)
    difference = np.abs(inner.mean(axis=1) - outer.mean(axis=1)).mean()
    spread = np.sqrt((inner.var(axis=1) + outer.var(axis=1)).mean() + LEAST_SPREAD)
    return difference / spread


def _offers(clusters: np.ndarray, image: np.ndarray, margin: int) -> Iterator[_Offer]:
    """All candidates, each in its box with a margin; none comes twice."""
    seen: set[tuple[str, bytes]] = set()
    side, whole = float(np.mean(clusters.shape)), tuple(slice(0, length) for length in clusters.shape)
    for level, is_plain in _all_levels(clusters, image):
        for opening in PLAIN_OPENINGS if is_plain else OPENINGS:
            components = opened_components(level, opening * side)
            sizes = np.bincount(components.ravel())
            sizes[0] = 0
            large = np.flatnonzero(sizes >= MIN_FRACTION * level.size)
            if opening == 0 and len(large) >= MANY and level.mean() <= MAX_FRACTION:
                yield _Offer(whole, (sizes >= LEAST_PART * level.size)[components], 1.0, False, is_plain, True)
            boxes = ndimage.find_objects(components)
            for component in large:
                box = tuple(
                    slice(max(0, axis.start - margin), min(length, axis.stop + margin))
                    for axis, length in zip(boxes[component - 1], level.shape, strict=True)
                )
                shape = ndimage.binary_fill_holes(components[box] == component)
                for mask, is_hull in ((shape, False), (convex_hulls(shape), True)):
                    key = (str(box), np.packbits(mask).tobytes())
                    if key not in seen and mask.sum() <= MAX_FRACTION * level.size:
                        seen.add(key)
                        yield _Offer(box, mask, float(shape.sum() / mask.sum()), is_hull, is_plain, False)


def _all_levels(clusters: np.ndarray, image: np.ndarray) -> Iterator[tuple[np.ndarray, bool]]:
    """Masks (*grid) of which the connected parts are candidates, and whether they come from no cluster.

    Where a fit has failed, values still offer something to choose.
    """
    grey = image.mean(axis=0)
    yield from ((level, False) for level in _levels(clusters, grey))
    yield from ((level, True) for level in _levels(kmeans_clusters(image, 2), grey))
    blur = BLUR * float(np.mean(grey.shape))
    blurred = np.stack([ndimage.gaussian_filter(channel, blur) for channel in image])
    values = [blurred.mean(axis=0)]
    if is_rgb(image) and np.ptp(image, axis=0).any():
        values += list(rgb2lab(blurred, channel_axis=0)[1:])
    for channel in values:
        ends = np.percentile(channel, PERCENTILES)
        shares = np.linspace(0, 1, THRESHOLDS + 2)[1:-1]
        for threshold in np.unique([*np.interp(shares, (0, 1), ends), *np.quantile(channel, shares)]):
            yield channel <= threshold, True
            yield channel > threshold, True


def _levels(clusters: np.ndarray, grey: np.ndarray) -> Iterator[np.ndarray]:
    """Masks (*grid) of each run of clusters that are neighbours in brightness."""
    found = np.unique(clusters)
    brightness = [grey[clusters == cluster].mean() for cluster in found]
    ranks = np.argsort(np.argsort(brightness))[np.searchsorted(found, clusters)]
    for first, last in combinations_with_replacement(range(len(found)), 2):
        yield (first <= ranks) & (ranks <= last)
