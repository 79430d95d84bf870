"""The working grid: with a given number of voxels, or with voxels of a given size."""

import math
import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.utils import ensure_tuple_rep
from torch import Tensor

from monai_fusenet.data.claims import SHARE, available_memory
from monai_fusenet.data.working_size import Resizing
from monai_fusenet.utils.arrays import tensor_of
from monai_fusenet.utils.checks import check_number

UNKNOWN_VOXELS = (
    "the image has no metadata, so that its voxels count as 1 mm wide: a PersistentDataset keeps them with "
    'track_meta=True; MetaTensor(image, meta={"has_geometry": False}) says that 1 mm is right'
)


class WorkingGridd(Resizing):
    """Resamples images to the working grid: cubic voxels, with a given total number or a given size.

    MONAI's `Invertd` undoes it, as it does `Resized`.

    Args:
        keys: keys of images (C, *spatial), each a `MetaTensor` from a loader, or with an affine, which gives the voxel
            size. A pixel of a picture (`meta["has_geometry"]` is False) counts as 1 mm wide. So does, with a warning, a
            voxel of any other tensor or array.
        size: if `spacing` is None, the image gets about as many voxels as a grid of this size, but not more than it
            has.
        spacing: millimetres, one number or one for each axis.
        keep_slices: leave the last axis as it is, unless it is longer than in `size` and `spacing` is None. For
            networks that work on slices, which are often thick.
        min_side: smallest number of voxels along any axis.
        allow_missing_keys: whether samples may lack a key.

    Shape:
        (C, *spatial) -> (C, *grid)

    Raises:
        ValueError: if a number is not above 0, or their count differs from the number of spatial axes; if voxels would
            be larger than the image, or the grid too large for memory.
    """

    def __init__(
        self,
        keys: KeysCollection,
        size: Sequence[int],
        spacing: float | Sequence[float] | None = None,
        keep_slices: bool = False,
        min_side: int = 1,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.size = tuple(size)
        listed = isinstance(spacing, Sequence) and not isinstance(spacing, str)
        for length in spacing if listed else [spacing]:  # type: ignore[union-attr]
            if spacing is not None:
                check_number("working_spacing", length, 1e-3)
        if listed and len(spacing) != len(self.size):  # type: ignore[arg-type]
            raise ValueError(f"working_spacing must be one number of mm, or one for each axis, got {spacing}")
        self.spacing = spacing
        self.keep_slices = keep_slices
        self.min_side = min_side

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns a new dictionary with resampled images."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            image = tensor_of(sample[key])
            shape = self.shape_of(image.shape[1:], _voxel_of(image))
            check_grid(len(image) * math.prod(shape), shape)
            # Means of voxels along axes that get shorter: MONAI's Gaussian against aliasing takes 9 GB for a CT.
            shorter = [min(old, new) for old, new in zip(image.shape[1:], shape, strict=True)]
            resized = self.resize(self.resize(image, shorter, "area"), shape)
            sample[key] = self.remember(resized, image.shape[1:])
        return sample

    def shape_of(self, shape: Sequence[int], spacing: Sequence[float]) -> list[int]:
        """The grid for an image of a shape and spacing (mm)."""
        if len(shape) != len(self.size):
            raise ValueError(f"expected an image of {len(self.size)} spatial axes, got the shape {tuple(shape)}")
        if not all(math.isfinite(length) and length > 0 for length in spacing):
            raise ValueError(f"the sides of a voxel must be finite and above 0 mm, got {tuple(spacing)}")
        axes = len(shape) - self.keep_slices
        extent = [side * length for side, length in zip(shape[:axes], spacing, strict=False)]
        slices = list(shape[axes:])
        if self.spacing is None:
            slices = [min(own, most) for own, most in zip(slices, self.size[axes:], strict=True)]
            voxels = min(math.prod(self.size[:axes]), math.prod(shape[:axes]))
            steps = [(math.prod(extent) / voxels) ** (1 / axes)] * axes
        else:
            steps = list(ensure_tuple_rep(self.spacing, len(shape))[:axes])
            if all(length < step for length, step in zip(extent, steps, strict=True)):
                sides = " x ".join(f"{length:.3g}" for length in extent)
                raise ValueError(f"working_spacing must be less than the {sides} mm of the image, got {self.spacing}")
        return [max(self.min_side, round(length / step)) for length, step in zip(extent, steps, strict=True)] + slices


def _voxel_of(image: Tensor) -> tuple[float, ...]:
    """The sides of a voxel in mm.

    An image that lost its metadata in a cache counts as one of 1 mm in MONAI, whose transforms even make a `MetaTensor`
    of it: without the metadata of a loader, an affine is believed only where it is not MONAI's default, and no
    transform can have made it of that.
    """
    axes = image.ndim - 1
    meta, affine, is_known = {}, np.eye(4), False
    if isinstance(image, MetaTensor):
        meta, affine = image.meta, np.asarray(image.affine, np.float64)
        is_default = bool(image.applied_operations) or np.array_equal(affine, np.eye(len(affine)))
        is_known = bool(meta.keys() & {"has_geometry", "spatial_shape"}) or not is_default
    if not is_known:
        warnings.warn(UNKNOWN_VOXELS, stacklevel=3)
    if not is_known or not meta.get("has_geometry", True):
        return (1.0,) * axes
    return tuple(np.linalg.norm(affine[:-1, :axes], axis=0).tolist())


def check_grid(values: int, shape: Sequence[int]) -> None:
    """Raises `ValueError` if the values on a grid take more than the share of memory for an image."""
    available = available_memory()
    if 4 * values > available / SHARE:
        grid, size, free = " x ".join(map(str, shape)), 4 * values / 2**30, available / 2**30
        raise ValueError(
            f"a working grid of {grid} takes {size:.3g} GiB, more than a quarter of the {free:.3g} GiB that are free: "
            "a larger working_spacing or a smaller working_size needs less"
        )
