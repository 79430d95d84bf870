"""Which files lie in a folder of results, and label maps on the grid of their image."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
from monai.data import MetaTensor
from PIL import Image

from monai_fusenet.data import IMAGE_SUFFIXES
from monai_fusenet.utils.files import atomic_path

__all__ = ["result_path", "write_label_map"]


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
        the path: PNG (uint8, or uint16 above 255) for pictures, NIfTI with the affine of the file for all others.
    """
    array = labels.cpu().numpy()[0]
    array = array.astype(np.uint8 if array.max() <= 255 else np.uint16)
    if labels.meta["has_geometry"]:
        path = folder / f"{stem}.nii.gz"
        image = nib.Nifti1Image(array.reshape(tuple(labels.meta["grid_shape"])), labels.meta["original_affine"])
        image.header.set_xyzt_units("mm")
        with atomic_path(path) as temporary:
            nib.save(image, temporary)
    else:
        path = folder / f"{stem}.png"
        with atomic_path(path) as temporary:
            Image.fromarray(array * foreground).save(temporary)
    return path
