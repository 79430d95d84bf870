"""The student: rounds of training on masks that agree, and then on its own.

Masks of several fits and of k-means teach where they agree; masks that a person accepted teach as they are. The network
then teaches itself for a few rounds, corrected by the candidates of each image, until its masks no longer change.
Nothing here is ever given a ground truth.
"""

from __future__ import annotations

import copy
import csv
import hashlib
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.transforms import Compose
from torch import Tensor, nn

from monai_fusenet.data import SeededCacheDataset, load_image
from monai_fusenet.data.grids import nearest_on_grid_of, shares_on_grid_of
from monai_fusenet.distillation.accepted import AcceptedMasks
from monai_fusenet.distillation.agreement import LEAST_IMAGES, select_confident
from monai_fusenet.distillation.folds import Advice, Expectation, Folds, dice_of
from monai_fusenet.distillation.known import rule_of_accepted
from monai_fusenet.distillation.lesson import Folder, Lesson, foreground, lesson_of_teachers
from monai_fusenet.distillation.pool import CandidatePool, PoolMaker
from monai_fusenet.distillation.schooling import Schooling
from monai_fusenet.handlers.checkpoint import changed_settings, load_checkpoint
from monai_fusenet.results.layout import result_path
from monai_fusenet.utils.arrays import plain
from monai_fusenet.utils.checks import check_number, check_whole
from monai_fusenet.utils.errors import failure_reason
from monai_fusenet.utils.files import atomic_path

__all__ = ["Distiller", "Round", "check_runs"]


logger = logging.getLogger(__name__)

Items = Sequence[Mapping[str, Any]]


class Round(NamedTuple):
    """A round of self-training, a row of `rounds.csv`.

    Attributes:
        round: counted from 1.
        images: how many taught.
        agreement: mean Dice, over all images, between the masks before and after it.
        seconds: wall-clock time; of a round that was interrupted, the rest of it.
    """

    round: int
    images: int
    agreement: float
    seconds: float


