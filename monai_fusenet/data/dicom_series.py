"""Folders of DICOM files: the images in them, and a series as one volume."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from monai_fusenet.data.dicom_headers import SLICE_MODALITIES, DicomHeader, is_dicom_file, read_header
from monai_fusenet.data.dicom_pixels import read_pixels
from monai_fusenet.data.dicom_slices import (
    affine_of_slices,
    check_volume,
    differences,
    filled,
    has_direction_of,
    in_order,
)
from monai_fusenet.data.itk_files import check_itk_claim, itk_header
from monai_fusenet.data.raster import Raster
from monai_fusenet.utils.errors import printable

__all__ = ["dicom_images", "objects_below", "read_dicom", "read_series", "series_files"]

SEGMENTATION = "Segmentation"  # a kind of object
MOST_VIEWS = 20  # of one series, each with a direction, or, where it is no slice, a size of its own
DAMAGED = "not an image, or damaged"


class _Folder(NamedTuple):
    """What the DICOM files of a folder are.

    Attributes:
        singles: images by themselves: without a place, of several frames, or each unlike all others of its series.
        series: slices by series, of one or more.
        damaged: why a file is no image, by name.
        objects: what the files without an image are called, by name.
    """

    singles: list[DicomHeader]
    series: list[list[DicomHeader]]
    damaged: dict[str, str]
    objects: dict[str, str]

    @property
    def has_volume(self) -> bool:
        return any(len(files) > 1 for files in self.series)


def dicom_images(folder: Path, names: Iterable[str], holds_masks: bool = False) -> list[Path]:
    """The images in the files of a folder.

    The slices of a series are one image, represented by the folder. Every other file is an image of its own: one
    without a place in the patient (X-rays, ultrasound, screenshots), one with several frames, or the only slice of its
    series. DICOM objects without an image (reports, presentation states, plans, segmentations) are ignored.

    Args:
        folder: folder of the files.
        names: names of image files in it, of any format.
        holds_masks: whether they are masks, which segmentation objects may be.

    Returns:
        Paths of files, in the order of `names`, then the folder if it holds slices. If these are not one volume, or a
        file is damaged, the folder counts as an image, and loading it fails.
    """
    names = list(names)
    found = _look(folder, [name for name in names if is_dicom_file(folder / name)])
    passed_over = {name for name, kind in found.objects.items() if not (holds_masks and kind == SEGMENTATION)}
    if found.has_volume:
        passed_over |= {*found.damaged, *(Path(slice_.path).name for files in found.series for slice_ in files)}
    images = [folder / name for name in names if name not in passed_over]
    return [*images, folder] if found.has_volume else images


def read_dicom(path: str) -> Raster:
    """The image of a DICOM file; for several frames with places, the volume in the order of its slices.

    The segments of a segmentation are joined; missing slices are 0.

    Raises:
        ValueError: if it is damaged or holds no image; if its frames have the same place, or are not one volume.
    """
    header = read_header(path)
    if not header.holds_image and header.kind != SEGMENTATION:
        raise ValueError(f"it holds no image, it is a DICOM object of another kind: {header.kind}")
    if header.is_cine:
        raise ValueError(
            f"its {header.frames} frames follow one another in time, and are no slices of a volume: save each frame as "
            "a file of its own"
        )
    raster = read_pixels(header)._replace(states_place=bool(header.planes))
    if header.spacing is not None and np.array_equal(np.abs(raster.affine[:3, :2]), np.eye(3)[:, :2]):
        # GDCM looks at one attribute of each class, and takes 1 mm where it is not there
        raster = raster._replace(affine=raster.affine @ np.diag([*header.spacing[::-1], 1, 1]))
    if header.rescales is not None:  # ITK takes the first for all
        slope, intercept = header.rescales[0]
        stored = (raster.pixels.astype(np.float64) - intercept) / slope
        raster = raster._replace(pixels=(stored * header.rescales[:, 0] + header.rescales[:, 1]).astype(np.float32))
    if header.frames == 1 or not header.planes:
        return raster
    if header.kind == SEGMENTATION:
        return _united(raster, header)
    order = in_order(header.planes)
    planes = [header.planes[index] for index in order]
    check_volume(planes)
    affine = affine_of_slices(planes, raster.affine)
    return raster._replace(pixels=raster.pixels[..., order], affine=affine)


def _united(frames: Raster, header: DicomHeader) -> Raster:
    """The mask of a segmentation, whose frames show one segment of one slice each, and none where a slice has none."""
    indices, planes = filled(header.planes, header.is_whole)
    pixels = np.zeros((*frames.pixels.shape[:3], len(planes)), np.float32)
    for frame, index in enumerate(indices):
        np.maximum(pixels[..., index], frames.pixels[..., frame], out=pixels[..., index])
    return frames._replace(pixels=pixels, affine=affine_of_slices(planes, frames.affine))


def read_series(folder: str) -> Raster:
    """The image of a folder: a series of slices as a volume; images of other kinds beside it are ignored.

    Raises:
        ValueError: when the folder holds no series, several, or files that are damaged; when the slices are not one
            volume.
    """
    headers = _slices(folder)
    files = [header.path for header in headers]
    if len(files) == 1:
        return read_dicom(files[0])
    planes = [header.planes[0] for header in headers]
    check_volume(planes)
    check_itk_claim(itk_header(files[0]), files, len(files))
    first = read_pixels(headers[0])
    slices = np.empty((len(files), *first.pixels.shape[:3]), np.float32)
    slices[0] = first.pixels[..., 0]
    for index, header in enumerate(headers[1:], start=1):
        slices[index] = read_pixels(header).pixels[..., 0]
    affine = affine_of_slices(planes, first.affine)
    return first._replace(pixels=np.moveaxis(slices, 0, -1), affine=affine, states_place=True)


def series_files(folder: str | os.PathLike) -> list[str]:
    """The files that `read_series` reads, in the order of the slices.

    Raises:
        ValueError: when the folder holds no series, several, or files that are damaged.
    """
    return [header.path for header in _slices(os.fspath(folder))]


def _slices(folder: str) -> list[DicomHeader]:
    """The headers of the slices of the one series of a folder, in order; of the one image where it holds no other."""
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if not entry.is_dir() and is_dicom_file(entry.path))
    found = _look(Path(folder), names)
    if found.damaged:
        name, reason = next(iter(found.damaged.items()))
        if reason == DAMAGED:
            count = sum(reason == DAMAGED for reason in found.damaged.values())
            raise ValueError(f"{count} of its DICOM files are damaged, the first is {printable(name)}")
        raise ValueError(f"its file {printable(name)} is {reason}")
    if len(found.series) == 1 and (found.has_volume or not found.singles):
        files = found.series[0]
        return [files[index] for index in in_order([header.planes[0] for header in files])]
    if len(found.series) > 1 or not (found.singles or found.series or found.objects):
        raise ValueError(f"a folder must hold one DICOM series, got {len(found.series)}: give each a folder of its own")
    images = [*found.singles, *(header for files in found.series for header in files)]
    if len(images) == 1:
        return images
    if images:
        raise ValueError(
            f"a folder must hold one DICOM series, got {len(images)} images that are no slices of a volume: "
            "load each by the path of its file"
        )
    raise ValueError(f"it holds no image, but {_counted(found.objects.values())}")


def objects_below(root: str | os.PathLike) -> str:
    """Names the DICOM objects without an image in a folder and all below it, such as "2 Basic Text SR"; "" for none."""
    kinds: list[str] = []
    for folder, _, names in os.walk(os.fspath(root)):
        kinds += _look(
            Path(folder), [name for name in names if is_dicom_file(os.path.join(folder, name))]
        ).objects.values()
    return _counted(kinds)


def _counted(kinds: Iterable[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(kinds).items()))


def _look(folder: Path, names: Iterable[str]) -> _Folder:
    found = _Folder([], [], {}, {})
    series: dict[tuple[str, ...], list[DicomHeader]] = defaultdict(list)
    for name in names:
        try:
            header = _checked_header(folder / name)
        except (OSError, ValueError) as error:
            found.damaged[name] = str(error)
            continue
        if not header.holds_image:
            found.objects[name] = header.kind
        elif header.frames > 1 or not header.planes:
            found.singles.append(header)
        else:
            series[header.series].append(header)
    for header in [header for header in found.singles if _is_lost(header, series.get(header.series, []))]:
        found.singles.remove(header)
        series[header.series].append(header)
        found.damaged[os.path.basename(header.path)] = (
            f"a slice without {header.lacks}, unlike the others of its series: restore it, or move the file to another "
            "folder"
        )
    for files in series.values():
        (found.singles.extend if _are_singles(files) else found.series.append)(files)
    return found


def _is_lost(header: DicomHeader, slices: Sequence[DicomHeader]) -> bool:
    """Whether an image without a place is one of the slices of its series: screenshots are of another class or size."""
    alike = [slice_ for slice_ in slices if slice_.planes and (slice_.kind, slice_.size) == (header.kind, header.size)]
    return bool(header.lacks and alike)


def _checked_header(path: Path) -> DicomHeader:
    if not path.exists():
        raise ValueError("a link to a file that does not exist")
    if not path.is_file():
        raise ValueError("a pipe or a device, not a file")
    if path.stat().st_size == 0:
        raise ValueError("empty (0 bytes)")
    return read_header(str(path))


def _are_singles(files: list[DicomHeader]) -> bool:
    """Whether files that share a series are no slices: no two are alike, or all are pictures of one place.

    Slices of scanners are views, such as scouts, only by their directions: their size and spacing tell what went wrong.
    """
    if len(files) == 1 or any(header.lacks for header in files):
        return False
    planes = [header.planes[0] for header in files]
    are_slices = any(header.modality in SLICE_MODALITIES for header in files)
    pairs = [(a, b) for index, a in enumerate(planes) for b in planes[:index]] if len(files) < MOST_VIEWS else []
    if pairs and not any(has_direction_of(a, b) if are_slices else not differences(a, b) for a, b in pairs):
        return True
    return not are_slices and all(np.array_equal(plane.position, planes[0].position) for plane in planes)
