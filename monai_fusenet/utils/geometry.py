"""Where the pixels of a loaded image lie in the patient."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from monai.data import MetaTensor

__all__ = ["SAME_PLACE", "affine_of", "same_place", "spacing_of"]

SAME_PLACE = 1e-2  # mm: what writing and reading an affine may move a voxel


def spacing_of(image: torch.Tensor) -> tuple[float, ...] | None:
    """The size of a pixel or voxel of a loaded image.

    Args:
        image: (C, *spatial) as `load_image` returns it, possibly resampled by MONAI transforms since.

    Returns:
        Millimetres per spatial axis of the tensor, or None where the image has no geometry (pictures, plain tensors).
    """
    affine = affine_of(image)
    return None if affine is None else tuple(np.linalg.norm(affine[:-1, : image.ndim - 1], axis=0).tolist())


def affine_of(image: torch.Tensor) -> np.ndarray | None:
    """The affine from the indices of a loaded image to millimetres (RAS), float64; None where it has no geometry.

    Args:
        image: (C, *spatial) as `load_image` returns it, possibly resampled by MONAI transforms since.
    """
    if not isinstance(image, MetaTensor) or not image.meta.get("has_geometry", False):
        return None
    return np.asarray(image.affine, dtype=np.float64)


def same_place(affine: np.ndarray, other: np.ndarray, shape: Sequence[int], millimetres: float = SAME_PLACE) -> bool:
    """Whether two affines place all voxels of a grid alike: within so many millimetres, and a tenth of a voxel.

    The whole grid counts: a matrix entry that differs by 0.01 moves the last of 500 voxels by 5 mm.

    Args:
        affine: 4 x 4.
        other: 4 x 4.
        shape: sides of the grid, up to three.
        millimetres: how far a voxel may lie from itself.
    """
    ends = [(0, side - 1) for side in shape] + [(0, 0)] * (3 - len(shape))
    corners = np.array([(*corner, 1) for corner in itertools.product(*ends)])
    moved = np.linalg.norm(corners @ (affine - other)[:3].T, axis=1)
    smallest = np.linalg.norm(affine[:3, :3], axis=0).min()
    return bool(moved.max() <= min(millimetres, smallest / 10))
