"""Values as an 8-bit picture can hold them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

__all__ = ["QuantizeTo8Bitd"]


class QuantizeTo8Bitd(MapTransform):
    """Rounds to multiples of 1/255 and saturates to [0, 1], as resampling an 8-bit picture does.

    The published loader resamples 8-bit pictures (bicubic, which overshoots) and divides by 255 afterwards.

    Args:
        keys: keys of tensors of any shape, nominally in [0, 1].
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns the sample with rounded images."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            sample[key] = (sample[key] * 255).round().clip(0, 255) / 255
        return sample
