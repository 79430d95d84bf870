"""The interactive tasks: clicks and strokes, which choose among clusters or guide a fit."""

from __future__ import annotations

import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferType

from monai_fusenet.clicks import ClickSelector
from monai_fusenet.data import load_image, load_labels_on_grid_of
from monai_fusenet.label.cache import Clusters
from monai_fusenet.label.clustering import READING, Clusterer
from monai_fusenet.label.guided import OBJECT, draw_points
from monai_fusenet.label.infer import WEIGHTS, ClustersUser, read_device
from monai_fusenet.label.label_maps import read_label
from monai_fusenet.label.requests import (
    FOREGROUND,
    is_upload,
    label_names,
    option,
    read_clicks,
    read_switch,
    to_index,
)

__all__ = ["STARTED_FROM", "ClickTask", "ScribblesTask", "read_saved"]

SCOPES = ["volume", "slice"]
STARTS = ["click", "mask", "label"]
STARTED_FROM = "started_from"  # the file of the label to start from, which the app says and no client
FIT = "fit_scribbles"  # a switch: clicks and strokes take part in a fit, instead of choosing among clusters
KEPT_IN_MEMORY = 8  # slices, and masks
SCRIBBLE_POINTS = 64  # of either kind, spread over the scribbles: more say nothing new and cost time
SCRIBBLED = "selected_label_name"  # where 3D Slicer puts the name of what is scribbled on
BACKGROUND_SCRIBBLE, FOREGROUND_SCRIBBLE = 2, 3  # labels that MONAI Label's clients draw with
KEEPING = threading.RLock()  # requests are answered at the same time

