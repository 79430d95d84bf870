"""The outline of a chosen foreground: finished by a rule, and drawn on a larger grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from skimage.segmentation import morphological_chan_vese

from monai_fusenet.transforms.foreground.rule import Rule
from monai_fusenet.transforms.morphology import convex_hulls, within_distance
from monai_fusenet.utils.arrays import resize_linear, resize_nearest

__all__ = ["finish", "redraw"]


def finish(mask: np.ndarray, grey: np.ndarray, rule: Rule) -> np.ndarray:
    """The chosen mask (*spatial) after the refinement, hulls and growth of a rule."""
    if rule.refinement > 0 and mask.any() and min(mask.shape) > 1:  # a side of one pixel has no gradient
        steps = round(rule.refinement * float(np.mean(mask.shape)))
        start = mask.astype(np.int8)
        mask = morphological_chan_vese(grey, steps, init_level_set=start, smoothing=0) > 0
    if rule.convex:
        mask = convex_hulls(mask)
    if rule.growth > 0 and mask.any():
        mask = within_distance(mask, rule.growth * float(np.mean(mask.shape)))
    return mask


def redraw(
    small: np.ndarray, small_clusters: np.ndarray | None, clusters: np.ndarray, image: np.ndarray, rule: Rule
) -> np.ndarray:
    """Draws a finished mask on the grid of the image, with the kind of contour that the rule asks for.

    Args:
        small: the mask on a smaller grid, bool.
        small_clusters: the clusters on that grid; `None` if the mask is also made from other clusters.
        clusters: (*spatial), integer labels.
        image: (C, *spatial).
        rule: the rule that finished the mask.

    Returns:
        (*spatial), bool.
    """
    if rule.convex or rule.growth > 0:
        return _enlarged(small, clusters.shape)
    if rule.refinement > 0:
        return _redrawn_by_grey(small, image.mean(axis=0))
    if small_clusters is None:
        return _enlarged(small, clusters.shape)
    return _redrawn_by_clusters(small, small_clusters, clusters)


def _enlarged(small: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """A mask on a larger grid, with a smooth contour."""
    return resize_linear(small[None].astype(np.float32), shape)[0] > 0.5


def _redrawn_by_grey(small: np.ndarray, grey: np.ndarray) -> np.ndarray:
    """A mask on the grid of the image: on its contour, what is nearer to its mean grey value than to the rest's."""
    mask = resize_nearest(small, grey.shape)
    if mask.all() or not mask.any():
        return mask
    surely, perhaps = _band(small, grey.shape)
    inside, outside = grey[mask].mean(), grey[~mask].mean()
    return surely | (perhaps & (abs(grey - inside) < abs(grey - outside)))


def _redrawn_by_clusters(small: np.ndarray, small_clusters: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """A mask on the grid of the clusters: on its contour, what is of the clusters that lie along it on the inside."""
    surely, perhaps = _band(small, clusters.shape)
    return surely | (perhaps & np.isin(clusters, np.unique(small_clusters[_rim(small)])))


def _band(small: np.ndarray, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """On a larger grid: what surely belongs to a mask, and what may."""
    return resize_nearest(small & ~_rim(small), shape), resize_nearest(small | _rim(~small), shape)


def _rim(mask: np.ndarray) -> np.ndarray:
    """Pixels of a mask with a face neighbour outside; the image border is no outside."""
    return mask & ndimage.binary_dilation(~mask)
