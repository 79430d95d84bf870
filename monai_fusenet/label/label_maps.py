"""Label maps that clients send, brought onto the image's grid, and label maps in the form that clients ask for."""

from __future__ import annotations

import itertools
import os
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import itk
import nibabel as nib
import numpy as np
from monai.data import ITKWriter, MetaTensor
from PIL import ExifTags, Image

from monai_fusenet.data import load_image
from monai_fusenet.data.formats import NIFTI_SUFFIXES, PICTURE_SUFFIXES, suffix_of
from monai_fusenet.data.itk_files import affine_of_header
from monai_fusenet.label.requests import read_switch
from monai_fusenet.results.layout import write_label_map
from monai_fusenet.utils.files import atomic_path

__all__ = ["AnswerForm", "read_form", "read_label", "write_answer"]

EXTENSIONS = (".png", ".nii.gz", ".nii", ".nrrd", ".seg.nrrd", ".mha")
DTYPES = ("uint8", "uint16", "int16", "uint32", "int32", "float32", "float64")  # those of ITK's Python package
PNG_DTYPES = ("uint8", "uint16")
NEAREST = 0.5  # of a voxel: below it, the nearest voxel of the other grid is the same one


class AnswerForm(NamedTuple):
    """What a client wants a label map to be written as.

    Attributes:
        extension: one of `EXTENSIONS`; `None`: PNG for pictures, NIfTI for everything else.
        dtype: type of the labels; `None`: uint8, or uint16 above 255.
        compress: whether NRRD and MetaImage are compressed; the other formats always are, or never.
    """

    extension: str | None
    dtype: np.dtype | None
    compress: bool


def read_form(request: Mapping[str, Any], image: str | Path) -> AnswerForm:
    """The form that a request asks for by MONAI Label's `result_extension`, `result_dtype` and `result_compress`.

    Args:
        request: what came.
        image: the image's file.

    Raises:
        ValueError: for an extension, a type or a switch that there is not, a type that the format cannot hold, a volume
            as PNG, or a picture that its EXIF orientation turns in a format of ITK, which shows it unturned.
    """
    if not read_switch(request, "result_write_to_file", True):
        raise ValueError("result_write_to_file must be true: the answer is a file; output=json leaves it out")
    read_switch(request, "restore_label_idx", False)  # labels are those of the answer's label_names in any case
    extension, name = request.get("result_extension") or None, request.get("result_dtype") or None
    if extension is not None:
        dotted = f".{extension.lower().lstrip('.')}" if isinstance(extension, str) else ""
        if dotted not in EXTENSIONS:
            raise ValueError(f"result_extension must be one of {' '.join(EXTENSIONS)}, got {extension!r:.100}")
        extension = dotted
    if extension == ".png" and load_image(image).ndim > 3:
        raise ValueError(f"a PNG holds no volume: result_extension must be one of {' '.join(EXTENSIONS[1:])}, got .png")
    if extension not in (None, ".png") and is_turned(image):
        raise ValueError(
            f"this picture is upright by its EXIF orientation, which readers of {extension} do not follow: "
            "ask for result_extension .png, or save the picture upright"
        )
    allowed = PNG_DTYPES if extension == ".png" else DTYPES
    if name is not None and name not in allowed:
        kind = "result_dtype" if extension is None else f"result_dtype of {extension}"
        raise ValueError(f"{kind} must be one of {', '.join(allowed)}, got {name!r:.100}")
    return AnswerForm(extension, name and np.dtype(name), read_switch(request, "result_compress", False))


def is_turned(image: str | Path) -> bool:
    """Whether a picture is to be turned or mirrored by its EXIF orientation."""
    if suffix_of(image) not in PICTURE_SUFFIXES:
        return False
    with suppress(Exception), Image.open(image) as picture:  # a damaged file raises anything; loading it tells
        return picture.getexif().get(ExifTags.Base.Orientation) in range(2, 9)
    return False


