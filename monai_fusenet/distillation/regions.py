"""What a candidate looks like, in numbers that images of one folder share."""

from __future__ import annotations

from functools import cached_property
from itertools import product

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull

from monai_fusenet.utils.arrays import border_of

__all__ = ["RegionDescriber"]

RING = 0.05  # of the mean side: how far around a region its surroundings go
FAR = 3 * RING
CORNERS = {dims: np.array(list(product((-0.5, 0.5), repeat=dims))) for dims in (2, 3)}  # of a pixel, from its middle
QUARTER = 25  # percentile of the edge's strength: where an outline is weakest


class RegionDescriber:
    """Describes regions of one image: place, size, shape, and how they differ from what surrounds them.

    Args:
        image: (C, *spatial), 2-D or 3-D, values in [0, 1].
    """

    def __init__(self, image: np.ndarray) -> None:
        self.shape = image.shape[1:]
        self.image = image.astype(np.float32)
        self.width = max(2.0, RING * float(np.mean(self.shape)))

    @cached_property
    def _border(self) -> np.ndarray:
        return border_of(np.ones(self.shape, dtype=bool))

    @cached_property
    def _maps(self) -> np.ndarray:
        """(F, *spatial): the channels, the grey value, its edges, its texture, its blur, and colourfulness."""
        grey = self.image.mean(axis=0)
        mean, square = (ndimage.gaussian_filter(values, self.width / 2) for values in (grey, grey * grey))
        return np.stack(
            [
                *self.image,
                grey,
                ndimage.gaussian_gradient_magnitude(grey, 1.0),
                np.sqrt(np.maximum(square - mean * mean, 0)),
                mean,
                self.image.max(axis=0) - self.image.min(axis=0),
            ]
        )

    def __call__(self, mask: np.ndarray) -> np.ndarray:
        """The features of a region.

        Args:
            mask: (*spatial), bool, not empty.

        Returns:
            (F,), float32; all finite.
        """
        inside = self._maps[:, mask]
        ring, far = self._around(mask)
        rim = mask & ~ndimage.binary_erosion(mask)
        around, beyond = self._maps[:, ring].mean(axis=1), self._maps[:, far].mean(axis=1)
        own = inside.mean(axis=1)
        grey, edge = len(self.image), len(self.image) + 1
        edges = self._maps[edge][rim]
        differences = own - around
        values = [
            *self._place_and_shape(mask, rim),
            *own,
            *differences,
            own[grey] - beyond[grey],
            inside[grey].std(),
            self._maps[grey][ring].std(),
            edges.mean(),
            np.percentile(edges, QUARTER),
            (self._maps[grey] < own[grey]).mean(),
        ]
        return np.asarray(values, dtype=np.float32)

    def _around(self, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What lies near a region, and not so near; of one that is everything, the region itself."""
        near, wide = (
            ndimage.maximum_filter(mask, size=2 * round(width) + 1) & ~mask
            for width in (self.width, self.width * FAR / RING)
        )
        ring = near if near.any() else mask
        return ring, wide if wide.any() else ring

    def _place_and_shape(self, mask: np.ndarray, rim: np.ndarray) -> list[float]:
        """Centre and box in [-1, 1] and [0, 1], share of the image and of its border, and what makes a shape."""
        sides, dims = np.asarray(self.shape), mask.ndim
        points = np.argwhere(mask)
        area = len(points)
        place = 2 * (points.mean(axis=0) + 0.5) / sides - 1
        low, high = points.min(axis=0), points.max(axis=0) + 1
        lengths = np.linalg.eigvalsh(np.cov(points.T, bias=True) + np.eye(dims) / 12)  # a pixel has a width of its own
        corners = (_ends(mask)[:, None] + CORNERS[dims]).reshape(-1, dims)
        return [
            (area / mask.size) ** (1 / dims),
            *place,
            float(np.linalg.norm(place)),
            *(low / sides),
            *(high / sides),
            float(mask[self._border].mean()),
            area / float(np.prod(high - low)),
            area / ConvexHull(corners).volume,
            float(np.sqrt(lengths[0] / lengths[-1])),
            float(rim.sum()) / area ** ((dims - 1) / dims),
        ]


def _ends(mask: np.ndarray) -> np.ndarray:
    """Where each line of a mask along its last axis begins and ends, (P, D): all that its convex hull is made of."""
    lines = np.argwhere(mask.any(axis=-1))
    along = mask[tuple(lines.T)]
    first, last = along.argmax(axis=1), mask.shape[-1] - 1 - along[:, ::-1].argmax(axis=1)
    return np.concatenate([np.column_stack([lines, end]) for end in (first, last)])
