"""True objects, one number each, from label maps, from one file per object, or from the parts of masks."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch
from monai.data import MetaTensor
from monai.utils import ensure_tuple
from skimage.measure import label as connected_components

from monai_fusenet.data.grids import on_grid_of
from monai_fusenet.data.masks import foreground_of
from monai_fusenet.data.raster import Raster
from monai_fusenet.data.reading import read_raster, to_tensor

__all__ = ["load_objects_on_grid_of"]


def load_objects_on_grid_of(paths: str | os.PathLike | Sequence[str | os.PathLike], image: MetaTensor) -> MetaTensor:
    """The objects of one or several masks of an image, each brought to its grid, see `on_grid_of`.

    - A label map, or a picture in several colours: each number, or colour, is an object. If they have more than
      twice as many connected parts, they are classes, and the parts are the objects.
    - Several files: each is an object, or as many as its numbers. If two overlap, the first counts.
    - Otherwise, the connected parts of the mask, through faces; objects that touch then count as one.

    Args:
        paths: the mask or masks, in any form that `load_mask` reads, with the same foreground.
        image: (C, *spatial), as `load_image` returns it.

    Returns:
        (1, *spatial), int32: objects 1..n, 0 for background, with the `meta` of the image.

    Raises:
        ValueError: if a file cannot be read or brought to the grid.
    """
    paths = ensure_tuple(paths)
    if not paths:
        raise ValueError("expected the path of a mask, got an empty list")
    objects = torch.zeros(1, *image.shape[1:], dtype=torch.int32)
    for path in paths:
        raster = read_raster(str(path), nearest=True)
        numbers = _numbers_of(raster, foreground_of(raster)[0])
        if numbers.max(initial=0) == 1 and len(paths) == 1:
            numbers = connected_components(numbers, connectivity=1)
        raster = raster._replace(pixels=numbers[None], has_alpha=False)
        brought = on_grid_of(to_tensor(raster, str(path)), image).as_tensor().to(torch.int32)
        objects = torch.where((objects == 0) & (brought > 0), brought + objects.max(), objects)
    positions = torch.cat([objects.new_zeros(1), objects.flatten()]).unique(return_inverse=True)[1]
    numbered = positions[1:].reshape(objects.shape).to(torch.int32)  # what another grid lost leaves no gap
    return MetaTensor(numbered, meta=image.meta)


def _numbers_of(raster: Raster, mask: np.ndarray) -> np.ndarray:
    """The objects 1..n of a label map (*grid); one where the values (C, *grid) tell no objects apart."""
    values = raster.pixels[:-1] if raster.has_alpha else raster.pixels
    for stored in (raster.labels, raster.indices):
        values = values if stored is None else stored
    inside = values[:, mask]
    # In pictures with soft edges, and probabilities, foreground ends above 0.
    are_labels = np.array_equal(mask, (values > 0).any(axis=0)) and np.array_equal(inside, np.trunc(inside))
    if raster.lossy or not are_labels or not np.isfinite(inside).all():
        return mask.astype(np.int32)
    numbers = np.zeros(mask.shape, dtype=np.int32)
    numbers[mask] = np.unique(inside, axis=1, return_inverse=True)[1].ravel() + 1
    parts = connected_components(numbers, connectivity=1)
    return parts if parts.max() > 2 * numbers.max() > 2 else numbers
