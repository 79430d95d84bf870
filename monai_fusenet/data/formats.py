"""The file formats that can be read, by suffix."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = [
    "DICOM_SUFFIXES",
    "IMAGE_SUFFIXES",
    "META_IMAGE_SUFFIXES",
    "NIFTI_SUFFIXES",
    "NRRD_SUFFIXES",
    "PICTURE_SUFFIXES",
    "suffix_of",
]

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
NIFTI_SUFFIXES = (".nii", ".nii.gz")
META_IMAGE_SUFFIXES = (".mha", ".mhd")
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
NRRD_SUFFIXES = (".nrrd", ".nhdr")
IMAGE_SUFFIXES = (*PICTURE_SUFFIXES, *NIFTI_SUFFIXES, *NRRD_SUFFIXES, *META_IMAGE_SUFFIXES, *DICOM_SUFFIXES)


def suffix_of(path: str | os.PathLike) -> str:
    """The suffix in lower case; `.nii.gz` counts as one.

    Example:
        >>> suffix_of("a/b.c/Brain.NII.GZ"), suffix_of("lesion.v2.PNG")
        ('.nii.gz', '.png')
    """
    name = Path(path).name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix
