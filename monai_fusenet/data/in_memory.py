"""Images that a program already holds, in the form of images loaded from a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from monai.data import MetaTensor
from monai.data.utils import is_no_channel, orientation_ras_lps
from monai.utils import MetaKeys, SpaceKeys
from torch import Tensor

from monai_fusenet.data.raster import Raster

__all__ = ["raster_of"]


def raster_of(image: Tensor | np.ndarray) -> Raster:
    """The content of an array, a tensor or a `MetaTensor`.

    Channels come first, or in the place that the metadata give. The `spatial_shape` of MONAI's readers is the best
    sign, because MONAI does not change `original_channel_dim` when `EnsureChannelFirst` has moved the channels. An
    affine other than the identity gives the geometry of the image, in RAS, or in LPS if `space` says so.

    Args:
        image: (C, *spatial), (*spatial, C) or (*spatial), of two or three spatial axes.

    Raises:
        ValueError: when it has other axes, values that are not real numbers, or an invalid affine.
    """
    meta: Mapping[str, Any] = image.meta if isinstance(image, MetaTensor) else {}
    array = image.detach().cpu().numpy() if isinstance(image, Tensor) else image
    if array.dtype.kind not in "biuf":
        raise ValueError(f"an image must hold real numbers, got an array of {array.dtype}")
    pixels = _channels_first(array, meta)
    if pixels.ndim not in (3, 4) or 0 in pixels.shape:
        raise ValueError(f"an image must have the shape (C, *spatial) in 2-D or 3-D, got {tuple(array.shape)}")
    affine = _affine_of(meta)
    lies_somewhere = not np.array_equal(affine, np.eye(4))
    return Raster(
        pixels,
        affine,
        has_geometry=bool(meta.get("has_geometry", lies_somewhere or pixels.ndim == 4)),
        has_alpha=bool(meta.get("has_alpha", False)),
        states_place=bool(meta.get("states_place", lies_somewhere)),
        nifti_header=meta.get("nifti_header", b""),
    )


def _channels_first(array: np.ndarray, meta: Mapping[str, Any]) -> np.ndarray:
    spatial = tuple(np.asarray(meta.get(MetaKeys.SPATIAL_SHAPE, ())).astype(int).tolist())
    channel = meta.get(MetaKeys.ORIGINAL_CHANNEL_DIM, 0)
    if spatial and array.shape == spatial:
        return array[None]
    if spatial and array.shape[1:] == spatial:
        return array
    if is_no_channel(channel):
        return array[None] if array.ndim < 4 else array
    return np.moveaxis(array, int(channel), 0) if array.ndim > 2 else array[None]


def _affine_of(meta: Mapping[str, Any]) -> np.ndarray:
    given = meta.get(MetaKeys.AFFINE)
    affine = np.eye(4) if given is None else np.asarray(given)
    if affine.dtype.kind not in "iuf" or affine.shape not in ((3, 3), (4, 4)) or not np.isfinite(affine).all():
        raise ValueError(f"the affine of an image must be a finite matrix 4 x 4, got {given!r:.100}")
    if affine.shape == (3, 3):  # of a plane
        whole = np.eye(4)
        whole[:2, :2], whole[:2, 3] = affine[:2, :2], affine[:2, 2]
        affine = whole
    affine = affine.astype(float)
    return orientation_ras_lps(affine) if meta.get(MetaKeys.SPACE) == SpaceKeys.LPS else affine
