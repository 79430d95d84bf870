"""The candidates for the object in each image of a folder, from several partitions of the image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from monai_fusenet.distillation.regions import RegionDescriber
from monai_fusenet.transforms import ClustersToMaskd, kmeans_clusters
from monai_fusenet.transforms.foreground import Rule, propose_masks
from monai_fusenet.utils.arrays import reduced_shape, resize_area, resize_nearest

__all__ = ["CandidatePool", "PoolMaker"]

MOST = 10  # candidates of one partition: the object is hardly ever behind these
PIXELS = {2: 96**2, 3: 40**3}  # of the grid that candidates are made on, at most: hundreds of each image are described
FEWEST = 2  # clusters that show anything
SMOOTHING = 1 / 64  # of the mean side: hairs and speckle part what belongs together


class CandidatePool:
    """The candidates for the object in one image, with one bit per pixel, and their features.

    Args:
        masks: (*spatial) each, bool, all of one shape.
        image: (C, *spatial), values in [0, 1].
    """

    def __init__(self, masks: Iterable[np.ndarray], image: np.ndarray) -> None:
        different = {mask.tobytes(): mask for mask in masks if mask.any()}
        describe = RegionDescriber(image)
        self.shape = image.shape[1:]
        self.features = np.array([describe(mask) for mask in different.values()])
        self._packed = [np.packbits(mask) for mask in different.values()]

    def __len__(self) -> int:
        """How many different candidates there are."""
        return len(self._packed)

    @property
    def masks(self) -> np.ndarray:
        """All candidates (M, pixels), bool, each as one row."""
        size = int(np.prod(self.shape))
        rows = [np.unpackbits(row, count=size) for row in self._packed]
        return np.array(rows, dtype=bool).reshape(len(rows), size)

    def bring(self, target: Tensor) -> np.ndarray:
        """Brings a target (1, *size) of the image to the grid of its candidates, (*spatial), values in [0, 1]."""
        return F.interpolate(target.unsqueeze(0), size=self.shape, mode="area")[0, 0].numpy()

    def take_back(self, values: np.ndarray, size: Sequence[int]) -> Tensor:
        """Brings values (*spatial) on the grid of the candidates back to that of the image, (1, *size)."""
        mode = "bilinear" if values.ndim == 2 else "trilinear"
        tensor = torch.from_numpy(values.astype(np.float32))[None, None]
        return F.interpolate(tensor, size=tuple(size), mode=mode, align_corners=False)[0]


class PoolMaker:
    """Makes the pool of each image from the clusters of fits, and from k-means of the image and of its blurred copy.

    Args:
        foreground: holds the rule that turns clusters into candidates.
        means: numbers of clusters for k-means.
    """

    def __init__(self, foreground: ClustersToMaskd, means: Sequence[int] = (2, 3, 4, 6)) -> None:
        self.foreground = foreground
        self.rule = foreground.rule
        self.means = tuple(means)

    def __call__(self, image: Tensor, clusters: Sequence[np.ndarray] = (), rule: Rule | None = None) -> CandidatePool:
        """The pool of an image, on a grid of at most 9216 pixels or 64 000 voxels.

        Args:
            image: (C, *spatial), in [0, 1].
            clusters: of fits, (*spatial) each, integers.
            rule: in the place of its own.
        """
        rule, pixels = rule or self.rule, image.numpy()
        shape = reduced_shape(pixels.shape[1:], PIXELS[pixels.ndim - 1])
        pixels = resize_area(pixels, shape)
        width = SMOOTHING * float(np.mean(shape))
        blurred = np.stack([ndimage.gaussian_filter(channel, width) for channel in pixels])
        partitions = chain(
            ((resize_nearest(one, shape), pixels) for one in clusters),
            ((kmeans_clusters(one, count), one) for one in (pixels, blurred) for count in self.means),
        )
        masks = chain.from_iterable(propose_masks(rule, *one, MOST) for one in partitions)
        return CandidatePool(masks, pixels)

    def guess(self, image: Tensor) -> Tensor:
        """The mask that the rule chooses from k-means only, with all its partitions.

        Args:
            image: (C, *spatial), in [0, 1].

        Returns:
            (1, *spatial), float32, 0 or 1.
        """
        pixels = image.numpy()
        small = resize_area(pixels, reduced_shape(pixels.shape[1:], PIXELS[pixels.ndim - 1]))
        mask = self.foreground.agree(kmeans_clusters(small, FEWEST), small)
        return torch.from_numpy(resize_nearest(mask, pixels.shape[1:])).float().unsqueeze(0)
