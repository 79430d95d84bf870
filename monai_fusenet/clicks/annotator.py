"""A simulated annotator who knows the truth."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.measure import label as connected_components

__all__ = ["next_click"]


def next_click(truth: np.ndarray, mask: np.ndarray) -> tuple[tuple[int, ...], bool] | None:
    """The next click of a simulated annotator: in the middle of the largest error.

    Args:
        truth: (*spatial), bool.
        mask: (*spatial), bool, the mask that the annotator sees; empty before the first click.

    Returns:
        the pixel farthest from the border of the largest connected error, and whether it is foreground; `None` if there
        is no error.
    """
    errors = [(truth & ~mask, True), (mask & ~truth, False)]
    largest: tuple[int, np.ndarray, bool] | None = None
    for error, is_foreground in errors:
        components = connected_components(error, connectivity=1)
        sizes = np.bincount(components.ravel())[1:]
        if len(sizes) and (largest is None or sizes.max() > largest[0]):
            largest = (int(sizes.max()), components == sizes.argmax() + 1, is_foreground)
    if largest is None:
        return None
    inside = tuple(slice(1, -1) for _ in truth.shape)
    depth = ndimage.distance_transform_edt(np.pad(largest[1], 1))[inside]
    return tuple(int(index) for index in np.unravel_index(depth.argmax(), depth.shape)), largest[2]
