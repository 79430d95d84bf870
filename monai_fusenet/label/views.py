"""How an image is shown: its planes as a radiologist looks at them, slices as bytes, thumbnails."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from PIL import Image
from torch import Tensor

from monai_fusenet.utils.arrays import plain

__all__ = ["Shown", "View", "blank", "shown", "thumbnail", "views_of"]

SHOWN = (0.5, 99.5)  # percentiles between which grey values are spread at first
MOST_VALUES = 10**6  # of an image, that these percentiles are taken of
LEVELS = 65535  # of the grey values that are sent
THUMBNAIL = 96  # pixels of the longer side

# Radiologists look from the feet and from the front: screens run to the patient's left, to the back, and to the feet.
TOWARDS = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "I": (2, 1), "S": (2, -1)}
PLANES = {2: "axial", 1: "coronal", 0: "sagittal"}  # by the body's axis that a plane is cut across
EDGES = {"axial": "RLAP", "coronal": "RLHF", "sagittal": "APHF"}  # what lies left, right, up and down: H is the head


class View(NamedTuple):
    """A plane of an image on a screen.

    Attributes:
        name: of the plane.
        normal: axis of the array (*spatial) that slices are counted along; -1 for an image of two axes.
        row: axis that runs down the screen.
        column: axis that runs to the right.
        flip_row: whether the axis runs up instead.
        flip_column: whether it runs to the left instead.
        aspect: height of a pixel by its width.
        edges: the side of the patient at left, right, top and bottom, a letter each; "" if unknown.
    """

    name: str
    normal: int
    row: int
    column: int
    flip_row: bool
    flip_column: bool
    aspect: float
    edges: str = ""


class Shown(NamedTuple):
    """The data that a page needs to show an image, and the image.

    Attributes:
        views: see `views_of`.
        shape: spatial shape.
        colour: whether slices are RGB.
        low: the least value, which is sent as 0.
        high: the greatest, which is sent as 65535.
        window: the two values between which grey is spread at first.
        is_picture: whether the first axis is the row.
        pixels: (*spatial), or (*spatial, 3) where it is in colour; as slices are cut from it.
    """

    views: list[View]
    shape: tuple[int, ...]
    colour: bool
    low: float
    high: float
    window: tuple[float, float]
    is_picture: bool
    pixels: np.ndarray

    def slice(self, view: int, index: int) -> np.ndarray:
        """A slice as it is seen: (rows, columns) uint16, or (rows, columns, 3) uint8 where it is in colour.

        Raises:
            ValueError: for a view or a slice that does not exist.
        """
        return slice_of(self.pixels, self.views, view, index)


def views_of(meta: Mapping[str, Any], shape: Sequence[int]) -> list[View]:
    """The planes of an image, the one with the finest pixels first.

    Args:
        meta: of `load_image`.
        shape: spatial shape, of two or three axes.
    """
    if len(shape) == 2:
        row, column = (1, 0) if meta["has_geometry"] else (0, 1)  # the first axis of other formats is the column
        sides = np.linalg.norm(np.asarray(meta["original_affine"], dtype=float)[:3, :2], axis=0)
        aspect = float(sides[row] / sides[column]) if meta["has_geometry"] and sides.all() else 1.0
        return [View("image", -1, row, column, False, False, aspect)]
    if not meta["has_geometry"]:
        return [View("pages", 0, 1, 2, False, False, 1.0)]
    affine = np.asarray(meta["original_affine"], dtype=float)
    # nibabel's codes are in millimetres of patients; a grid that has none is shown by its axes
    codes = nib.orientations.aff2axcodes(affine) if np.linalg.det(affine[:3, :3]) else ("L", "P", "S")
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    sides[sides == 0] = 1
    body = {TOWARDS[code][0]: (axis, TOWARDS[code][1] < 0) for axis, code in enumerate(codes)}
    views = []
    for across, name in PLANES.items():
        (down, right) = {2: (1, 0), 1: (2, 0), 0: (2, 1)}[across]
        (row, flip_row), (column, flip_column) = body[down], body[right]
        aspect = float(sides[row] / sides[column])
        edges = EDGES[name] if meta.get("states_place", True) else ""
        views.append(View(name, body[across][0], row, column, flip_row, flip_column, aspect, edges))
    return sorted(views, key=lambda view: sides[view.row] * sides[view.column])


def shown(image: Tensor) -> Shown:
    """The visible content of an image.

    Args:
        image: (C, *spatial) of two or three axes, as `load_image` returns it. Three channels of a picture, beside its
            alpha, are colours; of any other image the first channel is shown.

    Raises:
        ValueError: for another number of axes.
    """
    array, meta = plain(image).numpy(), image.meta  # type: ignore[attr-defined]
    shape = tuple(array.shape[1:])
    if len(shape) not in (2, 3):
        raise ValueError(f"expected an image of 2 or 3 axes, got {len(shape)}")
    views, is_picture = views_of(meta, shape), not meta["has_geometry"]
    channels = array[: len(array) - bool(meta["has_alpha"])]
    colour = len(channels) == 3 and is_picture and len(shape) == 2
    pixels = np.moveaxis(channels, 0, -1) if colour else channels[0]
    finite = pixels[np.isfinite(pixels)]
    if not finite.size:
        raise ValueError("the image holds no finite value")
    low, high = float(finite.min()), float(finite.max())
    if colour and low >= 0 and high <= 255:
        return Shown(views, shape, True, 0.0, 255.0, (0.0, 255.0), True, np.nan_to_num(pixels).astype(np.uint8))
    some = finite[:: max(1, finite.size // MOST_VALUES)]
    first, last = (float(value) for value in np.percentile(some, SHOWN))
    window = (first, last) if last > first else (low, high)
    scaled = (np.nan_to_num(pixels.astype(np.float32), nan=low, posinf=high, neginf=low) - low) / ((high - low) or 1)
    if colour:
        return Shown(views, shape, True, 0.0, 255.0, (0.0, 255.0), True, np.round(scaled * 255).astype(np.uint8))
    return Shown(views, shape, False, low, high, window, is_picture, np.round(scaled * LEVELS).astype(np.uint16))


def slice_of(array: np.ndarray, views: Sequence[View], view: int, index: int) -> np.ndarray:
    """A slice of an array (*spatial, ...) as a view shows it: (rows, columns, ...).

    Raises:
        ValueError: for a view or a slice that does not exist.
    """
    if not 0 <= view < len(views):
        raise ValueError(f"view must be a number from 0 to {len(views) - 1}, got {view}")
    plane = views[view]
    count = 1 if plane.normal < 0 else array.shape[plane.normal]
    if not 0 <= index < count:
        raise ValueError(f"index must be a number from 0 to {count - 1}, got {index}")
    flat = array if plane.normal < 0 else array.take(index, axis=plane.normal)
    seen = flat if plane.row < plane.column else flat.swapaxes(0, 1)
    steps = (slice(None, None, -1 if plane.flip_row else 1), slice(None, None, -1 if plane.flip_column else 1))
    return np.ascontiguousarray(seen[steps])


def thumbnail(found: Shown) -> bytes:
    """The middle slice as a PNG whose longer side is at most 96 pixels."""
    plane = found.views[0]
    middle = 0 if plane.normal < 0 else found.shape[plane.normal] // 2
    pixels = found.slice(0, middle)
    if not found.colour:
        low, high = ((edge - found.low) / ((found.high - found.low) or 1) * LEVELS for edge in found.window)
        pixels = np.clip((pixels.astype(np.float32) - low) / ((high - low) or 1) * 255, 0, 255).astype(np.uint8)
    height, width = pixels.shape[0] * plane.aspect, pixels.shape[1]
    scale = THUMBNAIL / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    written = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR, reducing_gap=2).save(written, "PNG")
    return written.getvalue()


def blank() -> bytes:
    """The PNG in the place of an image that cannot be read."""
    written = io.BytesIO()
    Image.new("L", (THUMBNAIL, THUMBNAIL)).save(written, "PNG")
    return written.getvalue()
