"""Which image to annotate next: the one whose clusters are least certain."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy

from monai_fusenet.label.clustering import Clusterer

__all__ = ["MostUncertain", "UncertaintyScoring"]

logger = logging.getLogger(__name__)

SCORE, SCORED_WITH = "fusenet_uncertainty", "fusenet_settings"  # in the datastore's information on an image


class UncertaintyScoring(ScoringMethod):
    """Notes the uncertainty of each image in the datastore, once.

    MONAI Label runs it at the start of the server and after each next sample, so it looks at images alone that were not
    scored with these options before, and fits nothing: what has no clusters in the cache yet is left for later.
    """

    def __init__(self, clusterer: Clusterer) -> None:
        super().__init__("Mean entropy of the clusters, in [0, 1], of the images that have clusters")
        self.clusterer = clusterer

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, int]:
        """How many images were scored now, were scored before, wait for clusters, and could not be read."""
        settings = self.clusterer.settings_digest()
        counts = dict.fromkeys(("scored", "kept", "without_clusters", "failed"), 0)
        for image in datastore.list_images():
            if datastore.get_image_info(image).get(SCORED_WITH) == settings:
                counts["kept"] += 1
                continue
            path = datastore.get_image_uri(image)
            try:
                if self.clusterer.key(path) not in self.clusterer.cache:
                    counts["without_clusters"] += 1
                    continue
                score = round(self.clusterer.clusters(path).uncertainty, 6)
            except (OSError, ValueError) as error:
                logger.warning("%s cannot be scored: %s", image, error)
                counts["failed"] += 1
                continue
            datastore.update_image_info(image, {SCORE: score, SCORED_WITH: settings})
            counts["scored"] += 1
        logger.info("uncertainty: %s", counts)
        return counts


class MostUncertain(Strategy):
    """Serves the unlabelled image of the greatest uncertainty; what was served before comes again after all others."""

    def __init__(self) -> None:
        super().__init__("The unlabelled image whose clusters are least certain; images without a score come last")

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """The image's id and its uncertainty, `None` where all images are labelled."""
        if hasattr(datastore, "refresh"):
            datastore.refresh()  # another process may have scored
        ranked = []
        for image in datastore.get_unlabeled_images():
            info = datastore.get_image_info(image)
            served = info.get("strategy", {}).get(request["strategy"], {}).get("ts", 0)
            score = info.get(SCORE)
            ranked.append((served, score is None, -(score or 0), image))
        if not ranked:
            return None
        _, unscored, negative, image = min(ranked)
        return {"id": image, SCORE: None if unscored else -negative}
