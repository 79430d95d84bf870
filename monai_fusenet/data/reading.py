"""Image files as channel-first tensors that remember the grid they came from."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import MetaKeys, SpaceKeys
from monai.utils.misc import ImageMetaKey
from PIL import UnidentifiedImageError
from torch import Tensor

from monai_fusenet.data.dicom_headers import is_dicom_file
from monai_fusenet.data.dicom_series import read_dicom, read_series
from monai_fusenet.data.formats import IMAGE_SUFFIXES, NIFTI_SUFFIXES, PICTURE_SUFFIXES, suffix_of
from monai_fusenet.data.in_memory import raster_of
from monai_fusenet.data.itk_files import read_with_itk
from monai_fusenet.data.nifti import read_nifti
from monai_fusenet.data.pictures import read_picture
from monai_fusenet.data.raster import Raster
from monai_fusenet.utils.errors import failure_reason, printable
from monai_fusenet.utils.geometry import same_place

__all__ = ["LoadMedicalImaged", "load_image", "read_raster", "to_tensor"]

AFFINE_REMEDY = "save it with a true one (NIfTI with a right qform, by nibabel: image.set_sform(image.get_qform()))"
OWN_KEYS = {"loaded_affine", "grid_shape", "has_geometry"}  # of the metadata that `load_image` leaves
FLAT = 1e-4  # volume that three axes of length 1 span at least: no scanner tilts its slices so far


def load_image(path: str | os.PathLike | Sequence[str | os.PathLike], nearest: bool = False) -> MetaTensor:
    """Loads one image: a file, a folder that holds one DICOM series, or several files stacked as channels.

    - Pictures (PNG, JPEG, BMP, one-page TIFF) are (C, H, W) in row-major order, upright by their EXIF orientation.
      Palettes and CMYK become RGB, black and white becomes 0 and 255, all other values do not change.
    - A TIFF of several pages is a volume (C, X, Y, pages) of unit spacing; if OME-XML, ImageJ or tifffile say that
      pages are channels, they are.
    - NIfTI, NRRD, MetaImage and DICOM are (C, X, Y[, Z]). One axis of length 1 of a volume is dropped (the last
      one, if there are several), so that a one-slice volume is a 2-D image. DICOM files need no suffix.
    - A picture of more than 67 108 864 pixels becomes a working copy of at most that many: one pixel for each block of
      2 x 2, 4 x 4, ... of its pixels. A TIFF is read in parts for that; others must fit into memory.

    Args:
        path: the file, folder or files to load. Several files must have equal shapes and affines; their transparency is
            dropped, and their channels are concatenated in the given order.
        nearest: for a large picture, take the middle pixel of each block instead of the mean, as label maps need.

    Returns:
        A float32 `MetaTensor` of shape (C, *spatial). Its `meta` holds, besides `filename_or_obj`, `affine` and
        `space` as in MONAI:

        - `spatial_shape`: the spatial shape of the tensor;
        - `grid_shape`: the spatial shape in the file, axes of length 1 included: a mask of the tensor's shape goes
          back onto the image's own grid by `mask.reshape(1, *grid_shape)`;
        - `original_affine`: the 4 x 4 affine of that grid, as the file states it (`affine` has the tensor's axes
          first);
        - `loaded_affine`: the affine of the tensor as it was loaded; `affine` changes when the tensor is resized;
        - `has_geometry`: False for pictures, whose pixels have no size in millimetres;
        - `states_place`: whether the file says where in space its grid lies. Pictures, TIFF, NIfTI without any form,
          NRRD and MetaImage without origin and directions, and DICOM without a position (X-rays, ultrasound) do not;
        - `has_alpha`: whether the last channel is transparency;
        - `block`: the side of the blocks of pixels that became one each, 1 but for large pictures; and
          `file_shape`, the spatial shape in the file, which of large pictures is not that of the tensor;
        - `nifti_header`: bytes of a NIfTI-1 header with the place of the grid as a NIfTI file states it, by two forms,
          their codes and a unit; b"" for other formats.

    Raises:
        ValueError: if the file is missing, empty, truncated or not an image, claims more than it or memory can hold,
            if the slices of a series, or the frames of a file, are not one volume of evenly spaced slices, or if
            several files differ in shape or affine.
    """
    paths = [str(path)] if isinstance(path, str | os.PathLike) else [str(one) for one in path]
    if not paths:
        raise ValueError("expected the path of an image, got an empty list")
    rasters = [read_raster(one, nearest) for one in paths]
    first = rasters[0]
    if len(rasters) > 1:
        for one, raster in zip(paths, rasters, strict=True):
            if raster.sides != first.sides:
                raise ValueError(
                    f"images to stack must have one shape, got {first.sides} for {paths[0]} "
                    f"and {raster.sides} for {one}"
                )
            if not same_place(_affine_of(raster), _affine_of(first), first.pixels.shape[1:]):
                raise ValueError(
                    f"images to stack must lie on one grid, but the affines of {paths[0]} and {one} differ: "
                    "resample one to the other"
                )
        opaque = [raster.pixels[:-1] if raster.has_alpha else raster.pixels for raster in rasters]
        first = first._replace(pixels=np.concatenate(opaque), has_alpha=False)
    return to_tensor(first, paths[0])


class LoadMedicalImaged(MapTransform):
    """Dictionary transform that replaces paths by loaded images; see `load_image` for formats, shapes and metadata.

    An image that is already in memory, as MONAI Deploy and other programs pass it, gets the same metadata, see
    `raster_of`. An image that was loaded by this transform before stays as it is.

    Args:
        keys: keys of paths, of lists of paths that are stacked as channels, or of images.
        allow_missing_keys: whether samples may lack a key.

    Shape:
        path -> (C, *spatial); of an image (C, *spatial), (*spatial, C) or (*spatial) -> (C, *spatial)

    Raises:
        ValueError: if a file cannot be loaded, or a value is not an image; the message names it in one line.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns a new dictionary with the images in the place of their paths."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            given = sample[key]
            sample[key] = _from_memory(given) if isinstance(given, Tensor | np.ndarray) else load_image(given)
        return sample


