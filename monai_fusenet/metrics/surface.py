"""Surfaces of masks and boundaries of label maps, compared with those of one truth.

The part that depends only on the truth is computed once, when a `TrueSurface` or `TrueBoundary` is made. All arrays are
(*spatial), 2-D or 3-D; `spacing` has one value per axis, for example in mm, and is `None` for pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.spatial import KDTree

from monai_fusenet.utils.arrays import border_of, box_of

__all__ = ["TrueBoundary", "TrueSurface", "boundary_of"]

PERCENTILE = 0.95

Pixels = Sequence[np.ndarray]  # their indices along each axis


def boundary_of(labels: np.ndarray) -> np.ndarray:
    """The pixels with a face neighbour of another label, on both sides; the image border is no boundary."""
    boundary = np.zeros(labels.shape, dtype=bool)
    for axis in range(labels.ndim):
        boundary_along, along = np.moveaxis(boundary, axis, 0), np.moveaxis(labels, axis, 0)
        differs = along[1:] != along[:-1]
        boundary_along[1:] |= differs
        boundary_along[:-1] |= differs
    return boundary


class TrueSurface:
    """The surface of a truth, from which the surfaces of masks are measured.

    The values are those of MONAI's `compute_hausdorff_distance` and `compute_surface_dice`, which compute the truth's
    part again for each mask and each value.

    Args:
        label: truth, bool, not empty.
        spacing: see the module.
    """

    def __init__(self, label: np.ndarray, spacing: Sequence[float] | None = None) -> None:
        surface = border_of(label)
        self.sides = _sides(label.ndim, spacing)
        self.places = np.argwhere(surface) * self.sides
        # Indices of the nearest pixel, without a map of distances, for which SciPy takes five times the memory.
        self.nearest = distance_transform_edt(~surface, self.sides, return_distances=False, return_indices=True)

    def scores(self, mask: np.ndarray, tolerance: float) -> tuple[float, float]:
        """Compares the surface of a mask with that of the truth.

        Args:
            mask: bool, of the truth's shape, not empty.
            tolerance: distance up to which surfaces agree, in units of the spacing.

        Returns:
            the larger of the two directed 95th percentiles of the distances, and the share of both surfaces within
            `tolerance` of the other, in [0, 1].
        """
        pixels = np.nonzero(border_of(mask))
        there = _distances(pixels, [indices[pixels] for indices in self.nearest], self.sides)
        back = _tree(pixels, self.sides).query(self.places)[0]
        # In float32, a distance that is the tolerance but for rounding is the tolerance.
        there, back = there.astype(np.float32), back.astype(np.float32)
        hits = np.count_nonzero(there <= tolerance) + np.count_nonzero(back <= tolerance)
        return max(_percentile(there), _percentile(back)), hits / (len(there) + len(back))


class TrueBoundary:
    """The boundary of a truth, from which the boundaries of clusters are measured.

    Args:
        label: truth, bool.
        tolerance: largest distance that still counts as a hit, in units of the spacing.
        spacing: see the module.
    """

    def __init__(self, label: np.ndarray, tolerance: float, spacing: Sequence[float] | None = None) -> None:
        boundary = boundary_of(label)
        self.tolerance = tolerance
        self.sides = _sides(label.ndim, spacing)
        self.exists = bool(boundary.any())
        if self.exists:
            # What lies near the boundary lies in this part of the image.
            reach = np.minimum(tolerance / self.sides, label.shape).astype(int) + 1
            self.box = tuple(
                slice(max(0, part.start - more), part.stop + more)
                for part, more in zip(box_of(boundary), reach, strict=True)
            )
            boundary = boundary[self.box]
            self.pixels = np.nonzero(boundary)
            self.near = distance_transform_edt(~boundary, self.sides) <= tolerance

    def f_score(self, labels: np.ndarray) -> float:
        """The F score of the boundaries between labels against the truth's, see `boundary_f_score`.

        Args:
            labels: integers, of the truth's shape.
        """
        found = boundary_of(labels)
        count = np.count_nonzero(found)
        if not (count and self.exists):
            return float(bool(count) == self.exists)
        hits = np.nonzero(found[self.box] & self.near)  # and the truth's hits are near these alone
        if not len(hits[0]):
            return 0.0
        precision, recall = len(hits[0]) / count, self._count_near(hits) / len(self.pixels[0])
        return 2 * precision * recall / (precision + recall)

    def _count_near(self, pixels: Pixels) -> int:
        """How many pixels of the truth's boundary are within the tolerance of some pixels (at least one) of the box."""
        bound = self.tolerance + self.sides.max()  # above the tolerance, for what is it but for rounding
        tree = _tree(pixels, self.sides)
        nearest = tree.query(np.stack(self.pixels, axis=1) * self.sides, distance_upper_bound=bound)[1]
        has_one = nearest < tree.n
        own, other = [axis[has_one] for axis in self.pixels], [axis[nearest[has_one]] for axis in pixels]
        return int(np.count_nonzero(_distances(own, other, self.sides) <= self.tolerance))


def _sides(axes: int, spacing: Sequence[float] | None) -> np.ndarray:
    return np.ones(axes) if spacing is None else np.asarray(spacing, dtype=float)


def _tree(pixels: Pixels, sides: np.ndarray) -> KDTree:
    """A tree that is cheap to grow: the few pixels of a truth ask it once."""
    return KDTree(np.stack(pixels, axis=1) * sides, leafsize=32, compact_nodes=False, balanced_tree=False)


def _distances(pixels: Pixels, others: Pixels, sides: np.ndarray) -> np.ndarray:
    """How far each pixel is from its other one."""
    return np.sqrt(sum(((other - own) * side) ** 2 for own, other, side in zip(pixels, others, sides, strict=True)))


def _percentile(distances: np.ndarray) -> float:
    """The 95th percentile as `torch.quantile`, and so MONAI, has it: of a rank in float32."""
    rank = np.float32(PERCENTILE) * np.float32(len(distances) - 1)
    below, above = int(rank), int(np.ceil(rank))
    ordered = np.partition(distances, (below, above))
    return float(ordered[below]) + float(rank - below) * float(ordered[above] - ordered[below])