def write_answer(
    labels: MetaTensor, folder: Path, form: AnswerForm, names: Mapping[str, int], image: str | Path
) -> Path:
    """Writes labels on the grid of the file that the image came from, in the form that a client asks for.

    Not into the system's temporary folder, where a client on the same machine puts its copy under the same name, and
    the server, having sent the file, would delete it.

    Args:
        labels: (1, *spatial), integers from 0 to 65535, with the `meta` of the image, see `write_label_map`.
        folder: where to.
        form: see `read_form`.
        names: names of the labels, which a `.seg.nrrd` holds.
        image: the image's file, which ITK is asked for the place of its pixels.

    Raises:
        ValueError: when the format cannot hold the type, or the type the labels.
    """
    array, is_picture = np.asarray(labels.cpu())[0], not labels.meta["has_geometry"]
    extension = form.extension or (".png" if is_picture else ".nii.gz")
    largest = int(array.max())
    dtype = form.dtype or np.dtype(np.uint8 if largest <= 255 else np.uint16)
    check_fit(largest, extension, dtype)
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"fusenet_{uuid.uuid4().hex}"
    path = folder / f"{stem}{extension}"
    if extension == ".nii.gz" and form.dtype is None and not is_picture:
        return write_label_map(labels, folder, stem)
    if extension in NIFTI_SUFFIXES and not is_picture:
        write_nifti(labels, path, dtype)
        return path
    with atomic_path(path) as temporary:
        if extension == ".png":
            Image.fromarray((array if is_picture else array.T).astype(dtype)).save(temporary)  # rows first
        else:
            header = segment_fields(names, array.shape) if extension == ".seg.nrrd" else {}
            write_with_itk(labels, temporary, dtype, form.compress, header, image)
    return path


def check_fit(largest: int, extension: str, dtype: np.dtype) -> None:
    """Raises `ValueError` unless a format can hold a type, and the type labels up to `largest`."""
    if extension == ".png" and dtype.name not in PNG_DTYPES:
        raise ValueError(f"result_dtype of .png must be one of {', '.join(PNG_DTYPES)}, got {dtype.name}")
    if dtype.kind in "iu" and largest > np.iinfo(dtype).max:
        raise ValueError(
            f"result_dtype {dtype.name} holds labels up to {np.iinfo(dtype).max}, and there are labels up to {largest}"
        )


