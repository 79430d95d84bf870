"""The part of a picture that a device exposes: collimated fields, circles, fans, frames."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from skimage.measure import approximate_polygon, find_contours
from skimage.measure import label as connected_components

from monai_fusenet.transforms.morphology import convex_hull, fill_holes, parts, within_distance
from monai_fusenet.utils.arrays import border_of, reduced_shape, resize_area, resize_nearest

__all__ = ["device_field", "largest_part", "stretched"]

SEARCHED_PIXELS = 2**16  # fields are looked for on a grid of about so many
DRAWN_PIXELS = 2**20  # and drawn on that of the image, or on one of so many
LEAST_SIDE = 16  # of the grid: less is no picture
DARK_LEVELS = (0.02, 0.05, 0.09, 0.14, 0.2, 0.25)  # what may be outside, as a share of the range of values
BRIGHT_LEVELS = (0.02, 0.06, 0.14)
SPECK = 0.006  # of the mean side: radius of what counts as noise, or as text, beside a field
LEAST_FIELD, LEAST_OUTSIDE = 0.05, 0.003  # of the image
LEAST_BAY = 0.001  # of the image: what a probe cuts out of a fan
LEAST_FILLED = 0.6  # of the convex hull of a field
FLAT = 0.9  # of what is outside has the values of outside; the rest are labels and marks
LEAST_OUTLINE = 12  # pixels of outline apart from the border of the image
LEAST_STEP = 0.06  # along an edge, as a share of the range
SHARP = 0.7  # of the outline: such a part has a sharp edge where a device has made it
SHARP_STEP = 0.75  # of the step across some pixels lies within three of them
LEAST_VIGNETTE = 0.5  # of the image: a smaller ellipse without a sharp edge may be a cell
SOFT = 0.85  # of the outline of a vignette has an edge, sharp or not
ROUND = 1.5  # pixels by which a vignette may differ from an ellipse, and the rim of a probe from a circle
WIDEST_CHORD = 1.3  # of the rim of a probe, in radii; a dark disk at the edge of a field has more
STRAIGHT = 8  # most corners of a bright frame
LEAST_FRAMED, LEAST_FRAMED_SIDE = 0.4, 64  # of the image, and pixels: dark ellipses of less may have as few corners
MOST_LINES, MOST_SHARE = 5, 0.05  # of a side, the larger: a wider frame shows on the grid that is searched
ALONG = 0.98  # of a line of a frame has its value


class _Found(NamedTuple):
    """A field on the grid that is searched, by which values it was found, and how sure it is."""

    field: np.ndarray
    is_bright: bool
    level: float
    sureness: float


def device_field(grey: np.ndarray) -> np.ndarray:
    """Finds the part of a picture that a device exposes.

    The outside has nearly a single value, black or white, and reaches the border of the image. The field is convex,
    except for the rim of a curved probe, so dark things in it that touch the border belong to it. Its edge is sharp, or
    the field is an ellipse and the image darkens towards at least three corners.

    Args:
        grey: (H, W), values of any range.

    Returns:
        (H, W), bool; True everywhere if there is no such field.
    """
    found = _exposed(grey)
    picture = _picture(grey)
    field = np.zeros(grey.shape, dtype=bool)
    is_framed = field[picture].shape != grey.shape
    field[picture] = _exposed(grey[picture]) if is_framed and found.all() else found[picture]
    return field


def _picture(grey: np.ndarray) -> tuple[slice, ...]:
    """The box of what a frame of a few lines is around, dark or bright; such a frame is lost on a small grid."""
    values = stretched(grey) if min(grey.shape) >= LEAST_SIDE else None
    if values is None:
        return tuple(slice(0, side) for side in grey.shape)
    views = (values, values[::-1], values.T, values.T[::-1])
    top, bottom, left, right = (max(_frame(lines), _frame(1 - lines)) for lines in views)
    return slice(top, grey.shape[0] - bottom), slice(left, grey.shape[1] - right)


def _frame(lines: np.ndarray) -> int:
    """How many of the first lines are dark, where a step that runs along most of the next one ends them."""
    most = max(MOST_LINES, int(MOST_SHARE * len(lines)))
    is_dark = (lines[: most + 1] <= DARK_LEVELS[2]).mean(axis=1) >= ALONG
    count = int(is_dark.argmin())
    if is_dark.all() or count == 0:
        return 0
    outer, mixed, inner = lines[count - 1 : count + 2]
    if (inner - outer > 2 * LEAST_STEP).mean() < SHARP:
        return 0
    return count + int(np.median(mixed - (outer + inner) / 2) < 0)


def _exposed(grey: np.ndarray) -> np.ndarray:
    """The field of a picture as it shows on a small grid."""
    shape = reduced_shape(grey.shape, SEARCHED_PIXELS)
    values = stretched(resize_area(grey[None], shape)[0])
    found = None
    if values is not None and min(shape) >= LEAST_SIDE:
        found = max(_fields(values), key=lambda one: one.sureness, default=None)
    if found is None:
        return np.ones(grey.shape, dtype=bool)
    drawn = reduced_shape(grey.shape, DRAWN_PIXELS)
    field = found.field
    if drawn != shape:
        near = resize_nearest(ndimage.binary_dilation(field, iterations=2), drawn)
        finer = stretched(resize_area(grey[None], drawn)[0])
        redrawn = None if finer is None else _field_of(_inside(finer, found.is_bright, found.level) & near)
        field = resize_nearest(field, drawn) if redrawn is None else redrawn
    return resize_nearest(field, grey.shape)


def stretched(grey: np.ndarray) -> np.ndarray | None:
    """Values scaled to [0, 1] between two extreme percentiles; `None` for a picture of a single value."""
    low, high = np.percentile(grey, (0.5, 99.5))
    if low == high:
        low, high = grey.min(), grey.max()
    return None if low == high else np.clip((grey.astype(np.float32) - low) / (high - low), 0, 1)


def largest_part(mask: np.ndarray) -> np.ndarray | None:
    """The largest connected part of a mask; `None` for an empty one."""
    components = connected_components(mask, connectivity=1)
    sizes = np.bincount(components.ravel())[1:]
    return components == 1 + sizes.argmax() if len(sizes) else None


def _inside(values: np.ndarray, is_bright: bool, level: float) -> np.ndarray:
    return values < 1 - level if is_bright else values > level


def _fields(values: np.ndarray) -> Iterator[_Found]:
    """The fields of a small picture, values in [0, 1], that a device may have made."""
    border = border_of(np.ones(values.shape, dtype=bool))
    for is_bright, levels in ((False, DARK_LEVELS), (True, BRIGHT_LEVELS)):
        if is_bright and min(values.shape) < LEAST_FRAMED_SIDE:
            continue
        for level in levels:
            inside = _inside(values, is_bright, level)
            if inside[border].mean() > 1 - LEAST_OUTSIDE:
                continue
            field = _field_of(inside)
            least = LEAST_FRAMED if is_bright else LEAST_FIELD
            if field is None or not least < field.mean() < 1 - LEAST_OUTSIDE:
                continue
            if inside[field].mean() < LEAST_FILLED or inside[~field].mean() > 1 - FLAT:
                continue
            sureness, halfway = _judged(1 - values if is_bright else values, field, is_bright, level)
            if sureness > 0:
                yield _Found(field, is_bright, max(level, halfway), sureness)


def _field_of(inside: np.ndarray) -> np.ndarray | None:
    """The convex hull of the largest part of a mask, less the bays that a round rim cuts into it."""
    radius = max(1.0, SPECK * float(np.mean(inside.shape)))
    room = np.pad(inside, 1, mode="edge")  # what reaches the border goes on beyond it
    core = largest_part((room & ~within_distance(~room, radius))[1:-1, 1:-1])
    if core is None:
        return None
    opened = within_distance(core, radius)
    component = fill_holes(inside & opened)
    field = convex_hull(component, of_centres=True)
    for box, bay in parts(connected_components(field & ~component, connectivity=1), LEAST_BAY * field.size):
        rim = np.argwhere(ndimage.binary_dilation(np.pad(bay, 1)) & np.pad(component, 1)[_grown(box)])
        if len(rim) < LEAST_OUTLINE:
            continue
        distance, curvature_radius = _circle_of(rim)
        chord = np.linalg.norm(np.ptp(rim, axis=0))
        if distance <= max(ROUND, radius / 2) and chord <= WIDEST_CHORD * curvature_radius:
            field[box] &= ~bay
    return field


def _grown(box: tuple[slice, ...]) -> tuple[slice, ...]:
    """A box with one pixel of room, in an array that has been padded by one."""
    return tuple(slice(side.start, side.stop + 2) for side in box)


def _judged(values: np.ndarray, field: np.ndarray, is_bright: bool, level: float) -> tuple[float, float]:
    """How sure it is that a device has made a field, brighter than its outside, and the value halfway up its edge.

    0: it is no such field.
    """
    points, normals = _outline(field)
    if len(points) < LEAST_OUTLINE:
        return 0.0, level

    def at(*distances: float) -> np.ndarray:
        """Means of values along the normals, in pixels from the outline, inside above 0."""
        places = [(points + distance * normals).T for distance in distances]
        return np.mean([ndimage.map_coordinates(values, place, order=1, mode="nearest") for place in places], axis=0)

    outer = at(-1.5, -2.5)
    step, wide = at(1.5, 2.5) - outer, at(4, 5, 6) - at(-4, -5, -6)
    is_edge = (step > LEAST_STEP) & (at(-2, -3) <= level)
    sharp = float((is_edge & (step > SHARP_STEP * wide)).mean())
    halfway = float(np.median(outer) + np.percentile(step[is_edge], 20) / 2) if is_edge.any() else level
    if is_bright:
        corners = len(approximate_polygon(max(find_contours(np.pad(field, 1).astype(float), 0.5), key=len), 2.0)) - 1
        return (sharp if sharp >= SHARP and corners <= STRAIGHT else 0.0), halfway
    if sharp >= SHARP:
        return 1 + sharp, halfway
    corners_outside = int((~field[[0, 0, -1, -1], [0, -1, 0, -1]]).sum())
    is_vignette = field.mean() >= LEAST_VIGNETTE and corners_outside >= 3 and _distance_from_ellipse(points) <= ROUND
    support = float(is_edge.mean())
    # of equal ones that with least vignette
    return (support + level / 10 if is_vignette and support >= SOFT else 0.0), level


def _outline(field: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points of the outline of a field apart from the border of the image, and the directions inwards, (n, 2) each."""
    room = 8
    soft = ndimage.gaussian_filter(np.pad(field, room, mode="edge").astype(np.float32), 2.0)
    points = np.concatenate(find_contours(np.pad(field, 1).astype(float), 0.5)) - 1
    points = points[np.minimum(points, np.array(field.shape) - 1 - points).min(axis=1) > 0.6]
    slopes = [ndimage.map_coordinates(slope, points.T + room, order=1) for slope in np.gradient(soft)]
    normals = np.stack(slopes, axis=1)
    return points, normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)


