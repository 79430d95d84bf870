"""Panels: results as pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from nibabel.orientations import io_orientation

from monai_fusenet.utils.arrays import present_labels

__all__ = ["PanelRow", "draw_panels"]

CONTOURS = ("#00e676", "#ffea00", "#f50057", "#00e5ff", "#d500f9", "#76ff03", "#ff3d00", "#2979ff")  # of classes
TRUTH = "#ff9100"
FIELD = "#40c4ff"
MOST_SHOWN = 2**11  # pixels of a side: of a larger plane every second one is shown, or every third ...

TILE, TITLE, NOTE, GAP = 3.0, 0.25, 0.13, 0.06  # inches: a picture's width, a line above it, one below it, what is left


class PanelRow:
    """One image and its results, cut to the plane that is shown.

    A volume is shown in the plane of its last axis with most of the mask (the middle one if the mask is empty). Images
    with a geometry are turned and mirrored as radiologists see them: the head or the front up, the patient's right at
    the left, in sagittal planes the front at the left.

    Args:
        image: (C, *spatial), values in [0, 1]; up to three channels are shown.
        clusters: (*spatial), integers from 1; 0, outside the field of view, is black.
        mask: (*spatial), foreground above 0; whole numbers 1..n are classes, each with its own colour.
        augmented: second view (C, *any spatial of as many axes), values in [0, 1].
        label: ground truth (*spatial), foreground above 0.
        affine: 4 x 4, from indices to mm (RAS); `None`: a picture, whose first axis points down.
        note: a few words under the mask.
        field: (*spatial), bool: the field of view, which is drawn as a thin line; `None`: the whole image.
    """

    def __init__(
        self,
        image: np.ndarray,
        clusters: np.ndarray,
        mask: np.ndarray,
        augmented: np.ndarray | None = None,
        label: np.ndarray | None = None,
        affine: np.ndarray | None = None,
        note: str = "",
        field: np.ndarray | None = None,
    ) -> None:
        self.note = note
        position = 0.5
        if mask.ndim == 3:
            areas = np.asarray(mask > 0).sum(axis=(0, 1))
            position = (int(areas.argmax()) + 0.5) / len(areas) if areas.any() else 0.5

        is_turned, mirrored, spacing = _as_seen(affine)

        def plane(volume: np.ndarray, spatial_axes: int) -> np.ndarray:
            if spatial_axes == 3:
                volume = volume[..., int(position * volume.shape[-1])]
            step = math.ceil(max(volume.shape[-2:]) / MOST_SHOWN)
            volume = np.flip(volume[..., ::step, ::step], tuple(axis - 2 for axis in mirrored))
            return np.swapaxes(volume, -2, -1) if is_turned else volume

        def picture(view: np.ndarray) -> np.ndarray:
            view = np.clip(plane(view, view.ndim - 1), 0, 1)
            return np.moveaxis(view[:3], 0, -1) if view.shape[0] >= 3 else np.repeat(view[0][..., None], 3, axis=-1)

        self.image = picture(image)
        self.cluster_count = int((present_labels(clusters) > 0).sum())  # of a whole volume, as in the summary
        rows, columns = reversed(spacing) if is_turned else spacing
        self.aspect = rows / columns  # height of a pixel over its width
        self.clusters = plane(clusters, clusters.ndim)
        self.mask = plane(mask, mask.ndim)
        self.field = None if field is None else plane(field, field.ndim)
        self.label = None if label is None else plane(label, label.ndim) > 0
        self.augmented = None if augmented is None else picture(augmented)


def _as_seen(affine: np.ndarray | None) -> tuple[bool, list[int], list[float]]:
    """Whether the first two axes change places, which of them are mirrored before, and the sides of their pixels."""
    if affine is None:
        return False, [], [1.0, 1.0]
    affine = np.asarray(affine, dtype=float)
    world, sign = io_orientation(affine)[:2].T  # of the patient's axes, right, front and head, the nearest to each
    # What is shown runs to the left, to the back and to the feet; of two directions the later is the vertical one.
    mirrored = [axis for axis in (0, 1) if sign[axis] > 0]
    return bool(world[0] < world[1]), mirrored, np.linalg.norm(affine[:3, :2], axis=0).tolist()


def _cluster_colors(clusters: np.ndarray) -> np.ndarray:
    colors = colormaps["tab20"](np.arange(20))[:, :3]
    # Strong colours first: tab20 alternates strong and pale ones, and neighbours in size are often neighbours in place.
    colors = np.concatenate([colors[::2], colors[1::2]])
    return np.where((clusters > 0)[..., None], colors[(clusters - 1) % len(colors)], 0.0)


def draw_panels(rows: Sequence[PanelRow], titles: Sequence[str]) -> Figure:
    """Draws a row for each image: image | augmented view | clusters | contour of the mask over the image.

    Args:
        rows: what to show; the column of the augmented view is left out if no row has one.
        titles: a name for each row.

    Returns:
        a figure for `savefig`, or for TensorBoard's `add_figure`.
    """
    with_augmented = any(row.augmented is not None for row in rows)
    columns = 3 + with_augmented
    sides = [TILE * row.aspect * row.image.shape[0] / row.image.shape[1] for row in rows]
    notes = [NOTE * len(row.note.splitlines()) for row in rows]
    height = sum(TITLE + side + note + GAP for side, note in zip(sides, notes, strict=True))
    figure = Figure(figsize=(columns * TILE, height), dpi=100)
    FigureCanvasAgg(figure)
    # Places are reckoned: matplotlib's layout engines draw everything several times to find them.
    all_axes, top = [], height
    for side, note in zip(sides, notes, strict=True):
        top -= TITLE + side
        places = [(column + GAP / 2, top, TILE - GAP, side * (1 - GAP / TILE)) for column in TILE * np.arange(columns)]
        all_axes.append([figure.add_axes(tuple(np.divide(place, (columns * TILE, height) * 2))) for place in places])
        top -= note + GAP
    for row, title, axes in zip(rows, titles, all_axes, strict=True):
        height, width = row.image.shape[:2]
        for ax in axes:
            ax.set_axis_off()
        count = row.cluster_count
        tiles: list[tuple[str, np.ndarray | None]] = [(title, row.image)]
        if with_augmented:
            tiles.append(("augmented view", row.augmented))
        tiles += [(f"{count} cluster{'s' if count > 1 else ''}", _cluster_colors(row.clusters)), ("mask", row.image)]
        for ax, (name, pixels) in zip(axes, tiles, strict=True):
            short = name if len(name) <= 34 else f"{name[:16]}…{name[-17:]}"
            ax.set_title(short, fontsize=9, parse_math=False, y=1.0)  # without y, it looks for ticks in its way
            if pixels is not None:
                # The augmented view has the working resolution: stretched to the shape of the image.
                ax.imshow(pixels, interpolation="nearest", extent=(-0.5, width - 0.5, height - 0.5, -0.5))
        for ax in axes:
            ax.set_aspect(row.aspect)
        outlines = [(row.field, FIELD, 0.6), (row.label, TRUTH, 1.5)]
        classes = np.unique(row.mask[row.mask > 0]).astype(int)
        outlines += [(row.mask == place, CONTOURS[(place - 1) % len(CONTOURS)], 1.5) for place in classes]
        for region, color, line_width in outlines:
            if region is not None and region.any() and not region.all():
                axes[-1].contour(region, levels=[0.5], colors=color, linewidths=line_width)
        if row.label is not None:
            axes[-1].set_title("mask, and truth in orange", fontsize=9, y=1.0)
        if row.note:
            axes[-1].text(
                0.5, -0.02, row.note, fontsize=7, transform=axes[-1].transAxes, ha="center", va="top", parse_math=False
            )
    return figure
