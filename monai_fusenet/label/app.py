"""The app that `monailabel start_server` finds in `main.py`."""

from __future__ import annotations

import errno
import importlib
import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.exception import MONAILabelException
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random
from monailabel.utils.sessions import Sessions

from monai_fusenet import __version__
from monai_fusenet.data import IMAGE_SUFFIXES
from monai_fusenet.label.annotations import Annotations
from monai_fusenet.label.batch import ForgivingBatch
from monai_fusenet.label.cache import ClusterCache
from monai_fusenet.label.clustering import Clusterer, read_conf
from monai_fusenet.label.datastores import ConfinedDatastore, ConfinedDICOMWebDatastore, check_name
from monai_fusenet.label.feedforward import FeedForwardModel
from monai_fusenet.label.infer import ClustersTask, FeedForwardTask, MaskTask
from monai_fusenet.label.interactive import STARTED_FROM, ClickTask, ScribblesTask
from monai_fusenet.label.jobs import Jobs
from monai_fusenet.label.requests import is_upload, read_switch
from monai_fusenet.label.scoring import MostUncertain, UncertaintyScoring
from monai_fusenet.label.sessions import ConfinedSessions
from monai_fusenet.label.train import AcceptedMasksTraining, SelfSupervisedTraining
from monai_fusenet.utils.errors import failure_reason

__all__ = ["FILE_PATTERNS", "FuseNetApp"]

logger = logging.getLogger(__name__)

UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}
FILE_PATTERNS = [f"*{form}" for suffix in IMAGE_SUFFIXES for form in (suffix, suffix.upper())]


