"""The shapes that the clusters of an image offer, and what speaks for each before any click."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from monai_fusenet.clicks.distance import depth_of, radius_of, signed_distance
from monai_fusenet.transforms.foreground.morphology import border_of, convex_hulls, opened_components
from monai_fusenet.transforms.kmeans import kmeans_clusters

__all__ = ["MIN_FRACTION", "Shapes", "find_shapes"]

RING_WIDTH = 0.04  # of the mean side: how far on either side of its outline a candidate's contrast is measured
OPENINGS = (0, 0.02, 0.04, 0.08)  # of the mean side: half the widths of bridges at which components are cut
MIN_FRACTION, MAX_FRACTION = 0.002, 0.9  # share of the image that a candidate covers
MOST_SHAPES = 400  # candidates that are kept, the most contrasted ones, for time and memory

# How much speaks for a candidate: exponents, chosen on the even images of dermoscopy and of drawn ones
# (`python -m benchmarks.clicks`).
CONTRAST_WEIGHT = 1.0
COMPACTNESS_WEIGHT = 3.0
BORDER_WEIGHT = 4.0
SOLIDITY_WEIGHT = 2.0  # a hull that is mostly filled by its shape; people outline convexly, but not that much
HULL_BONUS = 0.5  # logarithm, for what people's outlines have in common
PLAIN_COST = 2.0  # logarithm, for shapes of 2-means, so that they are chosen where clusters offer nothing
LEAST_SPREAD = 1e-4  # variance that is added to that of the values, so that flat images count as finite


class Shapes(NamedTuple):
    """Candidates for what a click asks for, best first.

    Attributes:
        distances: signed distances to their outlines in half pixels, (n, *grid), int8.
        scores: what speaks for each, as a logarithm, (n,).
        radii: those of balls of the same size, in pixels, (n,).
        depths: distances of their deepest pixels from the outline, in pixels, (n,).
        hulls: whether each is a convex hull, (n,), bool.
        plain: whether each comes from 2-means alone, (n,), bool.
    """

    distances: np.ndarray
    scores: np.ndarray
    radii: np.ndarray
    depths: np.ndarray
    hulls: np.ndarray
    plain: np.ndarray

    def at(self, points: np.ndarray) -> np.ndarray:
        """Signed distances of all candidates at points (n, axes): (candidates, n)."""
        grid = self.distances.shape[1:]
        flat = self.distances.reshape(len(self.distances), int(np.prod(grid)))
        return flat[:, np.ravel_multi_index(tuple(points.T), grid)] / 2


class _Offer(NamedTuple):
    """A candidate (*grid), bool; whether it is a hull, how much of it its shape fills, and whether it is of 2-means."""

    mask: np.ndarray
    is_hull: bool
    solidity: float
    is_plain: bool


def find_shapes(clusters: np.ndarray, image: np.ndarray) -> Shapes:
    """Collects the candidates and all about them that does not depend on clicks.

    Args:
        clusters: (*grid), integer labels, 2-D or 3-D.
        image: (C, *grid), values in [0, 1].
    """
    ring_width = max(1, round(RING_WIDTH * float(np.mean(clusters.shape))))
    border = border_of(clusters.shape)
    distances, scores, radii, depths, hulls, plain = [], [], [], [], [], []
    for offer in _offers(clusters, image):
        distance = signed_distance(offer.mask)
        radius, depth = radius_of(offer.mask), depth_of(offer.mask)
        touching = float((border & offer.mask).sum() / border.sum())
        scores.append(
            CONTRAST_WEIGHT * np.log(_contrast(distance, image, ring_width) + 1e-2)
            + COMPACTNESS_WEIGHT * np.log(depth / radius)
            + BORDER_WEIGHT * np.log(1.001 - touching)
            + SOLIDITY_WEIGHT * np.log(offer.solidity)
            + HULL_BONUS * offer.is_hull
            - PLAIN_COST * offer.is_plain
        )
        distances.append((2 * distance).round().clip(-127, 127).astype(np.int8))
        radii.append(radius)
        depths.append(depth)
        hulls.append(offer.is_hull)
        plain.append(offer.is_plain)
    order = np.argsort(scores)[::-1][:MOST_SHAPES]
    return Shapes(
        distances=np.array(distances, dtype=np.int8).reshape(-1, *clusters.shape)[order],
        scores=np.array(scores)[order],
        radii=np.array(radii)[order],
        depths=np.array(depths)[order],
        hulls=np.array(hulls, dtype=bool)[order],
        plain=np.array(plain, dtype=bool)[order],
    )


def _contrast(distance: np.ndarray, image: np.ndarray, ring_width: int) -> float:
    """How the colours on either side of an outline differ, in standard deviations."""
    sides = (distance > 0) & (distance <= ring_width), (distance < 0) & (distance >= -ring_width)
    inner, outer = (image[:, side] for side in sides)
    difference = np.abs(inner.mean(axis=1) - outer.mean(axis=1)).mean()
    spread = np.sqrt((inner.var(axis=1) + outer.var(axis=1)).mean() + LEAST_SPREAD)
    return difference / spread


def _offers(clusters: np.ndarray, image: np.ndarray) -> Iterator[_Offer]:
    """All candidates; none comes twice."""
    seen: set[bytes] = set()
    grey, side = image.mean(axis=0), float(np.mean(clusters.shape))
    levels = [(level, False) for level in _levels(clusters, grey)]
    # Where a fit has failed, 2-means of the values still offers something to choose.
    levels += [(level, True) for level in _levels(kmeans_clusters(image, 2), grey)]
    for level, is_plain in levels:
        for opening in OPENINGS:
            components = opened_components(level, opening * side)
            sizes = np.bincount(components.ravel())
            for component in np.flatnonzero(sizes >= MIN_FRACTION * level.size):
                if component == 0:
                    continue
                shape = ndimage.binary_fill_holes(components == component)
                for mask, is_hull in ((shape, False), (convex_hulls(shape), True)):
                    key = np.packbits(mask).tobytes()
                    if key not in seen and mask.mean() <= MAX_FRACTION:
                        seen.add(key)
                        yield _Offer(mask, is_hull, float(shape.sum() / mask.sum()), is_plain)


def _levels(clusters: np.ndarray, grey: np.ndarray) -> Iterator[np.ndarray]:
    """Masks (*grid) of each run of clusters that are neighbours in brightness."""
    found = np.unique(clusters)
    brightness = [grey[clusters == cluster].mean() for cluster in found]
    ranks = np.argsort(np.argsort(brightness))[np.searchsorted(found, clusters)]
    for first, last in combinations_with_replacement(range(len(found)), 2):
        yield (first <= ranks) & (ranks <= last)
