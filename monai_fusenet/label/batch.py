"""Label maps of a whole folder: pictures are fitted in separate processes, and failed images are named."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from fastapi import HTTPException
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.batch_infer import BatchInferTask

from monai_fusenet.bundle import workers_for
from monai_fusenet.data.formats import PICTURE_SUFFIXES, suffix_of
from monai_fusenet.label.clustering import Clusterer
from monai_fusenet.label.infer import WEIGHTS
from monai_fusenet.utils.workers import Lost, spread

__all__ = ["ForgivingBatch"]

logger = logging.getLogger(__name__)

OF_CLUSTERS = ("fusenet_clusters", "fusenet_mask")


class ForgivingBatch(BatchInferTask):
    """MONAI Label's batch, also for a CPU, that goes on when an image fails: it names the image and does the others.

    On a CPU, as many processes as cores and memory allow fit the pictures. They pass clusters through the cache on
    disk; only this process makes label maps of them and saves these.

    Args:
        clusterer: source of the clusters.
    """

    def __init__(self, clusterer: Clusterer) -> None:
        self.clusterer = clusterer

    def __call__(self, request: dict[str, Any], datastore: Datastore, infer: Callable) -> dict[str, Any]:
        """The answer for each image, empty for those that failed."""
        on_cpu = not torch.cuda.is_available()
        if on_cpu:
            request = {**request, "multi_gpu": False, "max_workers": 1}
        fitted = self._fitted(request, datastore) if on_cpu and request.get("model") in OF_CLUSTERS else iter(())
        lost: dict[str, Lost | None] = {}

        def attempt(one: dict[str, Any], images: Datastore) -> dict[str, Any]:
            image = one["image"]
            while image not in lost and (found := next(fitted, None)) is not None:
                lost[found[0]] = found[1]
            try:
                if reason := lost.get(image):
                    raise HTTPException(500, reason.reason)
                return infer(one, images)
            except HTTPException as error:
                logger.warning("%s failed: %s", image, error.detail)
            except Exception:
                logger.exception("%s failed", image)
            return {}

        return super().__call__(request, datastore, attempt)

    def _fitted(self, request: dict[str, Any], datastore: Datastore) -> Iterator[tuple[str, Lost | None]]:
        """Fits pictures, and yields each as soon as its clusters lie in the cache, or cannot be made."""
        adapt = request.get("weights") == WEIGHTS[1]

        def fit(image: str) -> None:
            try:
                self.clusterer.clusters(datastore.get_image_uri(image), "cpu", adapt)
            except Exception:  # comes again where the label map is made, and is told there
                logger.debug("%s cannot be fitted", image, exc_info=True)

        images = sorted(self.get_images(request, datastore))
        pictures = [image for image in images if suffix_of(datastore.get_image_uri(image)) in PICTURE_SUFFIXES]
        workers = workers_for("cpu", 2)
        return spread(fit, pictures, workers) if workers > 1 else iter(())
