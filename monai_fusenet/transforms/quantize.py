"""Values as in an 8-bit picture."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

from monai_fusenet.utils.arrays import tensor_of
from monai_fusenet.utils.precision import at_least_float32

__all__ = ["From8Bitd", "QuantizeTo8Bitd"]


class From8Bitd(MapTransform):
    """Divides the values of 8-bit pictures by 255, as the published loader does.

    Args:
        keys: keys of tensors of any shape.
        allow_missing_keys: whether samples may lack a key.

    Raises:
        ValueError: when a value is below 0 or above 255.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns the sample with values in [0, 1]."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            picture = at_least_float32(tensor_of(sample[key]))
            low, high = float(picture.min()), float(picture.max())
            if low < 0 or high > 255:
                raise ValueError(f"expected an 8-bit picture, values from 0 to 255, got {low:g} to {high:g}")
            sample[key] = picture / 255
        return sample


class QuantizeTo8Bitd(MapTransform):
    """Rounds to multiples of 1/255 and saturates to [0, 1], as resampling an 8-bit picture does.

    The published loader resamples 8-bit pictures (bicubic, which overshoots) and then divides by 255.

    Args:
        keys: keys of tensors of any shape, nominally in [0, 1].
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns the sample with rounded images."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            sample[key] = (at_least_float32(tensor_of(sample[key])) * 255).round().clip(0, 255) / 255
        return sample
