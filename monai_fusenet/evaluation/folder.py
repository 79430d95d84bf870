"""Scores a folder of masks against a folder of truths."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ignite.engine import Engine

from monai_fusenet.data import spacing_of
from monai_fusenet.evaluation.levels import BASELINE_PIXELS, ChooseMask, Judge, Row
from monai_fusenet.evaluation.loading import Truth, load_results, load_true_objects, load_truth
from monai_fusenet.handlers.progress import ProgressHandler
from monai_fusenet.results.layout import result_path
from monai_fusenet.results.summary import read_summary
from monai_fusenet.transforms.acquisition import find_field
from monai_fusenet.utils import distributed
from monai_fusenet.utils.arrays import reduced_shape, resize_area, resize_nearest
from monai_fusenet.utils.errors import failure_reason
from monai_fusenet.utils.workers import Lost, spread

__all__ = ["NotScored", "score_folder"]

logger = logging.getLogger(__name__)


class NotScored(NamedTuple):
    """An image that could not be scored; `seed` is `None` if this holds for all seeds."""

    file: str
    seed: int | None
    reason: str


class Scored(NamedTuple):
    """The outcome of one image.

    Attributes:
        rows: rows of all its methods, levels and seeds; none if the truth, a baseline or every prediction fails.
        failures: masks that could not be scored.
        notes: lines for the log: failures, and files that were brought to another grid.
    """

    rows: list[Row]
    failures: list[NotScored]
    notes: list[str]


def score_folder(
    items: Sequence[Mapping[str, Any]],
    predictions: Mapping[int | None, Path],
    choose_mask: ChooseMask,
    method: str = "FuseNet",
    field: str | None = None,
    workers: int = 0,
) -> tuple[list[Row], list[NotScored]]:
    """Scores predictions and the trivial baselines, image by image, on the grid of the image.

    Several ranks share the images, and all of them return everything.

    Args:
        items: images with `image`, `label`, `file` and `name`, see `find_images`.
        predictions: for each seed (`None`: unknown) a folder with `<name>_mask.*`, foreground above 0, and optionally
            `<name>_clusters.*`. Without cluster map, the mask and its background are the two clusters. If one image has
            `<name>_objects.*`, numbers from 1, all must have it, and objects are scored, too. A `summary.csv` says what
            failed, and how long it took.
        choose_mask: label-free rule, called with clusters (*spatial) and image (C, *spatial). It makes the masks of
            baselines that only cluster.
        method: name of the predictions in the tables.
        field: the field of view for clusterings among the baselines, see `FieldOfViewd`.
        workers: processes that share the images, see `spread`.

    Returns:
        rows of `score_image` for each seed and of `score_baselines`, and the images that could not be scored. Rows have
        `file`, `seed`, and, if the summary has them, `seconds`, `peak_mib` and `confidence`. They have a `note` if a
        truth or prediction was brought to the grid of the image. Baselines are scored on the images with at least one
        scored prediction. To save time, an image of more than 524 288 pixels is then scored on a grid of that many.
    """
    folders = predictions.values()
    with_objects = any(result_path(folder, item["name"], "objects") for folder in folders for item in items)
    scorer = ItemScorer(predictions, choose_mask, method, with_objects, field)
    own = distributed.share(items)
    scored: list[Scored] = []

    def note(engine: Engine, result: tuple[Mapping[str, Any], Scored | Lost]) -> None:
        item, one = result
        if isinstance(one, Lost):
            failure = NotScored(item["file"], None, one.reason)
            one = Scored([], [failure], [f"{failure.file} not scored: {failure.reason}"])
        scored.append(one)
        for line in one.notes:
            logger.warning("%s", line)

    if own:
        engine = Engine(note)
        ProgressHandler(desc="scoring").attach(engine)
        engine.run(spread(scorer, own, workers), epoch_length=len(own))
    places = {item["file"]: place for place, item in enumerate(items)}
    everything = [one for share in distributed.gather(scored) for one in share]
    return (
        sorted((row for one in everything for row in one.rows), key=lambda row: places[row["file"]]),
        sorted((failure for one in everything for failure in one.failures), key=lambda one: places[one.file]),
    )


class ItemScorer:
    """Scores one image and keeps nothing of it. It works in any process: it can be pickled if `choose_mask` can be.

    Args:
        predictions: see `score_folder`; their summaries are read once, here.
        choose_mask: see `score_folder`.
        method: see `score_folder`.
        with_objects: whether objects are scored, too.
        field: see `score_folder`.
    """

    def __init__(
        self,
        predictions: Mapping[int | None, Path],
        choose_mask: ChooseMask,
        method: str,
        with_objects: bool,
        field: str | None,
    ) -> None:
        self.predictions = predictions
        self.choose_mask = choose_mask
        self.method = method
        self.with_objects = with_objects
        self.field = field
        self.summaries = {seed: read_summary(folder) for seed, folder in predictions.items()}

    def __call__(self, item: Mapping[str, Any]) -> Scored:
        """All rows of an image, or none where even the truth or a baseline cannot be scored."""
        scored = Scored([], [], [])
        try:
            rows = self._score(item, scored)
        except Exception as error:
            self._fail(scored, item["file"], None, error)
            return scored
        return scored._replace(rows=rows)

    def _fail(self, scored: Scored, file: str, seed: int | None, error: Exception) -> None:
        failure = NotScored(file, seed, failure_reason(error))
        which = f"{file}, seed {seed}," if len(self.predictions) > 1 and seed is not None else file
        scored.failures.append(failure)
        scored.notes.append(f"{which} not scored: {failure.reason}")

    def _score(self, item: Mapping[str, Any], scored: Scored) -> list[Row]:
        truth = load_truth(item)
        true_objects = load_true_objects(item, truth.image) if self.with_objects else None
        judge = Judge(truth.label.numpy()[0], spacing_of(truth.image))
        rows = []
        for seed in self.predictions:
            try:
                rows += self._score_prediction(item, truth, judge, true_objects, seed)
            except Exception as error:
                self._fail(scored, item["file"], seed, error)
        scored.notes.extend(
            f"{item['file']}: {note}" for note in dict.fromkeys(row.get("note") for row in rows) if note
        )
        return [*rows, *self._score_baselines(item, truth, judge, true_objects)] if rows else []

    def _score_prediction(
        self, item: Mapping[str, Any], truth: Truth, judge: Judge, true_objects: np.ndarray | None, seed: int | None
    ) -> list[Row]:
        summary = self.summaries[seed].get(item["file"], {})
        if summary.get("status") == "failed":  # of an earlier run, a mask may still lie there
            raise ValueError(summary["message"])
        results = load_results(self.predictions[seed], item["name"], truth.image)
        told = {key: float(summary[key]) for key in ("seconds", "peak_mib", "confidence") if summary.get(key)}
        objects = None
        if true_objects is not None:
            if results.objects is None:
                raise ValueError(f"there is no prediction {item['name']}_objects.*, which other images have")
            objects = (results.objects, true_objects)
        scores = judge.score_image(self.method, results.mask, results.clusters, objects)
        notes = _noted(truth.note, results.note)
        return [{"file": item["file"], "seed": seed, **row, **told, **notes} for row in scores]

    def _score_baselines(
        self, item: Mapping[str, Any], truth: Truth, judge: Judge, true_objects: np.ndarray | None
    ) -> list[Row]:
        pixels, label = truth.image.numpy(), judge.label
        shape = reduced_shape(label.shape, BASELINE_PIXELS)
        if shape != label.shape:  # ten methods on twenty million pixels would take minutes
            shrunk = np.divide(label.shape, shape)
            spacing = tuple(shrunk * (1 if judge.spacing is None else judge.spacing))
            pixels, judge = resize_area(pixels, shape), Judge(resize_nearest(label, shape), spacing)
            true_objects = None if true_objects is None else resize_nearest(true_objects, shape)
        field = None if self.field is None else find_field(pixels, self.field)
        scores = judge.score_baselines(pixels, self.choose_mask, true_objects=true_objects, field=field)
        return [{"file": item["file"], **row, **_noted(truth.note)} for row in scores]


def _noted(*notes: str) -> Row:
    """The column `note` of a row; none where there is nothing to note."""
    note = "; ".join(filter(None, notes))
    return {"note": note} if note else {}
