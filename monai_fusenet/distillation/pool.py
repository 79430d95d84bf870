"""The candidates of each image of a folder, and which of them a network means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from monai_fusenet.transforms import ClustersToMaskd, kmeans_clusters
from monai_fusenet.transforms.foreground import Rule, propose_masks

__all__ = ["CandidatePool", "PoolMaker"]

MOST = 16  # candidates of one partition: the object that a network means is hardly ever behind these
GAIN = 0.01  # of Dice: what another object must add


class CandidatePool:
    """What may be the object in one image, by several partitions of it, kept at a bit a pixel.

    Args:
        masks: (*spatial) each, bool, all of one shape; one object each, or all of them together.
        objects: how many of them the foreground is made of at most; `None`: one mask holds all.
    """

    def __init__(self, masks: Iterable[np.ndarray], objects: int | None) -> None:
        different = {mask.tobytes(): mask for mask in masks if mask.any()}
        self.objects = objects or 1
        self._packed = [np.packbits(mask) for mask in different.values()]
        self._shape = next(iter(different.values())).shape if different else ()

    def __len__(self) -> int:
        """How many different candidates there are."""
        return len(self._packed)

    @property
    def masks(self) -> np.ndarray:
        """All candidates (M, *spatial), bool."""
        size = int(np.prod(self._shape))
        rows = [np.unpackbits(row, count=size).reshape(self._shape) for row in self._packed]
        return np.array(rows, dtype=bool).reshape(len(rows), *self._shape)

    def closest(self, probability: Tensor) -> tuple[Tensor, float]:
        """The candidate, or the union of as many as there may be objects, that a network means most.

        Args:
            probability: (1, *spatial), in [0, 1]: how sure the network is of each pixel.

        Returns:
            the mask (1, *spatial), bool, and its Dice with the probability, in [0, 1]; an empty mask and 0 where there
            is no candidate, or none has anything to do with it.
        """
        union = np.zeros(probability.shape[1:], dtype=bool)
        if not self._packed:
            return torch.from_numpy(union).unsqueeze(0), 0.0
        values = probability[0].numpy()
        rows, total, best = self.masks, float(values.sum()), 0.0
        for _ in range(self.objects):
            joined = (rows | union).reshape(len(rows), -1)
            scores = 2 * (joined @ values.ravel()) / (joined.sum(axis=1) + total)
            leader = int(scores.argmax())
            if scores[leader] < best + GAIN:
                break
            union, best = rows[leader] | union, float(scores[leader])
        return torch.from_numpy(union).unsqueeze(0), best


class PoolMaker:
    """Makes the pool of each image: of the clusters that fits have found, and of k-means with several k.

    Args:
        foreground: holds the rule by which clusters become candidates.
        means: numbers of clusters of k-means.
    """

    def __init__(self, foreground: ClustersToMaskd, means: Sequence[int] = (2, 3, 4)) -> None:
        self.rule = foreground.rule
        self.means = tuple(means)

    def __call__(self, image: Tensor, clusters: Sequence[np.ndarray] = (), rule: Rule | None = None) -> CandidatePool:
        """The pool of an image.

        Args:
            image: (C, *spatial), in [0, 1].
            clusters: of fits, (*spatial) each, integers.
            rule: in the place of its own.
        """
        rule, pixels = rule or self.rule, image.numpy()
        partitions = chain(clusters, (kmeans_clusters(pixels, count) for count in self.means))
        masks = chain.from_iterable(propose_masks(rule, one, pixels, MOST) for one in partitions)
        return CandidatePool(masks, rule.objects)
