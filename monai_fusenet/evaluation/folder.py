"""Scores a folder of masks against a folder of truths."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.transforms import Compose
from PIL import Image

from monai_fusenet.data import (
    LoadMedicalImaged,
    ScaleByPercentilesd,
    UnionMaskd,
    affine_of,
    load_image,
    spacing_of,
    without_alpha,
)
from monai_fusenet.evaluation.levels import BASELINE_PIXELS, score_baselines, score_image
from monai_fusenet.handlers.progress import ProgressHandler
from monai_fusenet.results.layout import result_path
from monai_fusenet.results.panel import PanelRow, draw_panels
from monai_fusenet.results.summary import read_summary
from monai_fusenet.utils import distributed
from monai_fusenet.utils.arrays import reduced_shape, resize_area, resize_nearest
from monai_fusenet.utils.errors import failure_reason
from monai_fusenet.utils.geometry import SAME_PLACE

__all__ = ["NotScored", "draw_example", "score_folder"]

EXAMPLE_PIXELS = 1400  # of the longer side of an example

logger = logging.getLogger(__name__)


class NotScored(NamedTuple):
    """An image that could not be scored; `seed` is `None` where that holds for all."""

    file: str
    seed: int | None
    reason: str


def _load_truth(item: Mapping[str, Any]) -> tuple[MetaTensor, MetaTensor]:
    """The image, scaled to [0, 1], and its truth."""
    if "label" not in item:
        raise ValueError("the image has no mask")
    sample = Compose([LoadMedicalImaged(["image", "label"]), UnionMaskd("label")])(dict(item))
    image, label = without_alpha(sample["image"]), sample["label"]
    # Colours belong together; sequences do not.
    image = ScaleByPercentilesd("image", channel_wise=sample["image"].meta["has_geometry"])({"image": image})["image"]
    if image.shape[1:] != label.shape[1:]:
        raise ValueError(
            f"image and mask must have the same size, got {tuple(image.shape[1:])} and {tuple(label.shape[1:])}"
        )
    return image, label


def _load_prediction(path: Path, label: MetaTensor) -> MetaTensor:
    prediction = load_image(path)
    if prediction.shape[1:] != label.shape[1:]:
        raise ValueError(
            f"{path.name} must have the size of the truth, {tuple(label.shape[1:])}, got {tuple(prediction.shape[1:])}"
        )
    return prediction


def _load_results(folder: str | Path, name: str, label: MetaTensor) -> tuple[np.ndarray, np.ndarray]:
    """Mask (*spatial) and clusters (*spatial); without a cluster map, the mask and its background are two."""
    mask_file, clusters_file = result_path(folder, name, "mask"), result_path(folder, name, "clusters")
    if mask_file is None:
        raise ValueError(f"there is no prediction {name}_mask.* in {folder}")
    mask = UnionMaskd("mask")({"mask": _load_prediction(mask_file, label)})["mask"].numpy()[0] > 0
    if clusters_file is None:
        return mask, mask.astype(np.int64)
    return mask, _load_prediction(clusters_file, label)[0].numpy().astype(np.int64)


def score_folder(
    items: Sequence[Mapping[str, Any]],
    predictions: Mapping[int | None, Path],
    choose_mask: Callable[[np.ndarray, np.ndarray], np.ndarray],
    method: str = "FuseNet",
) -> tuple[list[dict[str, Any]], list[NotScored]]:
    """Scores predictions and the trivial baselines, image by image, on the grid of the truth.

    Several ranks share the images, and all of them return everything.

    Args:
        items: images with `image`, `label`, `file` and `name`, see `find_images`.
        predictions: for each seed (`None`: unknown) a folder with `<name>_mask.*`, foreground above 0, and perhaps
            `<name>_clusters.*`; without cluster map, the mask and its background are the two clusters. A `summary.csv`
            says what failed, and how long it took.
        choose_mask: label-free rule, called with clusters (*spatial) and image (C, *spatial), that makes masks of the
            baselines that only cluster.
        method: name of the predictions in the tables.

    Returns:
        rows of `score_image` for each seed and of `score_baselines`, with `file`, `seed` and, where the summary has
        them, `seconds` and `peak_mib`; and what could not be scored. Baselines are scored on the images of which at
        least one prediction is; where an image has more than 524 288 pixels, on a grid of so many, for time.
    """
    summaries = {seed: read_summary(folder) for seed, folder in predictions.items()}
    rows: list[dict[str, Any]] = []
    failures: list[NotScored] = []

    def fail(file: str, seed: int | None, error: Exception) -> None:
        failures.append(NotScored(file, seed, failure_reason(error)))
        which = f"{file}, seed {seed}," if len(predictions) > 1 and seed is not None else file
        logger.warning("%s not scored: %s", which, failures[-1].reason)

    def score_seed(item: Mapping[str, Any], label: MetaTensor, seed: int | None) -> list[dict[str, Any]]:
        summary = summaries[seed].get(item["file"], {})
        if summary.get("status") == "failed":  # of an earlier run, a mask may still lie there
            raise ValueError(summary["message"])
        mask, clusters = _load_results(predictions[seed], item["name"], label)
        costs = {key: float(summary[key]) for key in ("seconds", "peak_mib") if summary.get(key)}
        scores = score_image(method, mask, clusters, label.numpy()[0] > 0, spacing_of(label))
        return [{"file": item["file"], "seed": seed, **row, **costs} for row in scores]

    def score(item: Mapping[str, Any]) -> list[dict[str, Any]]:
        image, label = _load_truth(item)
        place, other = affine_of(image), affine_of(label)
        if place is not None and other is not None and not np.allclose(place, other, atol=SAME_PLACE):
            logger.warning("%s: its mask has another affine than the image; scored voxel by voxel", item["file"])
        scored = []
        for seed in predictions:
            try:
                scored += score_seed(item, label, seed)
            except Exception as error:
                fail(item["file"], seed, error)
        if not scored:
            return []
        pixels, truth, spacing = image.numpy(), label.numpy()[0] > 0, spacing_of(label)
        shape = reduced_shape(truth.shape, BASELINE_PIXELS)
        if shape != truth.shape:  # ten methods on twenty million pixels would take minutes
            shrunk = np.divide(truth.shape, shape)
            spacing = tuple(shrunk * (1 if spacing is None else spacing))
            pixels, truth = resize_area(pixels, shape), resize_nearest(truth, shape)
        baselines = score_baselines(pixels, truth, choose_mask, spacing)
        return [*scored, *({"file": item["file"], **row} for row in baselines)]

    def step(engine: Engine, item: Mapping[str, Any]) -> None:
        try:
            rows.extend(score(item))
        except Exception as error:
            fail(item["file"], None, error)

    own = distributed.share(items)
    if own:
        engine = Engine(step)
        ProgressHandler(desc="scoring").attach(engine)
        engine.run(own)
    places = {item["file"]: place for place, item in enumerate(items)}
    shares = distributed.gather((rows, failures))
    return (
        sorted((row for rows, _ in shares for row in rows), key=lambda row: places[row["file"]]),
        sorted((failure for _, failures in shares for failure in failures), key=lambda failure: places[failure.file]),
    )


def draw_example(item: Mapping[str, Any], folder: str | Path) -> bytes:
    """One image, its clusters, and its mask beside the truth, as a JPEG of at most 1400 pixels a side.

    Args:
        item: an image with `image`, `label`, `file` and `name`.
        folder: where its prediction lies, see `score_folder`.
    """
    image, label = _load_truth(item)
    mask, clusters = _load_results(folder, item["name"], label)
    row = PanelRow(
        image=image.numpy(),
        clusters=clusters - clusters.min() + 1,
        mask=mask,
        label=label.numpy()[0],
        affine=affine_of(image),
        note=read_summary(folder).get(item["file"], {}).get("choice", "").replace("; ", "\n"),
    )
    drawn, small = io.BytesIO(), io.BytesIO()
    draw_panels([row], [item["file"]]).savefig(drawn, dpi=150)
    picture = Image.open(drawn).convert("RGB")
    picture.thumbnail((EXAMPLE_PIXELS, EXAMPLE_PIXELS))
    picture.save(small, "JPEG", quality=88, subsampling=0)
    return small.getvalue()