def _circle_of(points: np.ndarray) -> tuple[float, float]:
    """Root mean square distance of points (n, 2) from the circle that fits them best, and its radius."""
    shifted = points - points.mean(axis=0)
    solved = np.linalg.lstsq(np.c_[2 * shifted, np.ones(len(points))], (shifted**2).sum(axis=1), rcond=None)[0]
    radius = np.sqrt(max(0.0, solved[2] + (solved[:2] ** 2).sum()))
    distances = np.linalg.norm(shifted - solved[:2], axis=1) - radius
    return float(np.sqrt(np.mean(distances**2))), float(radius)


def _distance_from_ellipse(points: np.ndarray) -> float:
    """The same distance, about, from the ellipse along the axes; infinite where another curve fits better."""
    size = np.abs(points - points.mean(axis=0)).max()
    place = (points - points.mean(axis=0)) / size
    terms = np.c_[place**2, place]
    solved = np.linalg.lstsq(terms, np.ones(len(points)), rcond=None)[0]
    if solved[:2].min() <= 0:
        return np.inf
    slope = np.linalg.norm(2 * solved[:2] * place + solved[2:], axis=1)
    return float(size * np.sqrt(np.mean(((terms @ solved - 1) / np.maximum(slope, 1e-6)) ** 2)))
