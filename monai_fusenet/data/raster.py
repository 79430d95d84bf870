"""The common result of all readers: pixels, their geometry, and their meaning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from monai.utils import MetaKeys

__all__ = ["Raster", "channel_first"]


class Raster(NamedTuple):
    """The content of a file.

    Attributes:
        pixels: (C, *grid).
        affine: from grid indices to millimetres (RAS); of as many axes as the grid has, or more.
        has_geometry: whether pixels have a size in millimetres.
        has_alpha: whether the last channel is transparency.
        states_place: whether the file itself says where in space its grid lies; otherwise the reader has chosen
            `affine`.
        nifti_header: a NIfTI-1 header with the place of the grid as a NIfTI file states it, b"" for other formats.
        indices: (1, *grid), the indices into the palette where `pixels` are its colours.
        lossy: whether the values are about what was written (JPEG).
        labels: (C, *grid), the values of a mask, where `pixels` show them inverted.
        block: the side of the blocks of pixels of the file that became one pixel each; 1 but for large pictures.
        file_shape: of a large picture, its rows and columns in the file; () of what is read as it is.
    """

    pixels: np.ndarray
    affine: np.ndarray
    has_geometry: bool
    has_alpha: bool
    states_place: bool = False
    nifti_header: bytes = b""
    indices: np.ndarray | None = None
    lossy: bool = False
    labels: np.ndarray | None = None
    block: int = 1
    file_shape: tuple[int, ...] = ()

    @property
    def sides(self) -> tuple[int, ...]:
        """The shape of the grid in the file."""
        return self.file_shape or self.pixels.shape[1:]


def channel_first(array: np.ndarray, meta: Mapping) -> np.ndarray:
    """An array as MONAI's readers return it, with its channels first, or with one channel where it has none.

    Args:
        array: (*grid) or (*grid, C).
        meta: what the reader says of it; counts the axes of the grid.

    Raises:
        ValueError: when it has other axes.
    """
    spatial_dims = len(meta[MetaKeys.SPATIAL_SHAPE])
    if array.ndim == spatial_dims:
        return array[None]
    if array.ndim == spatial_dims + 1:
        return np.moveaxis(array, -1, 0)
    raise ValueError(f"expected up to 3 spatial axes and one of channels, got an array of shape {array.shape}")
