"""The app that `monailabel start_server` finds in `main.py`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from fastapi import HTTPException
from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.exception import MONAILabelException
from monailabel.interfaces.tasks.batch_infer import BatchInferTask
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random

from monai_fusenet import __version__
from monai_fusenet.data import IMAGE_SUFFIXES, failure_reason
from monai_fusenet.label.cache import ClusterCache
from monai_fusenet.label.clustering import GENERIC, Clusterer
from monai_fusenet.label.feedforward import FeedForwardModel
from monai_fusenet.label.infer import ClickTask, ClustersTask, FeedForwardTask, MaskTask, ScribblesTask
from monai_fusenet.label.scoring import MostUncertain, UncertaintyScoring
from monai_fusenet.label.train import AcceptedMasksTraining, SelfSupervisedTraining

__all__ = ["FILE_PATTERNS", "FuseNetApp"]

logger = logging.getLogger(__name__)

FILE_PATTERNS = [f"*{form}" for suffix in IMAGE_SUFFIXES for form in (suffix, suffix.upper())]


class FuseNetApp(MONAILabelApp):
    """Clusters, masks, clicks and scribbles without training; trainings once there is something to train on.

    Args:
        app_dir: a user's folder: weights in `model/`, clusters in `cache/`, label maps on their way in `results/`.
        studies: folder of images.
        conf: `preset` (see `presets`), `cache_dir`, `cache_gib`, `seed`; all as strings.
    """

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str]) -> None:
        folder, conf = Path(app_dir), dict(conf or {})
        cache_dir = Path(conf.get("cache_dir") or folder / "cache").expanduser()
        cache = ClusterCache(cache_dir, max_bytes=round(float(conf.get("cache_gib", 2)) * 2**30))
        self.results_dir = folder / "results"
        self.clusterer = Clusterer(
            cache, conf.get("preset", GENERIC), folder / "model" / "fusenet_clusters.pt", int(conf.get("seed", 0))
        )
        self.model = FeedForwardModel(folder / "model" / "fusenet_feedforward.pt", self.clusterer.preset)
        description = "Label-free clusters by FuseNet: one click chooses the object, on any new kind of image"
        super().__init__(app_dir, studies, conf, "monai_fusenet", description, __version__)

    def init_datastore(self) -> Datastore:
        """The folder of images, with all files that this package reads, unless the user has said which ones."""
        field = "MONAI_LABEL_DATASTORE_FILE_EXT"
        if getattr(settings, field) == type(settings).model_fields[field].default:
            setattr(settings, field, FILE_PATTERNS)
        return super().init_datastore()

    def init_infers(self) -> dict[str, Any]:
        """The inference tasks by name."""
        clusters = {
            "fusenet_clusters": ClustersTask,
            "fusenet_mask": MaskTask,
            "fusenet_click": ClickTask,
            "fusenet_scribbles": ScribblesTask,
        }
        tasks: dict[str, Any] = {name: task(self.clusterer, self.results_dir) for name, task in clusters.items()}
        return {**tasks, "fusenet_feedforward": FeedForwardTask(self.model, self.results_dir)}

    def init_trainers(self) -> dict[str, Any]:
        """The trainings by name: that of the inference task which uses their weights."""
        work_dir = Path(self.app_dir) / "model" / "work"
        trained = Path(self.app_dir) / "model" / "fusenet_clusters.pt"
        return {
            "fusenet_clusters": SelfSupervisedTraining(trained, work_dir / "clusters", self.clusterer.preset),
            "fusenet_feedforward": AcceptedMasksTraining(self.model, work_dir / "feedforward"),
        }

    def init_strategies(self) -> dict[str, Any]:
        """What serves the next image, the default first."""
        return {"uncertainty": MostUncertain(), "first": First(), "random": Random()}

    def init_scoring_methods(self) -> dict[str, Any]:
        """What scores images."""
        return {"uncertainty": UncertaintyScoring(self.clusterer)}

    def init_batch_infer(self) -> Callable:
        """Pre-annotation of a whole folder."""
        return ForgivingBatch()

    def infer(self, request: Mapping[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Answers a request for a label map.

        Raises:
            HTTPException: 404 for an unknown image, 400 for a request or an image that makes no sense, 507 where
                nothing can be written; with one line that says what was expected and what came.
        """
        image = request.get("image")
        known = datastore or self.datastore()
        try:
            if isinstance(image, str) and not Path(image).exists() and not known.get_image_uri(image):
                raise HTTPException(404, f"there is no image {image!r}; GET /datastore/?output=all lists all")
            return super().infer(request, datastore)
        except MONAILabelException as error:
            raise HTTPException(400, str(error.msg)) from error
        except ValueError as error:
            raise HTTPException(400, failure_reason(error)) from error
        except OSError as error:
            raise HTTPException(507, f"the label map cannot be written: {error}") from error

    def batch_infer(self, request: Mapping[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Pre-annotates, and then scores what has clusters now, so that the next sample is the right one."""
        result = super().batch_infer(request, datastore)
        for method in self._scoring_methods.values():
            method({}, datastore or self.datastore())
        return result


class ForgivingBatch(BatchInferTask):
    """MONAI Label's batch, on a CPU too, and to the end: an image that fails is named and the others go on."""

    def __call__(self, request: dict[str, Any], datastore: Datastore, infer: Callable) -> dict[str, Any]:
        """The answer for each image, empty for those that failed."""

        def attempt(one: dict[str, Any], images: Datastore) -> dict[str, Any]:
            try:
                return infer(one, images)
            except HTTPException as error:
                logger.warning("%s failed: %s", one.get("image"), error.detail)
                return {}

        if not torch.cuda.is_available():
            request = {**request, "multi_gpu": False}
        return super().__call__(request, datastore, attempt)
