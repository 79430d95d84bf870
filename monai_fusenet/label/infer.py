"""The inference tasks of the app: clusters, the label-free mask, clicks, scribbles, and the feed-forward network."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.utils.others.generic import device_list, name_to_device

from monai_fusenet.clicks import ClickSelector
from monai_fusenet.data import load_image
from monai_fusenet.label.cache import Clusters
from monai_fusenet.label.clustering import Clusterer, presets
from monai_fusenet.label.feedforward import FeedForwardModel
from monai_fusenet.results.layout import write_label_map

__all__ = ["ClickTask", "ClustersTask", "FeedForwardTask", "MaskTask", "ScribblesTask", "read_label"]

logger = logging.getLogger(__name__)

FOREGROUND = {"foreground": 1}
NAMED_CLUSTERS = 16  # names that clients are told of in advance; an answer names all that it has
WEIGHTS = ["fresh", "trained"]
SCOPES = ["volume", "slice"]
SLICES_IN_MEMORY = 8
MOST_CLICKS = 100  # of either kind: the time that clicks take grows with a power of their number
FARTHEST = 1e9  # no image is as large
SCRIBBLE_POINTS = 64  # of either kind, spread over the scribbles: more say nothing new and cost time
BACKGROUND_SCRIBBLE, FOREGROUND_SCRIBBLE = 2, 3  # labels that MONAI Label's clients draw with


class _ClustersUser(InferTask):
    """What the tasks share: they ask for clusters of the image and write a label map on its grid.

    Args:
        clusterer: where clusters come from.
        results_dir: where label maps are written until the server has sent them.
        type: MONAI Label's type, by which clients choose a panel.
        labels: label names and values.
        description: what users read.
        config: options, each a list of which the first is the default, or the default alone.
    """

    def __init__(
        self,
        clusterer: Clusterer,
        results_dir: str | Path,
        type: InferType,
        labels: Mapping[str, int],
        description: str,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        options = {"device": device_list(), "weights": WEIGHTS, **(config or {})}
        super().__init__(type, dict(labels), 3, description, options)  # 3: Slicer sends the clicks of all slices
        self.clusterer = clusterer
        self.results_dir = Path(results_dir)

    def is_valid(self) -> bool:
        """Always: no weights are needed."""
        return True

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """The path of the label map, and what clients are told beside it."""
        start = time.perf_counter()
        path = str(request["image"])
        adapt = option("weights", request.get("weights"), WEIGHTS) == "trained"
        self.check(request)
        found = self.clusterer.clusters(path, name_to_device(request.get("device")), adapt)
        labels, names = self.segment(path, found, request)
        file = write_result(labels, found, self.results_dir)
        seconds = time.perf_counter() - start
        logger.info("%s of %s in %.0f ms", type(self).__name__, Path(path).name, 1000 * seconds)
        return str(file), {"label_names": names, "latencies": {"total": round(seconds, 3)}}

    def check(self, request: Mapping[str, Any]) -> None:
        """Raises `ValueError` for what is wrong with a request, before a fit takes its seconds."""

    def segment(self, path: str, found: Clusters, request: Mapping[str, Any]) -> tuple[np.ndarray, Mapping[str, int]]:
        """Labels (*spatial) of an image and their names."""
        raise NotImplementedError


class ClustersTask(_ClustersUser):
    """`fusenet_clusters`: all clusters, 1..K by decreasing size."""

    def __init__(self, clusterer: Clusterer, results_dir: str | Path) -> None:
        names = cluster_names(NAMED_CLUSTERS)
        super().__init__(clusterer, results_dir, InferType.SEGMENTATION, names, "Clusters of pixels, without any label")

    def segment(self, path: str, found: Clusters, request: Mapping[str, Any]) -> tuple[np.ndarray, Mapping[str, int]]:
        """The clusters as they are."""
        return found.clusters, cluster_names(int(found.clusters.max()))


class MaskTask(_ClustersUser):
    """`fusenet_mask`: the foreground that the project's rule chooses without a label."""

    def __init__(self, clusterer: Clusterer, results_dir: str | Path) -> None:
        ordered = [clusterer.preset, *(name for name in presets() if name != clusterer.preset)]
        description = "The object, chosen without a label by what is known of this kind of image (preset)"
        options = {"preset": ordered}
        super().__init__(clusterer, results_dir, InferType.SEGMENTATION, FOREGROUND, description, options)

    def check(self, request: Mapping[str, Any]) -> None:
        """The preset."""
        option("preset", request.get("preset"), self._config["preset"])

    def segment(self, path: str, found: Clusters, request: Mapping[str, Any]) -> tuple[np.ndarray, Mapping[str, int]]:
        """The mask of the preset asked for, or else of the server's."""
        preset = option("preset", request.get("preset"), self._config["preset"])
        return self.clusterer.mask(path, found.clusters, preset), FOREGROUND