def write_nifti(labels: MetaTensor, path: Path, dtype: np.dtype) -> None:
    """Writes labels of an image with a geometry as `write_label_map` places them, in another type."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        placed = nib.Nifti1Image.from_filename(write_label_map(labels, Path(folder), "labels"))
        values = np.asarray(placed.dataobj).astype(dtype)
    with atomic_path(path) as temporary:
        nib.save(nib.Nifti1Image(values, None, placed.header, dtype=dtype), temporary)


def write_with_itk(
    labels: MetaTensor, path: Path, dtype: np.dtype, compress: bool, header: Mapping[str, str], image: str | Path
) -> None:
    """Writes labels where ITK, and so 3D Slicer, shows the image, with further fields in the header."""
    array = np.asarray(labels.cpu())[0]
    if labels.meta["has_geometry"]:
        array, affine = array.reshape(tuple(labels.meta["grid_shape"])), np.asarray(labels.meta["original_affine"])
    else:
        array, affine = array.T, np.diag([-1.0, -1, 1, 1])  # ITK's axes: x is the column, y the row
    shown = itk_affine(image, array.shape)
    affine = affine if shown is None else shown
    if array.ndim == 2 and (header or not np.linalg.det(affine[:2, :2])):
        array = array[..., None]  # Slicer's segmentations are volumes, and so is a plane that stands upright
    written = ITKWriter.create_backend_obj(array, channel_dim=None, affine=affine, dtype=dtype)
    for name, text in header.items():
        written[name] = text
    itk.imwrite(written, str(path), compression=compress)


def itk_affine(image: str | Path, sides: Sequence[int]) -> np.ndarray | None:
    """The affine (RAS, 4 x 4) by which ITK places an image's file: it prefers another form of a NIfTI header, and the
    resolution of a JPEG is its pixels' size. `None` where ITK cannot read the file or sees another grid.
    """
    if not os.path.isfile(image):  # a folder of DICOM slices
        return None
    header = itk.ImageIOFactory.CreateImageIO(str(image), itk.CommonEnums.IOFileMode_ReadMode)
    if header is None:
        return None
    header.SetFileName(str(image))
    try:
        header.ReadImageInformation()
    except RuntimeError:  # a sheared NIfTI grid
        return None
    axes = range(header.GetNumberOfDimensions())
    if [header.GetDimensions(axis) for axis in axes] != list(sides):
        return None
    affine = affine_of_header(header)
    return affine if np.linalg.det(affine) else None


def segment_fields(names: Mapping[str, int], shape: Sequence[int]) -> dict[str, str]:
    """The header by which 3D Slicer finds segments in a label map of a shape (*spatial); the empty ones, too."""
    sides = [*shape, 1][:3]
    fields = {"Segmentation_ReferenceImageExtentOffset": "0 0 0"}
    for index, (name, label) in enumerate(names.items()):
        fields |= {
            f"Segment{index}_ID": f"Segment_{label}",
            f"Segment{index}_Name": name,
            f"Segment{index}_LabelValue": str(label),
            f"Segment{index}_Layer": "0",
            f"Segment{index}_Extent": " ".join(f"0 {side - 1}" for side in sides),
        }
    return fields


def read_label(path: str | Path, shape: Sequence[int], place: Mapping[str, Any]) -> np.ndarray:
    """A label map that a client made for an image, on the grid of the image as it was loaded.

    Slicer knows no pictures and sends what was drawn on one as a volume of one slice, whose first axis is the column.

    Args:
        path: the label map.
        shape: spatial shape of the image.
        place: the `meta` of the image, see `load_image`.

    Returns:
        (*spatial), labels as they are in the file.

    Raises:
        ValueError: when it cannot be read, holds colours instead of labels, or lies on another grid.
    """
    label = load_image(path, nearest=True)
    channels = np.asarray(label)[: len(label) - bool(label.meta["has_alpha"])]
    array = channels[0]
    if (channels != array).any():
        raise ValueError(f"the label map must hold one number a pixel, got {len(channels)} different channels")
    if label.meta["has_geometry"] != place["has_geometry"]:
        array = array.T
    if array.shape != tuple(shape):
        raise ValueError(f"the label map must have the image's shape {tuple(shape)}, got {array.shape}")
    if label.meta["has_geometry"] and place["has_geometry"] and voxels_apart(label.meta, place) >= NEAREST:
        affine, own = (np.round(meta["original_affine"], 3).tolist() for meta in (place, label.meta))
        raise ValueError(f"the label map must have the image's affine {affine}, got {own}")
    return array


def voxels_apart(place: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """How far from each other, at most, two files of one shape place a voxel, in voxels of the second one.

    A file of two axes says nothing about the third, so that it is not looked at.
    """
    axes = min(len(place["grid_shape"]), len(other["grid_shape"]))
    kept = np.ix_([*range(axes), 3], [*range(axes), 3])
    affine, grid = (np.asarray(meta["original_affine"], dtype=float)[kept] for meta in (place, other))
    if not np.linalg.det(grid):  # a plane that stands upright
        affine, grid = (np.asarray(meta["original_affine"], dtype=float) for meta in (place, other))
    sides = [*place["grid_shape"], 1][: len(grid) - 1]
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, side - 1) for side in sides))])
    return float(np.abs(corners @ (np.linalg.pinv(grid) @ affine - np.eye(len(grid))).T).max())
