"""Folders of DICOM files: which of them are one series, and the series as one volume."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import itk
import numpy as np
from monai.data import ITKReader

from monai_fusenet.data.claims import check_dicom
from monai_fusenet.data.formats import DICOM_SUFFIXES, suffix_of
from monai_fusenet.data.itk_files import check_itk_claim, itk_header, raster_of
from monai_fusenet.data.raster import Raster
from monai_fusenet.utils.errors import printable
from monai_fusenet.utils.geometry import SAME_PLACE

__all__ = ["dicom_series", "read_series"]

UNEVEN = 0.25  # parts of the distance between slices that one may lie off, where no grid is exact


def dicom_series(folder: str | os.PathLike) -> list[list[str]]:
    """Groups the DICOM files directly in a folder by series.

    Files belong together when they share SeriesInstanceUID, series number and date, image size and slice thickness:
    the rule by which MONAI's `ITKReader` picks the files of a folder.

    Args:
        folder: an existing folder. Files that are not DICOM are passed over.

    Returns:
        One list of file paths per series, in the order of the slices.

    Raises:
        ValueError: if a file of the folder would make ITK hang or take absurd amounts of memory.
    """
    for path in Path(folder).iterdir():
        if path.exists() and not path.is_file() and not path.is_dir():
            raise ValueError(f"{printable(path.name)} is a pipe or a device, not a file")
        if suffix_of(path) in DICOM_SUFFIXES and path.is_file() and path.stat().st_size > 0:
            try:
                check_dicom(str(path))
            except ValueError as error:
                raise ValueError(f"its file {printable(path.name)} is {error}") from error
    names = itk.GDCMSeriesFileNames.New()
    names.SetUseSeriesDetails(True)
    names.AddSeriesRestriction("0008|0021")
    shows_warnings = names.GetGlobalWarningDisplay()
    names.SetGlobalWarningDisplay(False)  # an empty answer is an answer, not a reason to print
    names.SetDirectory(str(folder))
    names.SetGlobalWarningDisplay(shows_warnings)  # it holds for all of ITK
    return [list(names.GetFileNames(uid)) for uid in names.GetSeriesUIDs()]


def read_series(folder: str) -> Raster:
    """The one series of a folder as a volume, its slices in order.

    Raises:
        ValueError: when the folder holds no series, several, or files that are damaged; when slices are missing.
    """
    series = dicom_series(folder)
    if len(series) != 1:
        raise ValueError(f"a folder must hold one DICOM series, got {len(series)}: give each a folder of its own")
    files = series[0]
    others = sorted(
        {name for name in os.listdir(folder) if suffix_of(name) in DICOM_SUFFIXES} - {Path(file).name for file in files}
    )
    if others:
        raise ValueError(f"{len(others)} of its DICOM files are damaged, the first is {printable(others[0])}")
    header = itk_header(files[0])
    check_itk_claim(header, files, len(files))
    image = ITKReader(pixel_type=_pixel_type(header)).read(folder)
    notes, uneven = image.GetMetaDataDictionary(), "ITK_non_uniform_sampling_deviation"
    if notes.HasKey(uneven) and notes[uneven] > UNEVEN * image.GetSpacing()[2]:
        raise ValueError(
            f"its slices are not evenly spaced, they lie up to {notes[uneven]:.3g} mm off: are some missing?"
        )
    raster = raster_of(image)
    return raster._replace(affine=_with_steps(raster.affine, files))


def _with_steps(affine: np.ndarray, files: Sequence[str]) -> np.ndarray:
    """The affine with the step from slice to slice that the headers tell: ITK's is upright, a gantry may be tilted."""
    if len(files) == 1:
        return affine
    first, last = (
        np.array([header.GetOrigin(axis) for axis in range(3)]) for header in map(itk_header, files[:: len(files) - 1])
    )
    step = (last - first) * (-1, -1, 1) / (len(files) - 1)  # RAS
    if np.abs(step - affine[:3, 2]).max() * len(files) < SAME_PLACE:
        return affine
    sheared = affine.copy()
    sheared[:3, 2] = step
    return sheared


def _pixel_type(header: itk.ImageIOBase) -> Any:
    """Float32 throughout: ITK's Python package has no images of some integer types, int8 and int64 among them."""
    return itk.F if header.GetNumberOfComponents() == 1 else itk.VariableLengthVector[itk.F]