class _Interactive(_ClustersUser):
    """Clicks on an image or on a volume, or in the slices of a volume that were clicked."""

    def __init__(
        self,
        clusterer: Clusterer,
        results_dir: str | Path,
        type: InferType,
        description: str,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(clusterer, results_dir, type, FOREGROUND, description, {"scope": SCOPES, **(config or {})})
        self._slices: OrderedDict[tuple[str, int], ClickSelector] = OrderedDict()

    def select(
        self,
        path: str,
        found: Clusters,
        request: Mapping[str, Any],
        foreground: Sequence[Sequence[int]],
        background: Sequence[Sequence[int]],
    ) -> np.ndarray:
        """The mask (*spatial) that points of the tensor (*spatial) ask for, see `ClickSelector`."""
        scope = option("scope", request.get("scope"), SCOPES)
        if found.clusters.ndim == 2 or scope == "volume":
            return found.selector(foreground, background)
        mask = np.zeros(found.clusters.shape, dtype=bool)
        for position in sorted({point[-1] for point in foreground}):
            selector = self._slice(path, found.clusters, position)
            inside, outside = (
                [point[:-1] for point in points if point[-1] == position] for points in (foreground, background)
            )
            mask[..., position] = selector(inside, outside)
        return mask

    def _slice(self, path: str, clusters: np.ndarray, position: int) -> ClickSelector:
        """The selector of one slice, kept for the next click."""
        key = (self.clusterer.key(path), position)
        if key not in self._slices:
            image = np.asarray(self.clusterer.image(path))
            self._slices[key] = ClickSelector(clusters[..., position], image[..., position])
        self._slices.move_to_end(key)
        while len(self._slices) > SLICES_IN_MEMORY:
            self._slices.popitem(last=False)
        return self._slices[key]


class ClickTask(_Interactive):
    """`fusenet_click`: foreground and background clicks choose clusters' shapes and correct the mask."""

    def __init__(self, clusterer: Clusterer, results_dir: str | Path) -> None:
        description = "One click on the object; each further click, on object or background, corrects"
        super().__init__(clusterer, results_dir, InferType.DEEPGROW, description)

    def check(self, request: Mapping[str, Any]) -> None:
        """The clicks and the scope."""
        option("scope", request.get("scope"), SCOPES)
        read_clicks(request, "background")
        if not read_clicks(request, "foreground"):
            raise ValueError(
                'no click: expected "foreground": [[x, y], ...] with at least one click on the object (pictures; '
                "[i, j, k] for volumes)"
            )

    def segment(self, path: str, found: Clusters, request: Mapping[str, Any]) -> tuple[np.ndarray, Mapping[str, int]]:
        """The mask of the clicks in `foreground` and `background`."""
        foreground, background = (
            [to_index(point, found) for point in read_clicks(request, kind)] for kind in ("foreground", "background")
        )
        return self.select(path, found, request, foreground, background), FOREGROUND


class ScribblesTask(_Interactive):
    """`fusenet_scribbles`: the same with strokes, drawn into a label map of the image's grid."""

    def __init__(self, clusterer: Clusterer, results_dir: str | Path) -> None:
        options = {"scribbles_bg_label": BACKGROUND_SCRIBBLE, "scribbles_fg_label": FOREGROUND_SCRIBBLE}
        description = "Strokes on the object, and on background that was taken for it"
        super().__init__(clusterer, results_dir, InferType.SCRIBBLES, description, options)

    def check(self, request: Mapping[str, Any]) -> None:
        """The label map, its labels and the scope."""
        option("scope", request.get("scope"), SCOPES)
        if not request.get("label"):
            raise ValueError("no scribbles: expected a label map with the request, on the image's grid")
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
        labels = read_label(request["label"], found.clusters.shape, found.has_geometry, found.original_affine)
        wanted = [self._stroke(request, kind) for kind in ("fg", "bg")]
        foreground, background = (spread_points(labels == value) for value in wanted)
        if not foreground:
            present = [f"{value:g}" for value in np.unique(labels) if value]
            more = f" and {len(present) - 8} more" if len(present) > 8 else ""
            raise ValueError(
                f"no scribble on the object: expected label {wanted[0]} in the label map, which holds "
                f"{', '.join(present[:8]) or 'none'}{more}"
            )
        return self.select(path, found, request, foreground, background), FOREGROUND


class FeedForwardTask(InferTask):
    """`fusenet_feedforward`: the network that was trained on accepted masks; there is none before that training."""

    def __init__(self, model: FeedForwardModel, results_dir: str | Path) -> None:
        description = "A feed-forward network, trained on the masks that were accepted"
        super().__init__(InferType.SEGMENTATION, FOREGROUND, 2, description, {"device": device_list()})
        self.model = model
        self.results_dir = Path(results_dir)

    def is_valid(self) -> bool:
        """Once there are weights."""
        return self.model.path.is_file()

    def get_path(self, validate: bool = True) -> str | None:
        """The weights, for clients that download them."""
        return str(self.model.path) if self.is_valid() or not validate else None

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """The path of the mask, and what clients are told beside it."""
        start = time.perf_counter()
        mask = self.model.predict(str(request["image"]), name_to_device(request.get("device")))
        self.results_dir.mkdir(parents=True, exist_ok=True)
        file = write_label_map(mask, self.results_dir, f"fusenet_{uuid.uuid4().hex}")
        return str(file), {
            "label_names": FOREGROUND,
            "latencies": {"total": round(time.perf_counter() - start, 3)},
        }


def cluster_names(count: int) -> dict[str, int]:
    """Names of the labels 1..count."""
    return {f"cluster_{label}": label for label in range(1, count + 1)}


def option(name: str, value: Any, allowed: Sequence[str]) -> str:
    """A value of a request, the first allowed one where there is none; raises `ValueError` for any other."""
    if value is None or list(allowed) == value:  # clients send the list back when nothing was chosen
        return allowed[0]
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value}")
    return str(value)


