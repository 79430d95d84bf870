"""The inference tasks that need only an image: clusters, the label-free mask, the feed-forward network."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.data import MetaTensor
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.utils.others.generic import device_list, name_to_device

from monai_fusenet.label.cache import Clusters
from monai_fusenet.label.clustering import Clusterer, presets
from monai_fusenet.label.feedforward import FeedForwardModel
from monai_fusenet.label.label_maps import read_form, write_answer
from monai_fusenet.label.requests import (
    FOREGROUND,
    label_names,
    option,
)

__all__ = ["WEIGHTS", "Answer", "ClustersTask", "ClustersUser", "FeedForwardTask", "MaskTask", "read_device"]

logger = logging.getLogger(__name__)

NAMED_CLUSTERS = 16  # names that clients are told of in advance; an answer names all that it has
WEIGHTS = ["fresh", "trained"]


class Answer(NamedTuple):
    """A label map.

    Attributes:
        labels: (*spatial) of the image as it was loaded.
        names: of the labels, with their values.
        place: the `meta` by which it is written on the image's own grid.
    """

    labels: np.ndarray
    names: Mapping[str, int]
    place: dict[str, Any]


class ClustersUser(InferTask):
    """The common part of the tasks: they get clusters of the image and write a label map on its grid.

    Args:
        clusterer: source of the clusters.
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
        form = read_form(request, path)
        labels, names, place = self.answer(request)
        tensor = MetaTensor(torch.from_numpy(labels.astype(np.int32)).unsqueeze(0), meta=place)
        file = write_answer(tensor, self.results_dir, form, names, path)
        seconds = time.perf_counter() - start
        logger.info("%s of %s in %.0f ms", type(self).__name__, Path(path).name, 1000 * seconds)
        return str(file), {"label_names": names, "latencies": {"total": round(seconds, 3)}}

    def answer(self, request: Mapping[str, Any]) -> Answer:
        """The answer to a request; raises `ValueError` if the request is invalid."""
        path = str(request["image"])
        adapt = option("weights", request.get("weights"), WEIGHTS) == "trained"
        device = read_device(request)
        self.check(request)
        found = self.clusterer.clusters(path, device, adapt)
        return Answer(*self.segment(path, found, request), found.place())

    def check(self, request: Mapping[str, Any]) -> None:
        """Raises `ValueError` if a request is invalid, before a fit takes its seconds."""

    def segment(self, path: str, found: Clusters, request: Mapping[str, Any]) -> tuple[np.ndarray, Mapping[str, int]]:
        """Labels (*spatial) of an image and their names."""
        raise NotImplementedError


class ClustersTask(ClustersUser):
    """`fusenet_clusters`: all clusters, 1..K by decreasing size."""

    def __init__(self, clusterer: Clusterer, results_dir: str | Path) -> None:
        names = cluster_names(NAMED_CLUSTERS)
        super().__init__(clusterer, results_dir, InferType.SEGMENTATION, names, "Clusters of pixels, without any label")

    def segment(self, path: str, found: Clusters, request: Mapping[str, Any]) -> tuple[np.ndarray, Mapping[str, int]]:
        """The clusters as they are."""
        return found.clusters, cluster_names(int(found.clusters.max()))


class MaskTask(ClustersUser):
    """`fusenet_mask`: the foreground that the project's rule chooses without a label."""

    def __init__(self, clusterer: Clusterer, results_dir: str | Path) -> None:
        ordered = [clusterer.preset, *(name for name in presets() if name != clusterer.preset)]
        description = "The object, chosen without a label by what is known of this kind of image (preset)"
        options = {"preset": ordered}
        super().__init__(clusterer, results_dir, InferType.SEGMENTATION, FOREGROUND, description, options)

    def check(self, request: Mapping[str, Any]) -> None:
        """The preset and the object's name."""
        label_names(request)
        option("preset", request.get("preset"), self._config["preset"])

    def segment(self, path: str, found: Clusters, request: Mapping[str, Any]) -> tuple[np.ndarray, Mapping[str, int]]:
        """The mask by the preset of the request, or by that of the server."""
        preset = option("preset", request.get("preset"), self._config["preset"])
        return self.clusterer.mask(path, found.clusters, preset), label_names(request)


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
        path = str(request["image"])
        device, form, names = read_device(request), read_form(request, path), label_names(request)
        mask, classes, confidence = self.model.predict(path, device)
        if len(classes) > 1:
            names = {f"class_{label}": label for label in classes}
        file = write_answer(mask, self.results_dir, form, names, path)
        return str(file), {
            "label_names": names,
            "confidence": confidence,
            "latencies": {"total": round(time.perf_counter() - start, 3)},
        }


def read_device(request: Mapping[str, Any]) -> str:
    """The device of a request, by torch's name or by the one that clients show; raises `ValueError` for a missing one.

    If there is no GPU, a GPU means the CPU, as everywhere in MONAI Label.
    """
    value = request.get("device") or None
    if isinstance(value, list) and value == device_list():  # sent back as it was offered
        value = value[0]
    if value is not None and not isinstance(value, str):
        raise ValueError(f"device must be one of {', '.join(device_list())}, got {value!r:.100}")
    device = name_to_device(value)
    try:
        torch.zeros(1, device=device).cpu()  # not even "meta", which holds nothing
    except (RuntimeError, AssertionError) as error:  # an assertion where torch is built without that kind
        raise ValueError(f"device must be one of {', '.join(device_list())}, got {value!r:.100}") from error
    return device


def cluster_names(count: int) -> dict[str, int]:
    """Names of the labels 1..count."""
    return {f"cluster_{label}": label for label in range(1, count + 1)}
