"""Scores a folder of masks against a folder of truths."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.transforms import Compose

from monai_fusenet.data import (
    LoadMedicalImaged,
    ScaleByPercentilesd,
    UnionMaskd,
    failure_reason,
    load_image,
    spacing_of,
)
from monai_fusenet.evaluation.levels import score_baselines, score_image
from monai_fusenet.handlers.progress import ProgressHandler
from monai_fusenet.handlers.results import result_path

__all__ = ["score_folder"]

logger = logging.getLogger(__name__)


def _load_prediction(path: Path, label: MetaTensor) -> MetaTensor:
    prediction = load_image(path)
    if prediction.shape[1:] != label.shape[1:]:
        raise ValueError(
            f"{path.name} must have the size of the truth, {tuple(label.shape[1:])}, got {tuple(prediction.shape[1:])}"
        )
    return prediction


def score_folder(
    items: Sequence[Mapping[str, Any]],
    predictions_dir: str | Path,
    choose_mask: Callable[[np.ndarray, np.ndarray], np.ndarray],
    method: str = "FuseNet",
) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """Scores predictions and the trivial baselines, image by image, on the grid of the truth.

    Args:
        items: images with `image`, `label`, `file` and `name`, see `find_images`.
        predictions_dir: folder with `<name>_mask.*`, foreground above 0, and perhaps `<name>_clusters.*`; without
            cluster map, the mask and its background are the two clusters.
        choose_mask: label-free rule, called with clusters (*spatial) and image (C, *spatial), that makes masks of the
            baselines that only cluster.
        method: name of the predictions in the tables.

    Returns:
        rows of `score_image` and `score_baselines`, each with its `file`, and (file, reason) of each image that could
        not be scored.
    """
    load = Compose(
        [
            LoadMedicalImaged(["image", "label"]),
            UnionMaskd("label"),
            ScaleByPercentilesd("image"),
        ]
    )
    rows: list[dict[str, Any]] = []
    failures: list[tuple[str, str]] = []

    def score(item: Mapping[str, Any]) -> list[dict[str, Any]]:
        if "label" not in item:
            raise ValueError("the image has no mask")
        mask_file = result_path(predictions_dir, item["name"], "mask")
        if mask_file is None:
            raise ValueError(f"there is no prediction {item['name']}_mask.* in {predictions_dir}")
        sample = load(dict(item))
        image, label = sample["image"], sample["label"]
        if image.shape[1:] != label.shape[1:]:
            raise ValueError(
                f"image and mask must have the same size, got {tuple(image.shape[1:])} and {tuple(label.shape[1:])}"
            )
        mask = UnionMaskd("mask")({"mask": _load_prediction(mask_file, label)})["mask"].numpy()[0] > 0
        clusters_file = result_path(predictions_dir, item["name"], "clusters")
        clusters: np.ndarray = (
            mask.astype(np.int64)
            if clusters_file is None
            else _load_prediction(clusters_file, label)[0].numpy().astype(np.int64)
        )
        spacing, truth = spacing_of(label), label.numpy()[0] > 0
        pixels = image.numpy()
        pixels = pixels[:3] if pixels.shape[0] >= 3 else pixels[:1]
        return [
            *score_image(method, mask, clusters, truth, spacing),
            *score_baselines(pixels, truth, choose_mask, spacing),
        ]

    def step(engine: Engine, item: Mapping[str, Any]) -> None:
        try:
            rows.extend({"file": item["file"], **row} for row in score(item))
        except Exception as error:
            failures.append((item["file"], failure_reason(error)))
            logger.warning("%s not scored: %s", *failures[-1])

    engine = Engine(step)
    ProgressHandler(desc="scoring").attach(engine)
    engine.run(items)
    return rows, failures