def read_clicks(request: Mapping[str, Any], kind: str) -> list[list[float]]:
    """The clicks of a kind in a request, as they came; raises `ValueError` unless they are some lists of numbers."""
    clicks = request.get(kind) or []

    def is_click(click: Any) -> bool:
        return isinstance(click, list) and all(
            isinstance(number, int | float) and not isinstance(number, bool) and abs(number) < FARTHEST
            for number in click
        )

    if not isinstance(clicks, list) or not all(map(is_click, clicks)):
        raise ValueError(f"{kind} must be a list of clicks, as [[120, 80], [30, 44]], got {str(clicks)[:100]}")
    if len(clicks) > MOST_CLICKS:
        raise ValueError(f"{kind} must hold at most {MOST_CLICKS} clicks, got {len(clicks)}; draw scribbles instead")
    return clicks


def to_index(click: Sequence[float], found: Clusters) -> tuple[int, ...]:
    """A click of a client as an index of the image as it was loaded.

    Args:
        click: [x = column, y = row] on a picture, [i, j, k] on everything with a geometry; a further coordinate of a
            picture or of a 2-D image is left out.
        found: what is known of the image.

    Raises:
        ValueError: when there are too few coordinates, or the click lies outside the image.
    """
    shape, axes = found.clusters.shape, found.clusters.ndim
    rounded = [round(number) for number in click]
    if found.has_geometry and len(rounded) == len(found.grid_shape) > axes:
        dropped = max(axis for axis, side in enumerate(found.grid_shape) if side == 1)
        rounded = [number for axis, number in enumerate(rounded) if axis != dropped]
    if len(rounded) < axes:
        raise ValueError(f"a click on this image must have {axes} coordinates, got {list(click)}")
    index = tuple(rounded[:axes] if found.has_geometry else rounded[1::-1])
    if not all(0 <= number < side for number, side in zip(index, shape, strict=True)):
        sides = " x ".join(str(side) for side in (shape if found.has_geometry else shape[::-1]))
        order = "[i, j, k]" if axes == 3 else "[i, j]" if found.has_geometry else "[x, y] = [column, row]"
        raise ValueError(f"the click {list(click)} lies outside the image of {sides} pixels; clicks are {order}")
    return index