class FuseNetApp(MONAILabelApp):
    """Clusters, masks, clicks and scribbles without training; trainings as soon as there are masks or images for them.

    Args:
        app_dir: a user's folder: weights in `model/`, clusters in `cache/`, temporary label maps in `results/`.
        studies: folder of images.
        conf: `preset` (see `presets`), `method` (see `methods`), `cache_dir`, `cache_gib`, `seed`; all as strings.
    """

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str]) -> None:
        folder, conf = Path(app_dir), dict(conf or {})
        options = read_conf(conf)
        cache = ClusterCache(options.cache_dir or folder / "cache", max_bytes=round(options.cache_gib * 2**30))
        self.results_dir = folder / "results"
        trained = folder / "model" / "fusenet_clusters.pt"
        self.clusterer = Clusterer(cache, options.preset, trained, options.seed, options.method)
        self.model = FeedForwardModel(folder / "model" / "fusenet_feedforward.pt", options.preset, options.seed)
        if "monailabel.app" in sys.modules:  # this is the server's process, whoever started it
            importlib.import_module("monai_fusenet.label.server")
        description = "Label-free clusters by FuseNet: one click chooses the object, on any new kind of image"
        super().__init__(app_dir, studies, conf, "monai_fusenet", description, __version__)
        self.annotations = Annotations(self, self.results_dir)
        self.jobs = Jobs(self.annotations, self.expected_dice)

    def expected_dice(self) -> float | None:
        """The Dice to expect of masks of the network that was trained on accepted masks; `None` if unknown."""
        return self._trainers["fusenet_feedforward"].stats().get("expected_dice")

    def init_datastore(self) -> Datastore:
        """The folder of images, with all files that this package reads, unless the user has restricted them."""
        field = "MONAI_LABEL_DATASTORE_FILE_EXT"
        if getattr(settings, field) == type(settings).model_fields[field].default:
            setattr(settings, field, FILE_PATTERNS)
        if self.studies.startswith(("http://", "https://")):
            field = "MONAI_LABEL_DICOMWEB_SEARCH_FILTER"
            if getattr(settings, field) == type(settings).model_fields[field].default:
                setattr(settings, field, {})  # of any modality, not of CT alone
            store = super().init_datastore()
            if isinstance(store, DICOMWebDatastore):
                store.__class__ = ConfinedDICOMWebDatastore  # MONAI Label names the class where it reads its settings
            return store
        return ConfinedDatastore(
            self.studies,
            extensions=settings.MONAI_LABEL_DATASTORE_FILE_EXT,
            auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        )

    def _load_sessions(self, load: bool = False) -> Sessions | None:
        """MONAI Label's sessions, confined."""
        if not load:
            return None
        return ConfinedSessions(settings.MONAI_LABEL_SESSION_PATH, settings.MONAI_LABEL_SESSION_EXPIRY)

    def _download_dcmqi_tools(self) -> None:
        """Puts the tools of the package dcmqi where MONAI Label looks for them, instead of downloading some."""
        found = importlib.util.find_spec("dcmqi")
        if found is None or found.origin is None:
            raise ValueError("dcmqi is not installed, which writes DICOM SEG; pip install 'monai-fusenet[label]'")
        os.environ["PATH"] = f"{Path(found.origin).parent / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"

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
        kind = self.clusterer.preset, self.clusterer.method
        return {
            "fusenet_clusters": SelfSupervisedTraining(trained, work_dir / "clusters", *kind),
            "fusenet_feedforward": AcceptedMasksTraining(self.model, work_dir / "feedforward"),
        }

    def init_strategies(self) -> dict[str, Any]:
        """The strategies for the next image, the default first."""
        return {"uncertainty": MostUncertain(), "first": First(), "random": Random()}

    def init_scoring_methods(self) -> dict[str, Any]:
        """The methods that score images."""
        return {"uncertainty": UncertaintyScoring(self.clusterer)}

    def init_batch_infer(self) -> Callable:
        """Pre-annotation of a whole folder."""
        return ForgivingBatch(self.clusterer)

    def infer(self, request: Mapping[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Answers a request for a label map.

        A request can read only images of the datastore, images of a session, and files sent with it. It can write only
        into the folders of labels. A value that is null or empty counts as absent.

        Raises:
            HTTPException: 404 for an unknown image, 400 for an invalid request or image, 507 if nothing can be written;
                with one line that says what was expected and what came.
        """
        request = {name: value for name, value in request.items() if name == "image" or value not in (None, "")}
        image = request.get("image")
        if image == "":
            raise HTTPException(404, "no image is named, and there is no session of this session_id: it may have ended")
        if not isinstance(image, str) or not self._may_read(image, datastore or self.datastore()):
            raise HTTPException(404, f"there is no image {image!r:.100}; GET /datastore/?output=all lists all")
        if not isinstance(request.get("model"), str):
            raise HTTPException(400, f"model must be the name of a task, got {request.get('model')!r:.100}")
        if "label_tag" in request:
            check_name("label_tag", request["label_tag"])
        try:
            request["save_label"] = read_switch(request, "save_label", False)
            request[STARTED_FROM] = self.annotations.label(image)  # and not what a client says
            return super().infer(request, datastore)
        except MONAILabelException as error:
            raise HTTPException(400, str(error.msg)) from error
        except (ValueError, TypeError, OverflowError) as error:
            raise HTTPException(400, failure_reason(error)) from error
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise HTTPException(400, failure_reason(error)) from error
            raise HTTPException(507, f"the label map cannot be written: {error}") from error

    def _may_read(self, image: str, datastore: Datastore) -> bool:
        """Whether an image is one of the datastore, of a session, or came with the request."""
        if datastore.get_image_uri(image) or is_upload(image):
            return True
        try:
            path = Path(image).resolve()
            is_there = path.is_file() or path.is_dir()  # no device, no pipe
        except (OSError, ValueError):
            return False
        sessions = self.sessions()
        roots = [self.studies] if sessions is None else [self.studies, sessions.store_path]
        return is_there and any(Path(root).resolve() in path.parents for root in roots)

    def batch_infer(self, request: Mapping[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Pre-annotates, then scores the images that now have clusters, so that the next sample is right."""
        result = super().batch_infer(request, datastore)
        for method in self._scoring_methods.values():
            method({}, datastore or self.datastore())
        return result