def _from_memory(image: Tensor | np.ndarray) -> MetaTensor:
    if isinstance(image, MetaTensor) and image.meta.keys() >= OWN_KEYS:
        return image
    path = image.meta.get(ImageMetaKey.FILENAME_OR_OBJ) if isinstance(image, MetaTensor) else None
    return to_tensor(raster_of(image), str(path or "an image in memory"))


def read_raster(path: str, nearest: bool = False) -> Raster:
    """Reads a file or a folder of any format; `ValueError`, as for `load_image`, if it cannot be read.

    Args:
        path: of it.
        nearest: see `load_image`.
    """
    try:
        if not os.path.exists(path):
            raise ValueError("no such file or folder")
        if os.path.isdir(path):
            return read_series(path)
        if not os.path.isfile(path):
            raise ValueError("a pipe or a device, not a file")
        if os.path.getsize(path) == 0:
            raise ValueError("the file is empty (0 bytes)")
        suffix = suffix_of(path)
        if suffix in PICTURE_SUFFIXES:
            return read_picture(path, nearest)
        if suffix in NIFTI_SUFFIXES:
            return read_nifti(path)
        if is_dicom_file(path):
            return read_dicom(path)
        if suffix in IMAGE_SUFFIXES:
            return read_with_itk(path)
        raise ValueError(f"unknown suffix '{suffix}', expected one of {' '.join(IMAGE_SUFFIXES)}")
    except Exception as error:  # a damaged file makes the libraries below raise anything, SyntaxError included
        raise ValueError(f"cannot read {printable(path)}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or damaged"
    if isinstance(error, MemoryError) or "bad_alloc" in str(error):
        return "there is not enough memory for it"
    if re.search("itk", str(error), re.IGNORECASE) and isinstance(error, RuntimeError | TypeError):
        return "not an image, truncated or damaged"  # instead of C++ file names and addresses over many lines
    return failure_reason(error)


def _affine_of(raster: Raster) -> np.ndarray:
    """The affine for three axes."""
    affine = np.eye(4)
    rank = raster.affine.shape[0] - 1  # 2 for the plane images of ITK
    affine[:rank, :rank] = raster.affine[:rank, :rank]
    affine[:rank, 3] = raster.affine[:rank, rank]
    return affine


def to_tensor(raster: Raster, path: str) -> MetaTensor:
    """Turns a raster from a path into the result of `load_image`."""
    pixels = raster.pixels
    grid_shape = pixels.shape[1:]
    original_affine = _affine_of(raster)
    if not np.isfinite(original_affine).all() or not original_affine[:3, :3].any(axis=0).all():
        raise ValueError(
            f"cannot read {printable(path)}: its affine {original_affine[:3].tolist()} gives an axis no length: "
            + AFFINE_REMEDY
        )
    axes = original_affine[:3, :3] / np.linalg.norm(original_affine[:3, :3], axis=0)
    if abs(np.linalg.det(axes)) < FLAT:
        raise ValueError(
            f"cannot read {printable(path)}: its affine {original_affine[:3].tolist()} is flat, not of three axes: "
            + AFFINE_REMEDY
        )
    affine = original_affine
    singletons = [axis for axis, length in enumerate(grid_shape) if length == 1]
    if len(grid_shape) == 3 and singletons:
        dropped = singletons[-1]
        pixels = pixels.squeeze(dropped + 1)
        affine = affine[:, [axis for axis in range(3) if axis != dropped] + [dropped, 3]]
    tensor = torch.from_numpy(np.array(pixels, dtype=np.float32, order="C"))
    meta = {
        ImageMetaKey.FILENAME_OR_OBJ: path,
        MetaKeys.SPATIAL_SHAPE: np.asarray(pixels.shape[1:]),
        MetaKeys.ORIGINAL_AFFINE: original_affine,
        MetaKeys.ORIGINAL_CHANNEL_DIM: 0,
        MetaKeys.SPACE: SpaceKeys.RAS,
        "loaded_affine": affine.copy(),
        "grid_shape": np.asarray(grid_shape),
        "has_geometry": raster.has_geometry,
        "states_place": raster.states_place,
        "has_alpha": raster.has_alpha,
        "block": raster.block,
        "file_shape": np.asarray(raster.sides),
        "nifti_header": raster.nifti_header,
    }
    return MetaTensor(tensor, affine=torch.from_numpy(affine.copy()), meta=meta)