def read_label(
    path: str | Path, shape: Sequence[int], has_geometry: bool, affine: np.ndarray | None = None
) -> np.ndarray:
    """A label map that a client made for an image, on the grid of the image as it was loaded.

    Slicer knows no pictures and sends what was drawn on one as a volume of one slice, whose first axis is the column.

    Args:
        path: the label map.
        shape: spatial shape of the image.
        has_geometry: False for pictures.
        affine: that of the image's file; a label map with another one lies elsewhere. `None`: not looked at.

    Returns:
        (*spatial), labels as they are in the file.

    Raises:
        ValueError: when it cannot be read, or its grid is another one.
    """
    label = load_image(path)
    array = np.asarray(label)[0]
    if label.meta["has_geometry"] and not has_geometry:
        array = array.T
    if array.shape != tuple(shape):
        raise ValueError(f"the label map must have the image's shape {tuple(shape)}, got {array.shape}")
    if has_geometry and label.meta["has_geometry"] and affine is not None:
        own = np.asarray(label.meta["original_affine"], dtype=float)
        if not np.allclose(own, affine, atol=1e-2):
            raise ValueError(
                f"the label map must have the image's affine {np.round(affine, 3).tolist()}, got "
                f"{np.round(own, 3).tolist()}"
            )
    return array


def spread_points(mask: np.ndarray, most: int = SCRIBBLE_POINTS) -> list[tuple[int, ...]]:
    """At most so many pixels of a mask (*spatial), evenly taken from all of them."""
    points = np.argwhere(mask)
    chosen = np.unique(np.linspace(0, len(points) - 1, min(most, len(points))).round().astype(int))
    return [tuple(int(index) for index in point) for point in points[chosen]]


def write_result(labels: np.ndarray, found: Clusters, results_dir: Path) -> Path:
    """Writes labels (*spatial): PNG for pictures, NIfTI with the image's affine for everything else.

    Not into the system's temporary folder, where a client on the same machine puts its copy under the same name, and
    the server, having sent the file, would delete it.
    """
    meta = {
        "has_geometry": found.has_geometry,
        "grid_shape": found.grid_shape,
        "original_affine": found.original_affine,
    }
    results_dir.mkdir(parents=True, exist_ok=True)
    tensor = MetaTensor(torch.from_numpy(labels.astype(np.int32)).unsqueeze(0), meta=meta)
    return write_label_map(tensor, results_dir, f"fusenet_{uuid.uuid4().hex}")