class Distiller:
    """Trains one feed-forward network on the masks of a folder, and then on its own, corrected by candidates.

    Every round trains on the images that are sure enough, see `select_confident`: in the first round those on which
    the teachers agree, later those of which a candidate is what the network means. That candidate is then what the
    image teaches; a pixel's target is the mean of the teachers' masks at first. The rounds end when the masks no
    longer change. An interrupted run goes on in the epoch where it was.

    Masks that a person accepted teach as they are, in every round, and weigh more. Some networks that each leave out
    some of them are trained first: they say whether candidates and self-training bring the masks nearer to those that
    were left out, what Dice to expect of the others, and by their agreement what the others teach in the first round.

    Args:
        network: any network (B, C, *spatial) -> (B, K, *spatial), logits: K = 1, or one of each class and background;
            trained in place.
        in_channels: image channels.
        size: spatial size to train at.
        preprocessing: transform of an item to `image` (C, *size), a `MetaTensor` whose affine says where it lies.
        augmentation: random dictionary transform of `image` and `target`; the latter (K, *size).
        inferer: how the network predicts.
        mask: dictionary transform of a probability (1, *spatial) in `pred` to a mask.
        loss_function: called with logits and target.
        output_dir: where checkpoints and `rounds.csv` go.
        device: where to run.
        settings: what the result depends on, as plain values; a run of other settings is not continued.
        pool: makes the candidates of an image; `None`: the network corrects itself alone.
        rounds: most rounds.
        round_steps: optimisation steps of a round, filled up to whole epochs; half as many for each network that
            leaves out accepted masks.
        batch_size: images in a step.
        learning_rate: of AdamW at the start of a round; it falls to 0 along a cosine.
        min_confidence: agreement, in [0, 1], from which on an image teaches.
        agreement: mean agreement, in [0, 1], from which on masks count as unchanged.
        seed: of everything random.
        overwrite: start anew, whatever lies there.
        num_workers: processes that augment images.

    Attributes:
        expectation: after a run on accepted masks, what to expect of the others; `None` where fewer than two were
            accepted.

    Raises:
        ValueError: when a number is out of range, or the network does not run at `size`.
    """

    def __init__(
        self,
        network: nn.Module,
        in_channels: int,
        size: Sequence[int],
        preprocessing: Callable,
        augmentation: Callable,
        inferer: Inferer,
        mask: Callable,
        loss_function: Callable,
        output_dir: str | Path,
        device: str | torch.device,
        settings: Mapping[str, Any],
        pool: PoolMaker | None = None,
        rounds: int = 3,
        round_steps: int = 300,
        batch_size: int = 8,
        learning_rate: float = 1e-3,
        min_confidence: float = 0.8,
        agreement: float = 0.98,
        seed: int = 0,
        overwrite: bool = False,
        num_workers: int = 0,
    ) -> None:
        check_number("min_confidence", min_confidence, 0, 1)
        check_number("agreement", agreement, 0, 1)
        check_number("learning_rate", learning_rate, 0)
        if learning_rate == 0:
            raise ValueError("learning_rate must be above 0, got 0")
        check_whole("rounds", rounds, 1)
        check_whole("round_steps", round_steps, 1)
        check_runs(network, in_channels, size)
        self.network = network.to(device)
        self.inferer = inferer
        self.size = tuple(size)
        self.preprocessing = preprocessing
        self.output_dir = Path(output_dir)
        self.device = torch.device(device)
        self.settings = dict(settings)
        self.pool = pool
        self.rounds = rounds
        self.round_steps = round_steps
        self.min_confidence = min_confidence
        self.agreement = agreement
        self.overwrite = overwrite
        self.expectation: Expectation | None = None
        self._schooling = Schooling(
            augmentation=augmentation,
            inferer=inferer,
            mask=mask,
            loss_function=loss_function,
            output_dir=self.output_dir / "rounds",
            device=self.device,
            batch_size=batch_size,
            learning_rate=learning_rate,
            seed=seed,
            overwrite=overwrite,
            num_workers=num_workers,
        )

    def check_continuable(self, items: Items) -> None:
        """Looks, before the hours that teachers take, whether rounds that lie there may be continued.

        With `overwrite`, they are removed.

        Args:
            items: images, see `find_images`.

        Raises:
            ValueError: when they come from other settings or images.
        """
        self.settings["images"] = [item["file"] for item in items]
        if self.overwrite:
            shutil.rmtree(self.output_dir / "rounds", ignore_errors=True)
        self._refuse_rounds_of_others()

    def _refuse_rounds_of_others(self) -> None:
        rounds = self.output_dir / "rounds"
        first = next(
            (path for name in ("1", "without_1_alone") if (path := rounds / name / "checkpoint.pt").is_file()), None
        )
        if self.overwrite or first is None:
            return
        changed = sorted(changed_settings(load_checkpoint(first), self.settings))
        if changed:
            raise ValueError(
                f"{rounds} comes from a training with another {' and '.join(changed)}; choose another --output_dir, "
                "or delete that folder to train anew: teachers' masks that are there are kept"
            )

    def run(self, items: Items, teacher_dirs: Sequence[Path], accepted: AcceptedMasks | None = None) -> list[Round]:
        """Trains the network; of an item, only `image`, `file` and `name` are looked at.

        Args:
            items: images, see `find_images`.
            teacher_dirs: folders of `<name>_mask.*` and `<name>_clusters.*`; of one, all images count as sure.
                With accepted masks there may be none, and only the clusters are looked at.
            accepted: masks that a person accepted.

        Returns:
            what each round did; `rounds.csv` holds the same.

        Raises:
            ValueError: when there is nothing to learn from, or the network has learnt that there is nothing.
        """
        folder = self._load(items, teacher_dirs, accepted)
        self.settings |= {"images": [item["file"] for item in items], "teachers": _digest(folder, accepted)}
        self._refuse_rounds_of_others()
        advice = self._advice(folder)
        self.expectation, lesson = advice.expectation, advice.lesson
        history: list[Round] = []
        for number in range(1, self.rounds + 1):
            start = time.perf_counter()
            chosen = self._choose(number, lesson)
            samples = self._schooling.lessons(folder, lesson, chosen)
            self._schooling.teach(self.network, str(number), number, samples, self.round_steps, self.settings)
            before = lesson.masks
            lesson, masks = self._schooling.look(self.network, folder, advice.pools)
            agreements = [dice_of(one, other) for one, other in zip(masks, before, strict=True)]
            seconds = time.perf_counter() - start
            history.append(Round(number, len(chosen), float(np.mean(agreements)), round(seconds, 1)))
            self._write(history)
            logger.info(
                "round %d: %d of %d images taught, mean agreement %.3f, %.0f s",
                *(number, len(chosen), len(folder.samples), history[-1].agreement, seconds),
            )
            if history[-1].agreement > self.agreement or not advice.self_training:
                break
        else:
            logger.info("masks still changed in the last round by more than agreement (%g) allows", self.agreement)
        if not foreground(lesson.masks, axis=1).any():
            raise ValueError(
                "the network has learnt that there is nothing in any image: more steps (--round_steps) or another "
                "--seed may mend it"
            )
        return history

    def _advice(self, folder: Folder) -> Advice:
        """What teaches in the first round, and what corrects the network later."""
        if folder.accepted:
            folds = Folds(self._schooling, self.round_steps // 2 or 1, self.min_confidence, self.settings)
            return folds.advise(self.network, folder)
        return Advice(lesson_of_teachers(folder.masks), folder.pools, True, None)

    def _load(self, items: Items, teacher_dirs: Sequence[Path], accepted: AcceptedMasks | None) -> Folder:
        """What is known of all images that can be read and, where nothing was accepted, have masks of all teachers."""
        of_persons = set(accepted.paths) if accepted else set()
        kinds = ("clusters",) if accepted else ("clusters", "mask")
        taught = [
            {**{key: item[key] for key in ("image", "file", "name")}, "path": item["image"]}
            for item in items
            if item["name"] in of_persons
            or all(result_path(folder, item["name"], kind) for folder in teacher_dirs for kind in kinds)
        ]
        if not taught:
            raise ValueError(
                f"none of {len(items)} images has masks of all teachers, see summary.csv in {teacher_dirs[0]}: "
                "there is nothing to learn from"
            )
        if len(taught) < LEAST_IMAGES:
            logger.warning("a network that sees %d images learns these by heart: give it more", len(taught))
        # Nothing but the small image is kept: what it was made from may be a hundred times as large.
        small = Compose([self.preprocessing, partial(self._look, teacher_dirs=teacher_dirs, accepted=accepted)])
        images = SeededCacheDataset(taught, small, progress=True)
        images.prepare()
        loaded = [images[index] for index in range(len(images))]
        persons = {place: one["accepted"] for place, one in enumerate(loaded) if one["accepted"] is not None}
        if accepted and not persons:
            raise ValueError(f"none of the {len(accepted.paths)} accepted masks belongs to an image that can be read")
        return Folder(
            samples=[{"image": one["image"], "name": one["name"]} for one in loaded],
            masks=[one["masks"] for one in loaded],
            pools=self._pools(loaded, persons),
            accepted=persons,
        )

    def _look(self, sample: dict[str, Any], teacher_dirs: Sequence[Path], accepted: AcceptedMasks | None) -> dict:
        """What is known of one image, on the grid that the network works on."""
        image, name = sample["image"], sample["name"]
        found = [[result_path(folder, name, kind) for folder in teacher_dirs] for kind in ("clusters", "mask")]
        clusters = [load_image(str(path)) for path in found[0] if path]
        masks = [shares_on_grid_of(load_image(str(path)), image)[:1] for path in found[1] if path]
        target = None
        if accepted and name in accepted.paths:
            labels = accepted.load(name, load_image(sample["path"]))
            values = range(1, 2) if len(accepted.classes) == 1 else range(len(accepted.classes) + 1)
            classes = torch.cat([(labels == value).to(torch.uint8) for value in values])
            target = shares_on_grid_of(MetaTensor(classes, meta=labels.meta), image)
        return {
            "image": plain(image).clone(),
            "name": name,
            "clusters": [nearest_on_grid_of(one, image) for one in clusters],
            "masks": torch.stack(masks) if masks else torch.zeros(0, 1, *self.size),
            "accepted": target,
        }

    def _pools(self, loaded: Sequence[Mapping[str, Any]], accepted: Mapping[int, Tensor]) -> list[CandidatePool] | None:
        """The candidates of each image, by a rule that accepted masks change; `None` for several classes."""
        if self.pool is None or any(len(target) > 1 for target in accepted.values()):
            return None
        masks = [target[0].numpy() > 0.5 for target in accepted.values()]
        images = [loaded[place]["image"].numpy() for place in accepted]
        rule = rule_of_accepted(masks, images, self.pool.rule) if accepted else self.pool.rule
        if accepted:
            logger.info("the accepted masks say of the object: %s", rule)
        return [self.pool(one["image"], one["clusters"], rule) for one in loaded]

    def _choose(self, number: int, lesson: Lesson) -> list[int]:
        """Which images teach in a round."""
        chosen = select_confident(lesson.confidences, self.min_confidence)
        if not chosen:
            raise ValueError(
                f"all {len(lesson.confidences)} masks are empty before round {number}: there is nothing to learn from; "
                "say what kind of image it is, for example with configs/skin.yaml"
            )
        return chosen

    def _write(self, history: list[Round]) -> None:
        with (
            atomic_path(self.output_dir / "rounds.csv") as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            table = csv.writer(file)
            table.writerow(Round._fields)
            table.writerows(history)


def check_runs(network: nn.Module, in_channels: int, size: Sequence[int], channels: int = 1) -> None:
    """Raises `ValueError` unless the network, in training, makes channels of its input's size."""
    image = torch.zeros(2, in_channels, *size)
    try:
        with torch.random.fork_rng([]), torch.no_grad():
            output = copy.deepcopy(network).cpu().train()(image)
    except Exception as error:
        raise ValueError(f"student_def does not run at student_size {list(size)}: {failure_reason(error)}") from None
    wanted = (2, channels, *size)
    if not isinstance(output, Tensor) or output.shape != wanted:
        came = tuple(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"
        many = "one channel" if channels == 1 else f"{channels} channels"
        raise ValueError(f"student_def must put out {many} of the size of its input, {wanted}, got {came}")


def _digest(folder: Folder, accepted: AcceptedMasks | None) -> str:
    """Changes with the masks that teach."""
    digest = hashlib.sha256((accepted.digest if accepted else "").encode())
    for one in folder.masks:
        digest.update((one * 255).round().to(torch.uint8).numpy().tobytes())
    for pool in folder.pools or ():
        digest.update(np.packbits(pool.masks).tobytes())
    return digest.hexdigest()
