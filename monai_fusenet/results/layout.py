"""The names of files in a folder of results, and label maps on the grid of their image."""

from __future__ import annotations

import math
import os
from collections.abc import Container, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from monai.data import MetaTensor
from PIL import Image

from monai_fusenet.data import IMAGE_SUFFIXES
from monai_fusenet.data.blocks import repeated_tiles
from monai_fusenet.utils.files import atomic_path
from monai_fusenet.utils.geometry import same_place

__all__ = ["label_map_in", "placement_note", "result_path", "write_label_map"]

TILE = 512  # side of the tiles of a large label map, in pixels
ITK_SHEAR = 1e-4  # how far ITK lets the directions of a sform be from orthogonal


def result_path(output_dir: str | Path, name: str, kind: str) -> Path | None:
    """The file `<name>_<kind>.*` of any image format in a folder of results, or `None`."""
    for suffix in IMAGE_SUFFIXES:
        path = Path(output_dir) / f"{name}_{kind}{suffix}"
        if os.path.isfile(path):  # unlike Path.is_file, it takes a name that is too long for a file as absent
            return path
    return None


def label_map_in(names: Container[str], name: str, kind: str) -> bool:
    """Whether a file `<name>_<kind>.*` of any image format is among the names of a folder's files."""
    return any(f"{name}_{kind}{suffix}" in names for suffix in IMAGE_SUFFIXES)


def write_label_map(labels: MetaTensor, folder: Path, stem: str, foreground: int = 1) -> Path:
    """Writes integer labels on the grid of the file that the image came from.

    For a large picture, the labels of the working copy are repeated for all pixels of a block, tile by tile.

    Args:
        labels: (1, *spatial), integers from 0 to 2**31 - 1, with the `meta` of the image as `load_image` left it.
        folder: the output folder.
        stem: name of the file without its suffix.
        foreground: factor for the labels in a picture: 255 makes a 0/1 mask visible.

    Returns:
        the path: PNG for pictures, a TIFF of compressed tiles for large ones, NIfTI for all others. The type is uint8,
        uint16 if a label is above 255, and uint32 above 65535. A PNG cannot hold uint32, so the picture is then a TIFF
        (int32). The labels of a NIfTI image keep its sform and qform with their codes, so every reader shows them in
        the place of the image. For other formats, both forms state the affine.
    """
    array = labels.cpu().numpy()[0]
    array = array.astype(np.min_scalar_type(int(array.max())))
    if labels.meta["has_geometry"]:
        path = folder / f"{stem}.nii.gz"
        array = array.reshape(tuple(labels.meta["grid_shape"]))
        image = nib.Nifti1Image(array, None, _nifti_header(labels), dtype=array.dtype)
        with atomic_path(path) as temporary:
            nib.save(image, temporary)
    elif (block := int(labels.meta.get("block", 1))) > 1:
        path = folder / f"{stem}.tif"
        _write_tiles(array, path, block, [int(side) for side in labels.meta["file_shape"]], foreground)
    else:
        path = folder / f"{stem}.png"
        if array.dtype.itemsize > 2:
            path, array = path.with_name(f"{stem}.tif"), array.astype(np.int32)  # what Pillow knows of 32 bits
        with atomic_path(path) as temporary:
            Image.fromarray(array * foreground).save(temporary)
    return path


def _write_tiles(array: np.ndarray, path: Path, block: int, shape: Sequence[int], foreground: int) -> None:
    """A TIFF of (rows, columns) `shape` that shows each label of a working copy as a block of pixels."""
    from tifffile import imwrite  # few folders need it

    with atomic_path(path) as temporary:
        imwrite(
            temporary,
            repeated_tiles(array * array.dtype.type(foreground), shape, block, TILE),
            shape=tuple(shape),
            dtype=array.dtype,
            tile=(TILE, TILE),
            compression="zlib",
            photometric="minisblack",
            metadata=None,
            maxworkers=1,
        )


def placement_note(labels: MetaTensor) -> str:
    """Names the readers that cannot open the NIfTI file of labels; "" if all can, or if the labels go to a PNG.

    ITK supports only turned and flipped grids. If no qform states one, it refuses a sheared sform (a tilted gantry).

    Args:
        labels: as for `write_label_map`.
    """
    if not labels.meta["has_geometry"]:
        return ""
    header = _nifti_header(labels)
    if header["qform_code"] != 0 or header["sform_code"] == 0:
        return ""
    axes = header.get_sform()[:3, :3]
    directions = axes / np.linalg.norm(axes, axis=0)
    if np.abs(directions @ directions.T - np.eye(3)).max() <= ITK_SHEAR:
        return ""
    return "sheared grid: programs built on ITK (3D Slicer, ITK-SNAP) cannot open its NIfTI masks"


def _nifti_header(labels: MetaTensor) -> nib.Nifti1Header:
    if stated := labels.meta.get("nifti_header"):
        header = nib.Nifti1Header(stated)
    else:
        header = nib.Nifti1Header()
        header.set_xyzt_units("mm")
        header.set_sform(np.asarray(labels.meta["original_affine"]), "scanner")
        header.set_qform(header.get_sform(), "scanner")
        if not same_place(header.get_sform(), header.get_qform(), labels.meta["grid_shape"], math.inf):
            header["qform_code"] = 0  # ITK would prefer it, and show the mask in a wrong place
    return header
