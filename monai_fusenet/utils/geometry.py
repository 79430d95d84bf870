"""Where the pixels of a loaded image lie in the patient."""

from __future__ import annotations

import numpy as np
import torch
from monai.data import MetaTensor

__all__ = ["SAME_PLACE", "affine_of", "spacing_of"]

SAME_PLACE = 1e-2  # mm, or mm a voxel: what writing and reading an affine may change


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
