"""Which files lie in a folder of results, and label maps on the grid of their image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from monai.data import MetaTensor
from PIL import Image

from monai_fusenet.data import IMAGE_SUFFIXES
from monai_fusenet.utils.files import atomic_path
from monai_fusenet.utils.geometry import same_place

__all__ = ["placement_note", "result_path", "write_label_map"]


def result_path(output_dir: str | Path, name: str, kind: str) -> Path | None:
    """The file `<name>_<kind>.*` of any image format in a folder of results, or `None`."""
    for suffix in IMAGE_SUFFIXES:
        path = Path(output_dir) / f"{name}_{kind}{suffix}"
        if os.path.isfile(path):  # unlike Path.is_file, it takes a name that is too long for a file as absent
            return path
    return None


def write_label_map(labels: MetaTensor, folder: Path, stem: str, foreground: int = 1) -> Path:
    """Writes integer labels on the grid of the file that the image came from.

    Args:
        labels: (1, *spatial), integers from 0 to 65535, with the `meta` of the image as `load_image` left it.
        folder: where to.
        stem: name of the file without its suffix.
        foreground: what to multiply labels with in a PNG: 255 makes a 0/1 mask visible.

    Returns:
        the path: PNG (uint8, or uint16 above 255) for pictures, NIfTI for all others. A NIfTI image hands on both
        forms of its place (sform and qform) with their codes, so that every reader shows it where it shows the image;
        from other formats, both state the affine.
    """
    array = labels.cpu().numpy()[0]
    array = array.astype(np.uint8 if array.max() <= 255 else np.uint16)
    if labels.meta["has_geometry"]:
        path = folder / f"{stem}.nii.gz"
        array = array.reshape(tuple(labels.meta["grid_shape"]))
        image = nib.Nifti1Image(array, None, _nifti_header(labels), dtype=array.dtype)
        with atomic_path(path) as temporary:
            nib.save(image, temporary)
    else:
        path = folder / f"{stem}.png"
        with atomic_path(path) as temporary:
            Image.fromarray(array * foreground).save(temporary)
    return path


def placement_note(labels: MetaTensor) -> str:
    """Which readers cannot open the NIfTI file of labels; "" where all can, or where they go to a PNG.

    The qform holds turns and flips alone. On a sheared grid (a tilted gantry), ITK needs it all the same.

    Args:
        labels: as for `write_label_map`.
    """
    if not labels.meta["has_geometry"]:
        return ""
    header = _nifti_header(labels)
    if header["qform_code"] != 0 or header["sform_code"] == 0 or _has_qform(header, labels.meta["grid_shape"]):
        return ""
    return "sheared grid: programs built on ITK (3D Slicer, ITK-SNAP) cannot open its NIfTI masks"


def _nifti_header(labels: MetaTensor) -> nib.Nifti1Header:
    if stated := labels.meta.get("nifti_header"):
        header = nib.Nifti1Header(stated)
    else:
        header = nib.Nifti1Header()
        header.set_xyzt_units("mm")
        header.set_sform(np.asarray(labels.meta["original_affine"]), "scanner")
        if _has_qform(header, labels.meta["grid_shape"]):  # else ITK would place the file by a wrong qform
            header.set_qform(header.get_sform(), "scanner")
        else:
            header["pixdim"][1:4] = nib.affines.voxel_sizes(header.get_sform())
    return header


def _has_qform(header: nib.Nifti1Header, shape: Sequence[int]) -> bool:
    """Whether a qform can state the place that the sform states."""
    turned = header.copy()
    turned.set_qform(header.get_sform(), "scanner")
    return same_place(header.get_sform(), turned.get_qform(), shape)
