"""Masks and label maps from probabilities."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from skimage.measure import label as connected_components

from monai_fusenet.transforms.morphology import fill_holes
from monai_fusenet.utils.arrays import array_of, border_of, put_back

__all__ = ["ProbabilitiesToMaskd", "channels_of"]

DISTASTE = 8.0  # a component that covers an eighth of the image's border counts e times less
HOLE = 0.2  # of what is kept: a smaller hole is filled, a larger one is part of the object, as of a ring
NEXT = 0.2  # of the weight of the first object: what each further one must have


def channels_of(classes: Sequence[int]) -> int:
    """The number of channels: one for a single class, else one for each class and one for the background."""
    return 1 if len(classes) == 1 else len(classes) + 1


class ProbabilitiesToMaskd(MapTransform):
    """Makes a mask from the probability of a foreground, or a label map from those of several classes.

    A single probability is cut at 0.5. The best connected components are kept, as many as there are objects. A
    component ranks by the sum of its probability, and lower if it touches the border: rulers and colour charts, which a
    network may take for objects, mostly lie there. Holes smaller than a fifth of the kept pixels are filled.

    With several classes, each pixel gets the likeliest class, or the background where all probabilities are 0
    (unknown).

    Args:
        keys: keys of probabilities (1, *spatial), or (n + 1, *spatial) of background and n classes, 2-D or 3-D, values
            in [0, 1]. They are replaced by a mask (1, *spatial) of 0 and 1, or by a label map of 0 and the values of
            the classes.
        objects: largest number of components to keep from a single probability; `None`: all, unchanged.
        classes: the values of n classes in a label map, whole numbers above 0.
        classes_key: where the classes go if there are several, so that writers know which values a mask may have.
        allow_missing_keys: see `MapTransform`.

    Raises:
        ValueError: when `objects` is no whole number of at least 1, `classes` are not distinct whole numbers above 0,
            or the probabilities have another number of classes.
    """

    def __init__(
        self,
        keys: KeysCollection,
        objects: int | None = None,
        classes: Sequence[int] = (1,),
        classes_key: str = "classes",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if objects is not None and (not isinstance(objects, int) or isinstance(objects, bool) or objects < 1):
            raise ValueError(f"objects must be None or a whole number of at least 1, got {objects}")
        self.objects = objects
        self.classes = tuple(classes)
        known = [
            value for value in self.classes if isinstance(value, int) and not isinstance(value, bool) and value > 0
        ]
        if not self.classes or len(set(known)) < len(self.classes):
            raise ValueError(f"classes must be different whole numbers above 0, got {list(classes)}")
        self.classes_key = classes_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Puts a mask in the place of probabilities."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            probabilities = array_of(sample[key])
            wanted = channels_of(self.classes)
            if len(probabilities) != wanted:
                raise ValueError(
                    f"probabilities of the classes {list(self.classes)} must have {wanted} channels, "
                    f"got {len(probabilities)}"
                )
            if wanted == 1:
                mask = self._keep(probabilities[0]).astype(np.float32)
            else:
                mask = np.array([0, *self.classes], dtype=np.int32)[probabilities.argmax(axis=0)]
                sample[self.classes_key] = self.classes
            sample[key] = put_back(torch.from_numpy(mask[None]), sample[key])
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
        return _without_small_holes(np.isin(components, kept))


def _without_small_holes(mask: np.ndarray) -> np.ndarray:
    holes = connected_components(fill_holes(mask) & ~mask, connectivity=1)
    sizes = np.bincount(holes.ravel())
    small = sizes < HOLE * mask.sum()
    small[0] = False
    return mask | small[holes]
