"""NIfTI, read by nibabel."""

from __future__ import annotations

import os

import numpy as np
from monai.data import NibabelReader
from monai.utils import MetaKeys

from monai_fusenet.data.claims import DEFLATE, check_claim
from monai_fusenet.data.formats import NIFTI_SUFFIXES, suffix_of
from monai_fusenet.data.raster import Raster, channel_first

__all__ = ["read_nifti"]


def read_nifti(path: str) -> Raster:
    """The values of a NIfTI file, with the channels of a vector, RGB or RGBA image."""
    if not path.endswith((*NIFTI_SUFFIXES, *(suffix.upper() for suffix in NIFTI_SUFFIXES))):
        raise ValueError("nibabel needs the suffix in lower or in upper case: rename the file")
    reader = NibabelReader(squeeze_non_spatial_dims=True)
    image = reader.read(path)  # no value of it yet
    packing = DEFLATE if suffix_of(path) == ".nii.gz" else 1
    check_claim(image.shape, image.get_data_dtype().itemsize, os.path.getsize(path), packing)
    array, meta = reader.get_data(image)
    has_alpha = False
    if array.dtype.names:  # NIfTI's RGB24 and RGBA32
        has_alpha = array.dtype.names[-1] == "A"
        array = np.stack([array[channel] for channel in array.dtype.names], axis=-1)
    if np.iscomplexobj(array):
        raise ValueError("its values are complex, expected real ones")
    return Raster(channel_first(array, meta), meta[MetaKeys.ORIGINAL_AFFINE], has_geometry=True, has_alpha=has_alpha)
