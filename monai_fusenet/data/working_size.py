"""Images resized to a given size, and smoothed when they shrink, by a product with one matrix per axis."""

from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import to_affine_nd
from monai.transforms import InvertibleTransform, MapTransform, Resize
from monai.transforms.utils import scale_affine
from monai.utils import TraceKeys
from scipy.sparse import csr_array
from torch import Tensor

from monai_fusenet.utils.arrays import plain, put_back, tensor_of
from monai_fusenet.utils.checks import check_whole

__all__ = ["Resizing", "WorkingSized", "shrinking_matrix"]

MODE = "bilinear"
TRUNCATED = 4.0  # standard deviations to either side, as in MONAI's filter


@lru_cache(maxsize=64)
def shrinking_matrix(size: int, new_size: int) -> csr_array:
    """Weights by which MONAI's `Resize(mode="bilinear", anti_aliasing=True)` makes pixels of an axis of others.

    Where the axis shrinks by a factor f, the pixels are smoothed by a Gaussian of (f - 1) / 2 pixels (of which each
    pixel has its integral, cut off at four standard deviations, with zeros beyond the border), and then interpolated.

    Args:
        size: pixels there are.
        new_size: pixels to make.

    Returns:
        (new_size, size), float32
    """
    factor = size / new_size
    places = np.maximum((np.arange(new_size) + 0.5) * factor - 0.5, 0)
    left = np.minimum(places.astype(np.int64), size - 1)
    share = places - left
    sigma = max((factor - 1) / 2, 0)
    reach = int(max(sigma * TRUNCATED, 0.5) + 0.5) if sigma else 0
    offsets = np.arange(-reach, reach + 1)
    kernel = np.ones(1)
    if sigma:
        edges = torch.from_numpy(np.append(offsets - 0.5, reach + 0.5)) / (sigma * 2**0.5)
        kernel = np.diff(torch.erf(edges).numpy()) / 2
    rows, columns, weights = [], [], []
    for neighbour, part in ((left, 1 - share), (np.minimum(left + 1, size - 1), share)):
        seen = neighbour[:, None] + offsets
        is_inside = (seen >= 0) & (seen < size)
        rows.append(np.broadcast_to(np.arange(new_size)[:, None], seen.shape)[is_inside])
        columns.append(seen[is_inside])
        weights.append((part[:, None] * kernel)[is_inside])
    entries = (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns)))
    return csr_array(entries, (new_size, size)).astype(np.float32)


class Resizing(MapTransform, InvertibleTransform):
    """Resizes images and remembers their size, so that MONAI's `Invertd` undoes it, as it does `Resized`."""

    def resize(self, image: Tensor, shape: Sequence[int], mode: str = MODE) -> Tensor:
        """Resizes an image without recording it among its applied operations."""
        resize = Resize(shape, mode=mode)
        with resize.trace_transform(False):
            return resize(image)

    def remember(self, resized: Tensor, shape: Sequence[int]) -> Tensor:
        """A resized image that knows the size that it came from."""
        return self.push_transform(resized, orig_size=tuple(shape), extra_info={"mode": MODE})

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns a new dictionary with images on the grid that they came from."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            step = self.pop_transform(sample[key])
            sample[key] = self.resize(sample[key], step[TraceKeys.ORIG_SIZE], step[TraceKeys.EXTRA_INFO]["mode"])
        return sample


class WorkingSized(Resizing):
    """Resizes images as MONAI's `Resized(mode="bilinear", anti_aliasing=True)` does, except for rounding, and faster.

    Smoothing and interpolation are one sparse matrix per axis. If an image shrinks much, it has few rows. MONAI first
    smooths all pixels of the large image, which takes seconds for a photograph. Runs on the CPU. MONAI's `Invertd`
    undoes it, as it does `Resized`.

    Args:
        keys: keys of images (C, *spatial).
        spatial_size: pixels along each axis.
        allow_missing_keys: whether samples may lack a key.

    Shape:
        (C, *spatial) -> (C, *spatial_size), float32

    Raises:
        ValueError: if a side is no whole number above 0, or the count of sides differs from the number of spatial axes.
    """

    def __init__(self, keys: KeysCollection, spatial_size: Sequence[int], allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.spatial_size = tuple(spatial_size)
        for side in self.spatial_size:
            check_whole("each side of spatial_size", side, 1)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns a new dictionary with resized images."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            image = tensor_of(sample[key])
            shape = tuple(image.shape[1:])
            if len(shape) != len(self.spatial_size):
                raise ValueError(f"expected an image of {len(self.spatial_size)} spatial axes, got the shape {shape}")
            resized = put_back(self._resized(plain(image)), image)
            if isinstance(image, MetaTensor) and isinstance(resized, MetaTensor):
                scale = to_affine_nd(len(image.affine) - 1, scale_affine(shape, self.spatial_size))
                resized.affine = image.affine @ torch.as_tensor(scale).to(image.affine)
            sample[key] = self.remember(resized, shape)
        return sample

    def _resized(self, image: Tensor) -> Tensor:
        made = [self._channel(channel) for channel in image.cpu().float().numpy()]
        return torch.from_numpy(np.stack(made)).to(image.device)

    def _channel(self, pixels: np.ndarray) -> np.ndarray:
        for axis, (size, new_size) in enumerate(zip(pixels.shape, self.spatial_size, strict=True)):
            if size != new_size:
                lines = np.moveaxis(pixels, axis, 0)
                made = shrinking_matrix(size, new_size) @ lines.reshape(size, -1)
                pixels = np.moveaxis(made.reshape(new_size, *lines.shape[1:]), 0, axis)
        return pixels
