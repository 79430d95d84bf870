"""How a label map that knows nothing of the truth agrees with it.

All functions take the label map ``clusters`` (integers, any values) and the truth ``label`` (foreground above 0) as
arrays, or tensors, of one shape with any number of axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.ndimage import distance_transform_edt
from skimage import metrics as skimage_metrics
from skimage.segmentation import find_boundaries
from sklearn.metrics import adjusted_rand_score

from monai_fusenet.utils.arrays import array_of, count_labels


class ClusterOverlap(NamedTuple):
    """How much of each cluster lies inside the truth."""

    labels: np.ndarray
    """The labels that occur, ascending."""
    position: np.ndarray
    """For every pixel the position of its label in ``labels``; the shape of the label map."""
    sizes: np.ndarray
    """Pixels of each cluster."""
    inside: np.ndarray
    """Pixels of each cluster inside the truth."""


def cluster_overlap(clusters: np.ndarray, label: np.ndarray) -> ClusterOverlap:
    """Counts for every cluster its pixels and those inside the truth.

    Args:
        clusters: integer label map.
        label: truth, foreground above 0.

    Raises:
        ValueError: the shapes differ, or the label map does not hold integers.
    """
    clusters, label = array_of(clusters), array_of(label)
    if clusters.shape != label.shape:
        raise ValueError(f"clusters and label must have the same shape, got {clusters.shape} and {label.shape}")
    if clusters.dtype.kind not in "biu":
        raise ValueError(f"clusters must hold integer labels, got {clusters.dtype}")
    labels, position, sizes = count_labels(clusters)
    inside = np.bincount(position[label > 0], minlength=len(labels))
    return ClusterOverlap(labels, position, sizes, inside)


def adjusted_rand_index(clusters: np.ndarray, label: np.ndarray) -> float:
    """Adjusted Rand index of the label map and the truth as two partitions of the pixels.

    The share of pixel pairs on which both agree (together or apart), rescaled so that chance gives 0 and equality 1;
    negative when worse than chance, at least -0.5. A single cluster scores 0 against a truth of two parts, and 1
    against a truth of one.

    Args:
        clusters: integer label map.
        label: truth, foreground above 0.

    Raises:
        ValueError: the shapes differ, or the label map does not hold integers.

    Source:
        L. Hubert, P. Arabie, Comparing partitions, Journal of Classification 2, 1985; computed by scikit-learn.
    """
    position = cluster_overlap(clusters, label).position
    if position.max() < 2**16:
        position = position.astype(np.uint16)  # sorted ten times as fast
    return float(adjusted_rand_score((array_of(label) > 0).astype(np.uint8).ravel(), position.ravel()))


def variation_of_information(clusters: np.ndarray, label: np.ndarray) -> float:
    """Variation of information between the label map and the truth, in bits.

    VI = H(clusters | label) + H(label | clusters), from 0 (equal partitions) up to log2 of the number of pixels. The
    first part grows when objects are cut up, the second when clusters straddle the truth's boundary.

    Args:
        clusters: integer label map.
        label: truth, foreground above 0.

    Raises:
        ValueError: the shapes differ, or the label map does not hold integers.

    Source:
        M. Meila, Comparing clusterings: an information based distance, Journal of Multivariate Analysis 98, 2007;
        computed by scikit-image.
    """
    position = cluster_overlap(clusters, label).position
    parts = skimage_metrics.variation_of_information((array_of(label) > 0).astype(np.intp), position)
    return max(0.0, float(sum(parts)))  # rounding may leave a little less than nothing


def boundary_f_score(
    clusters: np.ndarray, label: np.ndarray, tolerance: float = 2.0, spacing: Sequence[float] | None = None
) -> float:
    """F score of the boundaries between clusters against the truth's boundary.

    F = 2 P R / (P + R), in [0, 1], with P the share of boundary pixels of the clusters at most ``tolerance`` from the
    truth's boundary and R the share of the truth's boundary pixels at most ``tolerance`` from a boundary of the
    clusters. Boundary pixels are those with a face neighbour of another label, on both sides; the image border is no
    boundary. No boundary in either counts 1, in only one of them 0.

    Args:
        clusters: integer label map.
        label: truth, foreground above 0.
        tolerance: largest distance that still counts as a hit, in units of ``spacing``.
        spacing: pixel size per axis, for example in mm; None for pixels.

    Raises:
        ValueError: the shapes differ, the label map does not hold integers, or ``spacing`` does not fit the axes.

    Source:
        D. R. Martin, C. C. Fowlkes, J. Malik, Learning to detect natural image boundaries, IEEE TPAMI 26(5), 2004,
        with distances in the place of a one-to-one matching of pixels, as in G. Csurka et al., BMVC 2013.
    """
    if spacing is not None and len(spacing) != label.ndim:
        raise ValueError(f"spacing must have one value per axis, got {len(spacing)} for {label.ndim} axes")
    position = cluster_overlap(clusters, label).position
    found = find_boundaries(position, mode="thick")
    true = find_boundaries(array_of(label) > 0, mode="thick")
    if not (found.any() and true.any()):
        return float(found.any() == true.any())
    precision = np.mean(distance_transform_edt(~true, sampling=spacing)[found] <= tolerance)
    recall = np.mean(distance_transform_edt(~found, sampling=spacing)[true] <= tolerance)
    return float(2 * precision * recall / (precision + recall)) if precision + recall > 0 else 0.0


def majority_mask(clusters: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Union of the clusters of which more than half lies inside the truth: what a perfect choice could deliver.

    Args:
        clusters: integer label map.
        label: truth, foreground above 0.

    Returns:
        boolean mask of the same shape; empty if no cluster lies mostly inside.

    Raises:
        ValueError: the shapes differ, or the label map does not hold integers.
    """
    overlap = cluster_overlap(clusters, label)
    return (2 * overlap.inside > overlap.sizes)[overlap.position]


def oracle_mask(clusters: np.ndarray, label: np.ndarray) -> np.ndarray:
    """The single cluster with the highest Dice against the truth, as it is (ties: the smallest label).

    The choice uses the truth, so the score of this mask bounds from above what choosing one cluster can reach. Every
    label takes part, 0 too. Against an empty truth all clusters score 0 and the smallest label is returned.

    Args:
        clusters: integer label map.
        label: truth, foreground above 0.

    Returns:
        boolean mask of the same shape.

    Raises:
        ValueError: the shapes differ, or the label map does not hold integers.
    """
    overlap = cluster_overlap(clusters, label)
    dice = 2 * overlap.inside / (overlap.sizes + overlap.inside.sum())
    return overlap.position == dice.argmax()
