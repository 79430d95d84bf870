"""The part of an image that shows something: what the device exposes, or the body in it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from monai_fusenet.transforms.acquisition.device import device_field, largest_part, stretched
from monai_fusenet.transforms.morphology import fill_holes, within_distance
from monai_fusenet.utils.arrays import reduced_shape, resize_area, resize_linear

__all__ = ["FIELD_SHAPES", "fill_outside", "find_field", "means_within"]

FIELD_SHAPES = ("device", "body")
GRID_PIXELS = {2: 2**16, 3: 2**18}  # by number of axes: bodies are looked for, and what is outside filled, on so many
AIR = 0.1  # of the range of values: what may be air
PASSAGE = 0.02  # of the mean side: radius of the narrowest way along which air reaches the border of a field
LEAST_SECTION = 0.5  # of a volume seen along an axis: less is a thing on black ground
LEAST_BODY, MOST_BODY = 0.3, 0.995  # of the field of the device


def find_field(image: np.ndarray, shape: str) -> np.ndarray:
    """Finds the part of an image that shows something.

    Args:
        image: (C, *spatial), values of any range, 2-D or 3-D. A volume is viewed along each axis, so cylinders and
            boxes along the axes are found.
        shape: "device": the field that a device exposes, see `device_field`; "body": that field without the air, where
            only the largest connected part is kept and its holes are filled. Air is near-black pixels that reach the
            border of the field by a path that is not narrow.

    Returns:
        (*spatial), bool; True everywhere if no field is found.
    """
    is_grey = len(image) == 1
    grey = image[0].astype(np.float32, copy=False) if is_grey else image.mean(axis=0, dtype=np.float32)
    field = _device_field(grey)
    return field if shape == "device" else _body(grey, field)


def _device_field(grey: np.ndarray) -> np.ndarray:
    if grey.ndim == 2:
        return device_field(grey)
    field = np.ones(grey.shape, dtype=bool)
    for axis in range(grey.ndim):  # outside is dark in all of its slices, so that the brightest values tell most
        seen = device_field(grey.max(axis=axis))
        if seen.mean() >= LEAST_SECTION:
            field &= np.expand_dims(seen, axis)
    return field


def _body(grey: np.ndarray, field: np.ndarray) -> np.ndarray:
    """The part of a field that is not air."""
    shape = reduced_shape(grey.shape, GRID_PIXELS[grey.ndim])
    small = resize_area(field[None].astype(np.float32), shape)[0] > 0.999  # nothing of the outside mixed in
    values = resize_area(grey[None], shape)[0]
    within = stretched(values[small])
    if within is None:
        return field
    air = ~small
    air[small] = within <= AIR
    if air.all():
        return field
    radius = max(1.0, PASSAGE * float(np.mean(shape)))
    body = largest_part(~_reaching_border(air, radius))
    if body is None:
        return field
    body = fill_holes(body) & small
    if not LEAST_BODY < body.sum() / small.sum() < MOST_BODY:
        return field
    return field & (resize_linear(body[None].astype(np.float32), grey.shape)[0] > 0.5)


def _reaching_border(mask: np.ndarray, radius: float) -> np.ndarray:
    """What of a mask a ball of some radius reaches that comes from beyond the border of the image."""
    room = int(np.ceil(radius)) + 1
    padded = np.pad(mask, room, constant_values=True)
    core = ndimage.label(padded & ~within_distance(~padded, radius))[0]
    reached = within_distance(core == core.flat[0], radius)
    return reached[tuple(slice(room, -room) for _ in mask.shape)] & mask


def fill_outside(image: np.ndarray, field: np.ndarray) -> np.ndarray:
    """An image (C, *spatial) in which pixels outside a field have about the values of the nearest ones inside.

    The new values are made on a smaller grid, so they are smooth. Pixels of the field do not change.
    """
    if field.all() or not field.any():
        return image
    shape = reduced_shape(field.shape, GRID_PIXELS[field.ndim])
    means, known = means_within(image, field, shape)
    nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    filled = resize_linear(means[(slice(None), *nearest)], field.shape).astype(image.dtype, copy=False)
    np.copyto(filled, image, where=field)  # in place: a volume takes gigabytes
    return filled


def means_within(image: np.ndarray, field: np.ndarray, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Means of the pixels of an image (C, *spatial) that lie in a field, on a smaller grid, and where they are known.

    Returns:
        the means (C, *shape), float32, and where they are known (*shape), bool: at new pixels that lie more than half
        in the field. If there are none, at new pixels that the field touches.
    """
    if field.all():
        return resize_area(image.astype(np.float32, copy=False), shape), np.ones(shape, dtype=bool)
    weight = resize_area(field[None].astype(np.float32), shape)
    known = weight[0] > 0.5 if (weight > 0.5).any() else weight[0] > 0
    means = resize_area(np.where(field, image, 0).astype(np.float32, copy=False), shape) / np.maximum(weight, 1e-6)
    return means, known
