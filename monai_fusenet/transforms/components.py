"""The objects of a foreground that is a probability."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from scipy import ndimage
from skimage.measure import label as connected_components

from monai_fusenet.transforms.morphology import border_of
from monai_fusenet.utils.arrays import array_of, put_back

__all__ = ["KeepObjectsd"]

DISTASTE = 8.0  # a component that covers an eighth of the image's border counts e times less
NEXT = 0.2  # of the weight of the first object: what each further one must have


class KeepObjectsd(MapTransform):
    """Cuts a probability at a half, and keeps so many of its connected components as there are objects.

    The sum of a component's probability counts, and the border speaks against it: what a network takes for an object
    by mistake, rulers and colour charts, mostly lies there. Holes are filled.

    Args:
        keys: of probabilities (1, *spatial), 2-D or 3-D, values in [0, 1]; a mask takes their place, 0 or 1.
        objects: how many components are kept at most; `None`: all, as they are.
        allow_missing_keys: see `MapTransform`.

    Raises:
        ValueError: when `objects` is no whole number of at least 1.
    """

    def __init__(self, keys: KeysCollection, objects: int | None, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        if objects is not None and (not isinstance(objects, int) or isinstance(objects, bool) or objects < 1):
            raise ValueError(f"objects must be None or a whole number of at least 1, got {objects}")
        self.objects = objects

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Puts a mask in the place of each probability."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            probability = sample[key]
            mask = self._keep(array_of(probability)[0])[None].astype(np.float32)
            sample[key] = put_back(torch.from_numpy(mask), probability)
        return sample

    def _keep(self, probability: np.ndarray) -> np.ndarray:
        mask = probability > 0.5
        if self.objects is None or not mask.any():
            return mask
        components = connected_components(mask, connectivity=mask.ndim)
        weights = np.bincount(components.ravel(), weights=np.where(mask, probability, 0).ravel())
        border = components[border_of(np.ones(mask.shape, dtype=bool))]
        touched = np.bincount(border, minlength=len(weights)) / len(border)
        weights *= np.exp(-DISTASTE * touched)
        weights[0] = 0
        best = np.argsort(-weights)[: self.objects]
        kept = best[weights[best] > NEXT * weights.max()]
        return ndimage.binary_fill_holes(np.isin(components, kept))
