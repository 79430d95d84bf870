"""The workflow `evaluation`: make or find masks, score them at four levels, and report the scores."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from monai_fusenet import __version__
from monai_fusenet.bundle.checks import settings
from monai_fusenet.bundle.context import Context
from monai_fusenet.bundle.faults import UnfinishedError, edge
from monai_fusenet.bundle.workflows import alone_with_results, check_conflicts, make_masks
from monai_fusenet.data import draw_phantoms, unmatched_masks
from monai_fusenet.distillation import FolderPass
from monai_fusenet.engines import FolderEvaluator
from monai_fusenet.evaluation import (
    Example,
    NotScored,
    draw_example,
    format_totals,
    score_folder,
    typical_rows,
    write_report,
)
from monai_fusenet.handlers import ResultWriter
from monai_fusenet.utils import distributed

__all__ = ["evaluate"]

logger = logging.getLogger(__name__)

Items = Sequence[Mapping[str, Any]]
Rows = Sequence[dict[str, Any]]


@edge
def evaluate(
    workflow: Context,
    evaluator: FolderEvaluator,
    writer: ResultWriter,
    dataset_dir: str | Path | None,
    predictions_dir: str | Path | None,
    choose_mask: Callable[[np.ndarray, np.ndarray], np.ndarray],
    seed: int = 0,
    seeds: Sequence[int] | None = None,
    workers: int = 0,
) -> None:
    """Makes masks unless `predictions_dir` holds them, scores them, writes and prints the report.

    Args:
        workflow: runs the config.
        evaluator: makes the masks.
        writer: writer of its results; the report goes to the same folder.
        dataset_dir: folder of images and masks, or `None` for phantoms, which are then drawn.
        predictions_dir: folder of masks to score instead, `<name>_mask.*`, or of folders `seed_<n>` of them, or `None`.
        choose_mask: label-free rule for the baselines that only cluster.
        seed: seed of `evaluator`.
        seeds: make masks with each of these seeds instead, in `seed_<n>` in the writer's folder, and score all.
        workers: processes that score, see `spread`.

    Raises:
        ValueError: when there is no truth to score against, or `seeds` are given together with existing masks.
        UnfinishedError: when some images could not be scored, or masks belong to no image.
    """
    items = writer.items
    images_dir = _images_dir(dataset_dir, writer.output_dir)
    strays = _strays(images_dir, items, writer.output_dir, predictions_dir)
    if not any("label" in item for item in items):
        raise ValueError(
            f"no image in {images_dir} has a mask: evaluation needs masks/ beside images/, with equal names"
        )
    if seeds and predictions_dir is not None:
        raise ValueError("seeds has no effect with predictions_dir: all folders seed_<n> in it are scored")
    with alone_with_results(writer.output_dir):
        writers: dict[int, ResultWriter] = {}
        if predictions_dir is not None:
            method, folders = "predictions", _folders_of_predictions(predictions_dir)
        else:
            writers = _make_masks(workflow, evaluator, writer, seeds or [], seed)
            method, folders = method_name(evaluator.network), {key: one.output_dir for key, one in writers.items()}
        rows, failures = score_folder(items, folders, choose_mask, method, workflow.config.get("field"), workers)

        def tell() -> None:
            _note_failures(writers, failures)
            if not rows:
                return
            scored = len({row["file"] for row in rows})
            synthetic = " (SYNTHETIC phantoms)" if dataset_dir is None else ""
            heading = [
                f"Masks of {method}, scored",
                f"images: {images_dir}{synthetic}, {scored} of {len(items)} scored",
                f"masks: {predictions_dir or _made(writers)}",
                f"made on {datetime.now():%Y-%m-%d %H:%M} by monai_fusenet {__version__}",
                *([] if predictions_dir else [f"options: {_options(workflow, list(writers))}"]),
                *_copies(rows, method),
            ]
            examples = _examples(rows, method, items, folders)
            report = write_report(rows, writer.output_dir, heading, _not_scored(failures, folders), examples)
            print(format_totals(rows, ["deployed"]))  # what one may expect of new images
            scores = writer.output_dir / "scores.csv"
            logger.info("all levels: %s; scores of each image: %s", report, scores)

        distributed.from_first(tell)
    distributed.leave()
    if failures or strays:
        message = f"{len(failures)} of {len(items)} images not scored, {len(strays)} masks of no image"
        raise UnfinishedError(message, status=2 if rows else 1)


def _copies(rows: Sequence[Mapping[str, Any]], method: str) -> list[str]:
    """A line on masks that are the truth itself, as accepted masks are that came back from a distillation."""
    perfect = {
        row["file"] for row in rows if row["method"] == method and row["level"] == "deployed" and row["dice"] == 1
    }
    if not perfect:
        return []
    line = (
        f"{len(perfect)} masks equal their truth; masks that were copied, as accepted ones are, say nothing of others"
    )
    logger.warning(line)
    return [line]


def method_name(network: nn.Module) -> str:
    """The name of the method in a report: the class of its network, without a wrapper that only passes slices."""
    while isinstance(inner := getattr(network, "network", None), nn.Module):
        network = inner
    return type(network).__name__


def _images_dir(dataset_dir: str | Path | None, output_dir: Path) -> Path:
    """The folder of the images; without one, phantoms are drawn."""
    if dataset_dir is not None:
        return Path(str(dataset_dir)).expanduser()
    logger.info("no dataset_dir: evaluating on SYNTHETIC phantoms, which say nothing about medical images")
    images_dir = output_dir / "phantoms"
    distributed.from_first(lambda: draw_phantoms(images_dir))
    return images_dir


def _strays(images_dir: Path, items: Items, output_dir: Path, predictions_dir: str | Path | None) -> list[str]:
    """Masks that belong to no image; each is named in a warning. Predictions are none, wherever they lie."""
    strays = distributed.from_first(lambda: unmatched_masks(images_dir, items, output_dir))
    if predictions_dir is not None:
        predictions = Path(str(predictions_dir)).expanduser().resolve()
        strays = [stray for stray in strays if predictions not in (images_dir / stray).resolve().parents]
    for stray in strays:
        logger.warning("%s belongs to no image", stray)
    return strays


def _make_masks(
    workflow: Context, evaluator: FolderEvaluator, writer: ResultWriter, seeds: Sequence[int], seed: int
) -> dict[int, ResultWriter]:
    """Makes masks as the config says, or with each of `seeds`, in `seed_<n>`; returns their writers by seed."""
    if not seeds:
        make_masks(evaluator, writer)
        return {seed: writer}
    parts = {
        name: workflow.content(name)
        for name in ("preprocessing", "network", "inferer", "postprocessing", "device", "overwrite", "num_workers")
    }
    parts |= {"workers": evaluator.workers, "panels": writer.panels, "dicom_output": writer.dicom_output}
    of_any_seed = FolderPass(writer.output_dir, settings=settings(workflow), **parts)
    passes = {seed: of_any_seed.with_seed(seed).build(writer.items) for seed in seeds}
    for _, of_seed in passes.values():
        check_conflicts(of_seed)  # of all, before the first is fitted
    for evaluator, of_seed in passes.values():
        make_masks(evaluator, of_seed)
    return {seed: of_seed for seed, (_, of_seed) in passes.items()}


def _folders_of_predictions(predictions_dir: str | Path) -> dict[int | None, Path]:
    """The `seed_<n>` folders in a folder of predictions by their seed, or, where there are none, the folder itself."""
    folder = Path(str(predictions_dir)).expanduser()
    if not folder.is_dir():
        raise ValueError(f"predictions_dir must be a folder of masks <name>_mask.*, but {folder} is none")
    found = {path: re.fullmatch(r"seed_(\d+)", path.name) for path in sorted(folder.iterdir()) if path.is_dir()}
    seeds = {int(match[1]): path for path, match in found.items() if match}
    if seeds and any(folder.glob("*_mask.*")):
        logger.warning("%s: the masks beside the folders seed_<n> are not scored", folder)
    return {seed: seeds[seed] for seed in sorted(seeds)} or {None: folder}


def _note_failures(writers: Mapping[int, ResultWriter], failures: Sequence[NotScored]) -> None:
    """Says in the summaries what could not be scored; of an image that has no mask, they say why already."""
    for seed, writer in writers.items():
        own = [failure for failure in failures if failure.seed in (None, seed)]
        writer.add_messages(
            [
                (failure.file, f"not scored: {failure.reason}")
                for failure in own
                if writer.rows[failure.file]["status"] != "failed"
            ]
        )


def _not_scored(failures: Sequence[NotScored], folders: Mapping[int | None, Path]) -> list[tuple[str, str]]:
    """Files and reasons, for a report; the seed is named where there are several."""
    return [
        (file, reason if which is None or len(folders) == 1 else f"seed {which}: {reason}")
        for file, which, reason in failures
    ]


def _made(writers: Mapping[int, ResultWriter]) -> str:
    """How the masks came about, for a report."""
    kept = sum(writer.counts()["kept"] for writer in writers.values())
    return f"made without any label{f', {kept} of them by an earlier run with the same options' if kept else ''}"


def _examples(
    rows: Sequence[dict[str, Any]],
    method: str,
    items: Sequence[Mapping[str, Any]],
    folders: Mapping[int | None, Path],
) -> list[Example]:
    """The best, the median and the worst image of a method."""
    items_by_file = {item["file"]: item for item in items}
    examples = []
    for place, row in typical_rows(rows, method).items():
        seed = f", seed {row['seed']}" if len(folders) > 1 else ""
        caption = f"{place}: {row['file']}{seed}, Dice {row['dice']:.3f}"
        examples.append(Example(caption, draw_example(items_by_file[row["file"]], folders[row["seed"]])))
    return examples


def _options(workflow: Context, seeds: Sequence[int]) -> str:
    """The options that shape masks, for a report."""
    config = {**settings(workflow), "seed": list(seeds) if len(seeds) > 1 else seeds[0]}
    named = {
        name: value for name, value in config.items() if not isinstance(value, Mapping | str) and value is not None
    }
    for block in ("inferer", "foreground"):
        arguments = config[block] if isinstance(config[block], Mapping) else {}  # an overlay may name another block
        named |= {f"{block}#{key}": value for key, value in arguments.items() if not key.startswith("_")}
    return ", ".join(f"{name} {value}" for name, value in named.items() if not str(value).startswith("@"))
