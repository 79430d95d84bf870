"""A second view that is turned and mirrored, and the origin of each of its pixels."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from torch import Tensor

from monai_fusenet.utils.arrays import plain, tensor_of

__all__ = ["RandQuarterTurnViewd", "turned"]


def turned(image: Tensor, axes: tuple[int, ...], flips: tuple[bool, ...], outside: float = 0) -> Tensor:
    """An image turned and mirrored about its centre, on its own grid: an exact copy of pixels.

    Args:
        image: (C, *spatial).
        axes: for each axis of the result the axis of the image, a permutation of 0, 1 and so on.
        flips: the axes that are mirrored after that.
        outside: value of pixels that come from outside, if sides are unequal. If one side is odd and the other even,
            the middle pixel of the odd side falls on one of the two middle pixels of the even side.

    Returns:
        the same shape
    """
    moved = image.permute(0, *(axis + 1 for axis in axes)).flip([axis + 1 for axis, flip in enumerate(flips) if flip])
    result = torch.full_like(image, outside)
    for axis, (new, old) in enumerate(zip(result.shape[1:], moved.shape[1:], strict=True), start=1):
        moved = moved.narrow(axis, max(0, (old - new) // 2), min(old, new))
    inside = result
    for axis, (whole, part) in enumerate(zip(result.shape[1:], moved.shape[1:], strict=True), start=1):
        inside = inside.narrow(axis, (whole - part) // 2, part)
    inside.copy_(moved)
    return result


class RandQuarterTurnViewd(RandomizableTransform, MapTransform):
    """Adds a second view that is turned by multiples of 90 degrees and mirrored; leaves the image untouched.

    All 8 such views of a picture are equally likely, and all 48 of a volume; the image itself is one of them. Each is
    an exact copy of pixels on the grid of the image, without interpolation. Where sides are unequal, some pixels come
    from outside: they are 0, and have no correspondence.

    Args:
        keys: key of the image (C, *spatial), 2-D or 3-D.
        augmented_key: key of the second view.
        correspondence_key: key of a map (1, *spatial), int64: for each pixel of the second view the number of the pixel
            of the image that it came from, in row-major order; -1 where it came from outside.
        prob: probability that the view is turned; otherwise it is the image.

    Raises:
        KeyError: when the sample has no image.
        ValueError: when the sample has a second view already, or the image is not 2-D or 3-D.
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        augmented_key: str = "augmented",
        correspondence_key: str = "correspondence",
        prob: float = 1.0,
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        if len(self.keys) != 1:
            raise ValueError(f"keys must be one key, that of the image, got {self.keys}")
        if len({*self.keys, augmented_key, correspondence_key}) < 3:
            raise ValueError(
                "keys, augmented_key and correspondence_key must differ, "
                f"got {self.keys[0]}, {augmented_key} and {correspondence_key}"
            )
        self.augmented_key = augmented_key
        self.correspondence_key = correspondence_key
        self.axes: tuple[int, ...] = ()
        self.flips: tuple[bool, ...] = ()

    def randomize(self, data: int) -> None:
        """Draws turn and mirror images for `data` axes."""
        super().randomize(None)
        axes, flips = self.R.permutation(data).tolist(), self.R.randint(2, size=data).tolist()
        self.axes = tuple(axes) if self._do_transform else tuple(range(data))
        self.flips = tuple(bool(flip) and self._do_transform for flip in flips)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns the sample with both views and the correspondence, all of the kind of the image, without metadata."""
        sample = dict(data)
        image = sample[self.keys[0]]
        if self.augmented_key in sample:
            raise ValueError(f"the sample has a second view already, under {self.augmented_key}")
        if image.ndim not in (3, 4):
            raise ValueError(f"the image must have the shape (C, *spatial) in 2-D or 3-D, got {tuple(image.shape)}")
        self.randomize(image.ndim - 1)
        values = plain(tensor_of(image))
        numbers = torch.arange(values[0].numel(), device=values.device).view(1, *values.shape[1:])
        view = turned(values, self.axes, self.flips)
        correspondence = turned(numbers, self.axes, self.flips, outside=-1)
        if isinstance(image, np.ndarray):
            return {**sample, self.augmented_key: view.numpy(), self.correspondence_key: correspondence.numpy()}
        return {**sample, self.augmented_key: view, self.correspondence_key: correspondence}
