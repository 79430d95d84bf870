"""Large pictures brought to fewer pixels, before what takes many times their memory."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from monai.config import KeysCollection
from monai.transforms import InvertibleTransform, MapTransform, Resize
from monai.utils import TraceKeys
from torch import Tensor

from monai_fusenet.utils.arrays import reduced_shape, tensor_of

__all__ = ["ReduceLarged"]

LARGE = 2**24  # pixels
MODE = "bilinear"  # of the way back
PIXELS = 2**22  # what a larger picture is brought to, about: far more than networks see


class ReduceLarged(MapTransform, InvertibleTransform):
    """Brings pictures of more than 16 777 216 pixels to about 4 194 304, by the means of the pixels of each new one.

    Resizing with a filter against aliasing, as MONAI's, takes 150 bytes of memory for each pixel of a colour picture.
    Smaller pictures, and volumes, which `WorkingGridd` resamples by means anyway, stay as they are. MONAI's `Invertd`
    undoes it, as it does `Resized`.

    Args:
        keys: keys of images (C, *spatial).
        allow_missing_keys: whether samples may lack a key.

    Shape:
        (C, H, W) -> (C, H', W')
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns a new dictionary with reduced pictures."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            image = tensor_of(sample[key])
            sides = tuple(image.shape[1:])
            reduced = image
            if len(sides) == 2 and math.prod(sides) > LARGE:
                reduced = _resized(image, reduced_shape(sides, PIXELS), "area")
            sample[key] = self.push_transform(reduced, orig_size=sides, extra_info={"mode": MODE})
        return sample

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns a new dictionary with pictures on the grid that they came from."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            step = self.pop_transform(sample[key])
            sides = tuple(step[TraceKeys.ORIG_SIZE])
            if tuple(sample[key].shape[1:]) != sides:
                sample[key] = _resized(sample[key], sides, step[TraceKeys.EXTRA_INFO]["mode"])
        return sample


def _resized(image: Tensor, sides: Sequence[int], mode: str) -> Tensor:
    """An image resized, and not a word of it among its applied operations."""
    resize = Resize(sides, mode=mode)
    with resize.trace_transform(False):
        return resize(image)
