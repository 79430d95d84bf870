"""Agreement of a label map with a truth that was not used to make it.

All functions take the label map ``clusters`` (integers, any values) and the truth ``label`` (foreground above 0) as
arrays, or tensors, of one shape with any number of axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import entropy

from monai_fusenet.metrics.surface import TrueBoundary
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

    def adjusted_rand_index(self) -> float:
        """See :py:func:`adjusted_rand_index`."""
        true, pixels = self.inside.sum(), self.sizes.sum()
        # pairs of pixels that are together in both, in the clusters, in the truth, and all of them
        both = _pairs(self.inside) + _pairs(self.sizes - self.inside)
        of_clusters, of_truth, pairs = _pairs(self.sizes), _pairs(np.array([true, pixels - true])), _pairs(pixels)
        if both == of_clusters == of_truth:
            return 1.0
        # (both - expected) / (mean - expected), with expected = of_clusters * of_truth / pairs, in whole numbers
        product = of_clusters * of_truth
        return 2 * (both * pairs - product) / ((of_clusters + of_truth) * pairs - 2 * product)

    def variation_of_information(self) -> float:
        """See :py:func:`variation_of_information`."""
        table = np.stack([self.inside, self.sizes - self.inside])
        bits = 2 * entropy(table.ravel(), base=2) - entropy(self.sizes, base=2) - entropy(table.sum(axis=1), base=2)
        return max(0.0, float(bits))  # rounding may leave a little less than nothing

    def majority_mask(self) -> np.ndarray:
        """See :py:func:`majority_mask`."""
        return (2 * self.inside > self.sizes)[self.position]

    def oracle_mask(self) -> np.ndarray:
        """See :py:func:`oracle_mask`."""
        dice = 2 * self.inside / (self.sizes + self.inside.sum())
        return self.position == dice.argmax()


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
        L. Hubert, P. Arabie, Comparing partitions, Journal of Classification 2, 1985.
    """
    return cluster_overlap(clusters, label).adjusted_rand_index()


def variation_of_information(clusters: np.ndarray, label: np.ndarray) -> float:
    """Variation of information between the label map and the truth, in bits.

    `VI = H(clusters | label) + H(label | clusters)`, from 0 (equal partitions) up to log2 of the number of pixels. The
    first part grows when objects are cut up, the second when clusters straddle the truth's boundary.

    Args:
        clusters: integer label map.
        label: truth, foreground above 0.

    Raises:
        ValueError: the shapes differ, or the label map does not hold integers.

    Source:
        M. Meila, Comparing clusterings: an information based distance, Journal of Multivariate Analysis 98, 2007.
    """
    return cluster_overlap(clusters, label).variation_of_information()


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
    overlap = cluster_overlap(clusters, label)
    return TrueBoundary(array_of(label) > 0, tolerance, spacing).f_score(overlap.position)


def majority_mask(clusters: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Union of the clusters that lie more than half inside the truth: the result of a perfect choice of clusters.

    Args:
        clusters: integer label map.
        label: truth, foreground above 0.

    Returns:
        boolean mask of the same shape; empty if no cluster lies mostly inside.

    Raises:
        ValueError: the shapes differ, or the label map does not hold integers.
    """
    return cluster_overlap(clusters, label).majority_mask()


def oracle_mask(clusters: np.ndarray, label: np.ndarray) -> np.ndarray:
    """The single cluster with the highest Dice against the truth, as it is (ties: the smallest label).

    The choice uses the truth, so no choice of a single cluster can have a higher score. Label 0 takes part like every
    other label. Against an empty truth all clusters score 0 and the smallest label is returned.

    Args:
        clusters: integer label map.
        label: truth, foreground above 0.

    Returns:
        boolean mask of the same shape.

    Raises:
        ValueError: the shapes differ, or the label map does not hold integers.
    """
    return cluster_overlap(clusters, label).oracle_mask()


def _pairs(sizes: np.ndarray) -> int:
    """Pairs of pixels of which both lie in the same part, for parts of these sizes."""
    return int((sizes * (sizes - 1) // 2).sum())
