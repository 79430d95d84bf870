"""The workflows that configs run: masks of a folder, a training, a distillation; `evaluate` has its own file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from monai.engines import SupervisedTrainer
from monai.transforms import Compose, Transform
from monai.utils import ensure_tuple

from monai_fusenet.bundle.context import Context
from monai_fusenet.bundle.faults import Interrupted, UnfinishedError, edge
from monai_fusenet.bundle.student_bundle import write_student
from monai_fusenet.bundle.weights import fingerprint
from monai_fusenet.data import draw_phantoms
from monai_fusenet.distillation import AcceptedMasks, Distiller, FolderPass, KeepAcceptedd, Teacher
from monai_fusenet.engines import FolderEvaluator
from monai_fusenet.handlers.results import ResultWriter
from monai_fusenet.results.dicom import is_dicom
from monai_fusenet.transforms import MaskConfidenced
from monai_fusenet.utils import distributed
from monai_fusenet.utils.files import alone_in

__all__ = ["distil", "infer", "student_trainer", "train"]

logger = logging.getLogger(__name__)


def check_conflicts(writer: ResultWriter) -> None:
    """Raises `ValueError` if the folder holds results of other images or settings."""
    if writer.conflicts:
        others = f" and {len(writer.conflicts) - 1} others" if len(writer.conflicts) > 1 else ""
        raise ValueError(
            f"{writer.output_dir} holds results for {writer.conflicts[0]}{others} that come from another image or from "
            "other options; choose another --output_dir, or redo them with --overwrite True"
        )


def make_masks(evaluator: FolderEvaluator, writer: ResultWriter) -> None:
    """Does the pending images, writes the summary and logs the outcome; all ranks together, each its share.

    Raises:
        ValueError: when the folder holds results of other images or settings; nothing is written then.
    """
    check_conflicts(writer)
    others = sum(not is_dicom(ensure_tuple(item["image"])[0]) for item in writer.items)
    if writer.dicom_output is not None and others:
        logger.info("dicom_output has no effect on %d images that are not DICOM", others)
    if distributed.size() > 1:
        writer.merge()
    if writer.pending:
        try:
            evaluator.run()
        except Interrupted as stop:
            counts = writer.counts()
            if distributed.size() == 1:
                stop.done = f"{counts['ok'] + counts['kept']} of {len(writer.items)} images done; "
            raise
    writer.merge()
    counts = writer.counts()
    logger.info("%d images done, %d failed; see %s", counts["ok"], counts["failed"], writer.output_dir / "summary.csv")
    if counts["kept"]:
        logger.info("%d kept as an earlier run with the same options left them", counts["kept"])


@edge
def infer(evaluator: FolderEvaluator, writer: ResultWriter) -> None:
    """Makes masks of all images that have none yet.

    Raises:
        UnfinishedError: when some images could not be done.
    """
    with alone_with_results(writer.output_dir):
        make_masks(evaluator, writer)
    distributed.leave()
    check_finished(writer.counts()["failed"], len(writer.items))


def alone_with_results(folder: str | Path) -> AbstractContextManager[None]:
    """Keeps other runs out of the folder, see `alone_in`; the first rank does it for all."""
    return alone_in(folder) if distributed.rank() == 0 else nullcontext()


def check_finished(failed: int, total: int) -> None:
    """Raises `UnfinishedError` if some of `total` images failed, or all."""
    if failed:
        raise UnfinishedError(f"{failed} of {total} images failed", status=1 if failed == total else 2)


@edge
def train(trainer: Any, dataset: Any, output_dir: str | Path) -> None:
    """Runs the training.

    Args:
        trainer: the trainer.
        dataset: its images.
        output_dir: folder of its results.

    Raises:
        UnfinishedError: when images had to be left out.
    """
    dataset.prepare()
    with alone_with_results(output_dir):
        trainer.run()
    distributed.leave()
    check_finished(len(dataset.failures), len(dataset.failures) + len(dataset))


def teach(
    distiller: Distiller,
    teacher: Teacher,
    items: Sequence[Mapping[str, Any]],
    dataset_dir: str | Path | None,
    accepted: AcceptedMasks | None,
) -> tuple[list[dict[str, Any]], Sequence[FolderPass]]:
    """Makes the teachers' masks; existing ones are kept.

    Returns:
        all images without labels, and the passes with the folders of the masks.
    """
    distiller.settings["accepted_masks"] = None if accepted is None else accepted.digest
    if dataset_dir is None:
        logger.info("no dataset_dir: learning from SYNTHETIC phantoms, which say nothing about medical images")
        distributed.from_first(lambda: draw_phantoms(distiller.output_dir / "phantoms"))
    distributed.from_first(lambda: distiller.check_continuable(items))
    unlabelled = [{key: item[key] for key in ("image", "file", "name")} for item in items]
    passes = teacher.fits if accepted else teacher.passes
    for one in passes:
        make_masks(*one.build(unlabelled))
    return unlabelled, passes


@edge
def student_trainer(
    distiller: Distiller,
    teacher: Teacher,
    items: Sequence[Mapping[str, Any]],
    dataset_dir: str | Path | None,
    accepted: AcceptedMasks | None = None,
    max_epochs: int = 1,
) -> SupervisedTrainer:
    """Makes the teachers' masks, and the trainer of the student for the rounds of a federation.

    Args:
        distiller: holds the student.
        teacher: makes the masks.
        items: all images of this site.
        dataset_dir: folder of the images, or `None` for phantoms, which are then drawn.
        accepted: masks that a person of this site accepted, if any.
        max_epochs: epochs of a round.

    Raises:
        ValueError: as `Distiller.trainer`.
    """
    unlabelled, passes = teach(distiller, teacher, items, dataset_dir, accepted)
    return distiller.trainer(unlabelled, [one.output_dir for one in passes], accepted, max_epochs)


@edge
def distil(
    workflow: Context,
    distiller: Distiller,
    teacher: Teacher,
    preprocessing: Callable,
    postprocessing: Transform,
    items: Sequence[Mapping[str, Any]],
    dataset_dir: str | Path | None,
    bundle_root: str | Path,
    accepted: AcceptedMasks | None = None,
    workers: int = 0,
    panels: str = "some",
) -> None:
    """Makes the teachers' masks, trains the network on them, and writes it as a bundle, with its masks of the folder.

    Args:
        workflow: runs the config.
        distiller: trains the network.
        teacher: makes the masks.
        preprocessing: transform of an item for the network.
        postprocessing: transform of the network's output to a mask on the image's own grid.
        items: all images.
        dataset_dir: folder of the images, or `None` for phantoms, which are then drawn.
        bundle_root: the bundle that runs.
        accepted: masks that a person accepted, if any.
        workers: processes that do images with the trained network, see `FolderEvaluator`.
        panels: panels of these images, see `ResultWriter`.

    Raises:
        UnfinishedError: when some images could not be done.
    """
    with alone_with_results(distiller.output_dir):
        items, passes = teach(distiller, teacher, items, dataset_dir, accepted)

        def train_student() -> tuple[dict[str, torch.Tensor], float | None]:
            distiller.run(items, [one.output_dir for one in passes], accepted)
            return {
                name: value.cpu() for name, value in distiller.network.state_dict().items()
            }, distiller.confidence_power

        trained, power = distributed.from_first(train_student)
        distiller.network.load_state_dict(trained)
        weights, model_dir = fingerprint(distiller.network), distiller.output_dir / "model"
        learnt = {} if power is None else {"confidence_power": power}
        distributed.from_first(
            lambda: write_student(workflow, distiller.network, weights, bundle_root, model_dir, learnt)
        )
        logger.info("the network, as a bundle: %s", model_dir)

        if power is not None:
            for transform in Compose([postprocessing]).flatten().transforms:
                if isinstance(transform, MaskConfidenced):
                    transform.power = power
        kept = [] if accepted is None else [KeepAcceptedd(accepted)]
        own = FolderPass(
            distiller.output_dir / "masks",
            preprocessing,
            distiller.network,
            distiller.inferer,
            Compose([postprocessing, *kept]),
            distiller.device,
            {
                "weights": weights,
                "split_objects": workflow.content("split_objects"),
                "confidence_power": workflow.content("confidence_power") if power is None else power,
                "accepted_masks": distiller.settings["accepted_masks"],
            },
            distiller.overwrite,
            workers=workers,
            panels=panels,
        )
        evaluator, writer = own.build(items)
        if writer.conflicts:  # left by an earlier network
            evaluator, writer = replace(own, overwrite=True).build(items)
        infer(evaluator, writer)
