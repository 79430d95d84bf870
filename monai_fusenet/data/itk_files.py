"""NRRD and MetaImage files, read by ITK, and the common part of all formats that ITK reads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from monai.data import ITKReader
from monai.utils import MetaKeys

from monai_fusenet.data.claims import (
    DEFLATE,
    check_claim,
    check_packed,
    check_text,
    data_files,
    text_fields,
)
from monai_fusenet.data.formats import META_IMAGE_SUFFIXES, NRRD_SUFFIXES, suffix_of
from monai_fusenet.data.raster import Raster, channel_first

if TYPE_CHECKING:  # imported by what reads with it: pictures and NIfTI need none of it
    import itk

__all__ = ["LPS_TO_RAS", "affine_of_header", "check_itk_claim", "itk_header", "itk_image", "raster_of", "read_with_itk"]

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_ITK_READERS = {
    **dict.fromkeys(NRRD_SUFFIXES, "NrrdImageIO"),
    **dict.fromkeys(META_IMAGE_SUFFIXES, "MetaImageIO"),
}
_PLACE_FIELDS = {  # of NRRD, then of MetaImage, as `text_fields` tells them: a header without one states no place
    *("spacedirections", "spaceorigin"),
    *("transformmatrix", "rotation", "orientation", "offset", "position", "origin"),
}
_DICOM_READER = "GDCMImageIO"  # of files of any other suffix, and of none


def read_with_itk(path: str) -> Raster:
    """The values of a file, after a check that its header does not make ITK crash, hang or take all memory."""
    check_text(path)
    fields, files = dict(text_fields(path)), data_files(path)
    if fields.get("compresseddatasize", "").isdecimal():  # MetaIO takes as much memory without asking
        check_claim([int(fields["compresseddatasize"])], 1, sum(map(os.path.getsize, files)), 1)
    header = itk_header(path)
    packed = fields.get("encoding", "raw") != "raw" or fields.get("compresseddata", "False") != "False"
    check_itk_claim(header, files, packing=DEFLATE if packed else 1)
    if packed and suffix_of(path) in META_IMAGE_SUFFIXES:
        check_packed(path, header.GetImageSizeInBytes())
    return raster_of(itk_image(path))._replace(states_place=bool(_PLACE_FIELDS & fields.keys()))


def itk_header(path: str) -> itk.ImageIOBase:
    """The header of a file, read. ITK would know some formats by their suffix, which it expects in lower case."""
    import itk

    suffix = suffix_of(path)
    header = getattr(itk, _ITK_READERS.get(suffix, _DICOM_READER)).New()
    if suffix not in META_IMAGE_SUFFIXES and not header.CanReadFile(path):
        raise ValueError("not an image, or damaged")
    header.SetFileName(path)
    header.ReadImageInformation()
    return header


def affine_of_header(header: itk.ImageIOBase) -> np.ndarray:
    """The affine (4, 4) to millimetres (RAS) by which ITK places the pixels of a header that is read."""
    affine, axes = np.eye(4), range(header.GetNumberOfDimensions())
    for axis in axes:
        affine[: len(axes), axis] = np.multiply(header.GetDirection(axis), header.GetSpacing(axis))
        affine[axis, 3] = header.GetOrigin(axis)
    return LPS_TO_RAS @ affine


def check_itk_claim(header: itk.ImageIOBase, files: Sequence[str], count: int = 1, packing: int = DEFLATE) -> None:
    """Refuses, by `check_claim`, an image that its files cannot hold.

    Args:
        header: of the image, or of the first of `count` slices.
        files: the files with the values.
        count: number of slices.
        packing: bytes that a byte of the files can hold at most.
    """
    sides = [header.GetDimensions(axis) for axis in range(header.GetNumberOfDimensions())]
    stored = sum(os.path.getsize(file) for file in files)
    shape = (count, *sides, header.GetNumberOfComponents())
    check_claim(shape, header.GetComponentSize(), stored, packing)


def itk_image(path: str, header: itk.ImageIOBase | None = None) -> Any:
    """The ITK image of a file, float32: ITK's Python package has no images of some integer types.

    Args:
        path: of the file.
        header: its header, if already read.
    """
    import itk

    header = itk_header(path) if header is None else header
    image_type = itk.Image if header.GetNumberOfComponents() == 1 else itk.VectorImage
    reader = itk.ImageFileReader[image_type[itk.F, header.GetNumberOfDimensions()]]
    reader = reader.New(FileName=path, ImageIO=header)
    reader.Update()
    return reader.GetOutput()


def raster_of(image: Any) -> Raster:
    """The values of an ITK image, and where they lie."""
    array, meta = ITKReader().get_data(image)
    # copied here, where `image` lives: the array is a view of its memory, and MONAI's LoadImage would let go of it
    pixels = np.array(channel_first(array, meta), dtype=np.float32)
    return Raster(pixels, meta[MetaKeys.ORIGINAL_AFFINE], has_geometry=True, has_alpha=False)