Points = Sequence[Sequence[int]]
Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class _Interactive(ClustersUser):
    """Clicks on an image or on a volume, or in the slices of a volume that were clicked.

    They choose among the clusters that a fit without labels has found, in milliseconds; with `fit_scribbles` they take
    part in a fit of their own, in seconds.
    """

    def __init__(
        self,
        clusterer: Clusterer,
        results_dir: str | Path,
        type: InferType,
        description: str,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        options = {"scope": SCOPES, "start": STARTS, FIT: False, **(config or {})}
        super().__init__(clusterer, results_dir, type, FOREGROUND, description, options)
        self._slices: OrderedDict[tuple[str, int], ClickSelector] = OrderedDict()
        self._masks: OrderedDict[str, np.ndarray] = OrderedDict()

    def check(self, request: Mapping[str, Any]) -> None:
        """The scope, the start, and whether to fit."""
        option("scope", request.get("scope"), SCOPES)
        option("start", request.get("start"), STARTS)
        read_switch(request, FIT, False)

    def select(
        self,
        path: str,
        found: Clusters,
        request: Mapping[str, Any],
        foreground: Points,
        background: Points,
    ) -> np.ndarray:
        """The mask (*spatial) that points of the tensor (*spatial) ask for, see `ClickSelector`."""
        start = self._start(path, found.clusters, request)
        if found.clusters.ndim == 2 or option("scope", request.get("scope"), SCOPES) == "volume":
            mask = found.selector(foreground, background, start)
        else:
            mask = self._by_slices(path, found.clusters, foreground, background, start)
        field = found.clusters > 0
        # Nothing is drawn outside the field of view, unless a person asks for just that.
        return mask & field if all(field[tuple(point)] for point in foreground) else mask

    def fit(self, path: str, request: Mapping[str, Any], scribble: np.ndarray) -> np.ndarray:
        """The mask (*spatial) by a fit that listens to strokes, see `draw_points`.

        With the scope "slice" it is left in those slices alone that have strokes on the object.
        """
        adapt = option("weights", request.get("weights"), WEIGHTS) == "trained"
        mask = self.clusterer.guided(path, scribble, read_device(request), adapt)
        if scribble.ndim == 3 and option("scope", request.get("scope"), SCOPES) == "slice":
            mask &= (scribble == OBJECT).any(axis=(0, 1))
        return mask

    def _by_slices(
        self, path: str, clusters: np.ndarray, foreground: Points, background: Points, start: np.ndarray | None
    ) -> np.ndarray:
        """The mask (*spatial) whose slices were each clicked by themselves."""
        mask = np.zeros(clusters.shape, dtype=bool)
        clicked = foreground if start is None else [*foreground, *background]
        for position in sorted({point[-1] for point in clicked}):
            selector = self._slice(path, clusters, position)
            inside, outside = (
                [point[:-1] for point in points if point[-1] == position] for points in (foreground, background)
            )
            mask[..., position] = selector(inside, outside, None if start is None else start[..., position])
        return mask

    def _start(self, path: str, clusters: np.ndarray, request: Mapping[str, Any]) -> np.ndarray | None:
        """The mask that the clicks shall correct: that which `fusenet_mask` shows, or that which is saved."""
        start, key = option("start", request.get("start"), STARTS), self.clusterer.key(path)
        if start == "click":
            return None
        if start == "mask":
            return _kept(self._masks, key, lambda: self.clusterer.mask(path, clusters))
        label = request.get(STARTED_FROM)
        if not label:
            raise ValueError("start=label: there is no saved mask of this image to start from")
        key += f" {label} {os.stat(label).st_mtime_ns}"
        saved = _kept(self._masks, key, lambda: read_saved(label, path) > 0)
        return saved if saved.any() else None

    def _slice(self, path: str, clusters: np.ndarray, position: int) -> ClickSelector:
        """The selector of one slice, kept for the next click."""

        def make() -> ClickSelector:
            image = np.asarray(self.clusterer.image(path))
            return ClickSelector(clusters[..., position], image[..., position])

        return _kept(self._slices, (self.clusterer.key(path), position), make)


class ClickTask(_Interactive):
    """`fusenet_click`: foreground and background clicks choose clusters' shapes and correct the mask."""

    def __init__(self, clusterer: Clusterer, results_dir: str | Path) -> None:
        description = "One click on the object; each further click, on object or background, corrects"
        super().__init__(clusterer, results_dir, InferType.DEEPGROW, description)

    def check(self, request: Mapping[str, Any]) -> None:
        """The clicks, scope and start, and the object's name."""
        label_names(request)
        super().check(request)
        clicks = read_clicks(request, "foreground")
        others = read_clicks(request, "background")
        if not clicks and not (others and option("start", request.get("start"), STARTS) != "click"):
            raise ValueError(
                'no click: expected "foreground": [[x, y], ...] with at least one click on the object (pictures; '
                "[i, j, k] for volumes)"
            )

    def segment(self, path: str, found: Clusters, request: Mapping[str, Any]) -> tuple[np.ndarray, Mapping[str, int]]:
        """The mask of the clicks in `foreground` and `background`."""
        foreground, background = (
            [to_index(point, found) for point in read_clicks(request, kind)] for kind in ("foreground", "background")
        )
        if read_switch(request, FIT, False):
            mask = self.fit(path, request, draw_points(found.clusters.shape, foreground, background))
        else:
            mask = self.select(path, found, request, foreground, background)
        return mask, label_names(request)


class ScribblesTask(_Interactive):
    """`fusenet_scribbles`: the same with strokes, drawn into a label map of the image's grid."""

    def __init__(self, clusterer: Clusterer, results_dir: str | Path) -> None:
        options = {"scribbles_bg_label": BACKGROUND_SCRIBBLE, "scribbles_fg_label": FOREGROUND_SCRIBBLE}
        description = "Strokes on the object, and on background that was taken for it"
        super().__init__(clusterer, results_dir, InferType.SCRIBBLES, description, options)

    def check(self, request: Mapping[str, Any]) -> None:
        """The label map, its labels, scope and start, and the object's name."""
        label_names(request, SCRIBBLED)
        super().check(request)
        label = request.get("label")
        if not label:
            raise ValueError("no scribbles: expected a label map with the request, on the image's grid")
        if not is_upload(label):
            raise ValueError(
                f"label must be sent as a file with the request and be left out of params, got {label!r:.100}"
            )
        for kind in ("fg", "bg"):
            self._stroke(request, kind)

    def _stroke(self, request: Mapping[str, Any], kind: str) -> int:
        """The label of strokes on the object (`fg`) or the background (`bg`)."""
        name = f"scribbles_{kind}_label"
        value = request.get(name, self._config[name])
        if isinstance(value, bool) or not isinstance(value, int | str) or not re.fullmatch(r"\d{1,5}", str(value)):
            raise ValueError(f"{name} must be a whole number, got {value!r:.100}")
        return int(value)

    def segment(self, path: str, found: Clusters, request: Mapping[str, Any]) -> tuple[np.ndarray, Mapping[str, int]]:
        """The mask of the strokes in the label map `label`."""
        labels = read_label(request["label"], found.clusters.shape, found.place())
        wanted = [self._stroke(request, kind) for kind in ("fg", "bg")]
        foreground, background = (spread_points(labels == value) for value in wanted)
        if not foreground and not (background and option("start", request.get("start"), STARTS) != "click"):
            present = [f"{value:g}" for value in np.unique(labels) if value]
            more = f" and {len(present) - 8} more" if len(present) > 8 else ""
            raise ValueError(
                f"no scribble on the object: expected label {wanted[0]} in the label map, which holds "
                f"{', '.join(present[:8]) or 'none'}{more}"
            )
        if read_switch(request, FIT, False):
            strokes = (np.argwhere(labels == value) for value in wanted)
            return self.fit(path, request, draw_points(labels.shape, *strokes)), label_names(request, SCRIBBLED)
        return self.select(path, found, request, foreground, background), label_names(request, SCRIBBLED)


def read_saved(label: str, path: str) -> np.ndarray:
    """The labels (*spatial) of a file on the grid of its image as it is loaded; raises `ValueError` as that does."""
    with READING:
        return np.asarray(load_labels_on_grid_of(label, load_image(path)))[0]


def _kept(store: OrderedDict[Key, Value], key: Key, make: Callable[[], Value]) -> Value:
    """What a store has, or what is made and kept there; what was asked for longest ago goes."""
    with KEEPING:
        if key not in store:
            store[key] = make()
        store.move_to_end(key)
        while len(store) > KEPT_IN_MEMORY:
            store.popitem(last=False)
        return store[key]


def spread_points(mask: np.ndarray, most: int = SCRIBBLE_POINTS) -> list[tuple[int, ...]]:
    """A limited number of pixels of a mask (*spatial), evenly chosen."""
    points = np.argwhere(mask)
    chosen = np.unique(np.linspace(0, len(points) - 1, min(most, len(points))).round().astype(int))
    return [tuple(int(index) for index in point) for point in points[chosen]]
