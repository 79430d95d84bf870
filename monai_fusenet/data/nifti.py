"""NIfTI, read by nibabel."""

from __future__ import annotations

import os

import nibabel as nib
import numpy as np
from monai.utils import MetaKeys

from monai_fusenet.data.claims import DEFLATE, check_claim
from monai_fusenet.data.formats import NIFTI_SUFFIXES, suffix_of
from monai_fusenet.data.raster import Raster, channel_first

__all__ = ["read_nifti"]

PLACE_FIELDS = (
    *("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z", "xyzt_units"),
)


def read_nifti(path: str) -> Raster:
    """The values of a NIfTI file, with the channels of a vector, RGB or RGBA image.

    Frames of a time series are channels, too.
    """
    if not path.endswith((*NIFTI_SUFFIXES, *(suffix.upper() for suffix in NIFTI_SUFFIXES))):
        raise ValueError("nibabel needs the suffix in lower or in upper case: rename the file")
    try:
        image = nib.load(path)  # no value of it yet
    except ValueError as error:  # of a quaternion; nibabel has classes of its own for other damage
        raise ValueError(
            f"its header states no valid place ({error}): save it with a true affine, such as by nibabel's set_sform"
        ) from error
    if not isinstance(image, nib.Nifti1Image):  # of which NIfTI-2 is a kind
        raise ValueError(f"expected a NIfTI image of voxels, got a {type(image).__name__}")
    packing = DEFLATE if suffix_of(path) == ".nii.gz" else 1
    check_claim(image.shape, image.get_data_dtype().itemsize, os.path.getsize(path), packing)
    if image.get_data_dtype().kind == "c":
        raise ValueError("its values are complex, expected real ones")
    array = np.asanyarray(image.dataobj)
    spatial_shape = array.shape[:3]
    array = array.reshape(*spatial_shape, *(side for side in array.shape[3:] if side > 1))
    has_alpha = False
    if array.dtype.names:  # NIfTI's RGB24 and RGBA32
        has_alpha = array.dtype.names[-1] == "A"
        array = np.stack([array[channel] for channel in array.dtype.names], axis=-1)
    pixels = channel_first(array, {MetaKeys.SPATIAL_SHAPE: spatial_shape})
    return Raster(
        pixels,
        image.affine,
        has_geometry=True,
        has_alpha=has_alpha,
        states_place=bool(image.header["qform_code"] or image.header["sform_code"]),
        nifti_header=_place(image.header),
    )


def _place(header: nib.Nifti1Header) -> bytes:
    """A NIfTI-1 header that says where the image lies, by both forms and their codes, and nothing else."""
    place = nib.Nifti1Header()
    for field in PLACE_FIELDS:
        place[field] = header[field]
    place["pixdim"][:4] = header["pixdim"][:4]
    return place.binaryblock
