"""The student: rounds of training on masks that agree, and then on its own.

Masks of several fits and of k-means teach where they agree; the network then teaches itself for a few rounds, until its
masks no longer change. Nothing here is ever given a ground truth.
"""

from __future__ import annotations

import copy
import csv
import hashlib
import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader, DistributedSampler
from monai.engines import SupervisedTrainer
from monai.inferers import Inferer
from monai.transforms import Compose, SelectItemsd
from torch import Tensor, nn
from torch.nn import functional as F

from monai_fusenet.data import SeededCacheDataset, load_image
from monai_fusenet.distillation.agreement import LEAST_IMAGES, select_confident
from monai_fusenet.distillation.lesson import Lesson, lesson_of_network, lesson_of_teachers
from monai_fusenet.handlers import EpochSeed, ProgressHandler, ResumableCheckpoint
from monai_fusenet.handlers.checkpoint import changed_settings, load_checkpoint
from monai_fusenet.results.layout import result_path
from monai_fusenet.utils.arrays import array_of, box_of, plain
from monai_fusenet.utils.checks import check_number, check_whole
from monai_fusenet.utils.errors import failure_reason
from monai_fusenet.utils.files import atomic_path

__all__ = ["Distiller", "Round", "check_runs"]

logger = logging.getLogger(__name__)

DECAY = 1e-4

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
    """Trains one feed-forward network on label-free masks of a folder, and then on its own masks.

    Every round trains on the images whose masks agree, see `select_confident`: in the first round those of the
    teachers with each other, later those of the network before and after the round. A pixel's target is the mean of
    the teachers' masks, later the network's own probability. The rounds end when the masks no longer change. An
    interrupted run goes on in the epoch where it was.

    Args:
        network: any network (B, C, *spatial) -> (B, 1, *spatial), logits; trained in place.
        in_channels: image channels.
        size: spatial size to train at.
        preprocessing: transform of an item to `image` (C, *size).
        augmentation: random dictionary transform of `image` and `target`; the latter (1, *size).
        inferer: how the network predicts.
        mask: dictionary transform of a probability (1, *spatial) in `pred` to a mask.
        loss_function: called with logits and target.
        output_dir: where checkpoints and `rounds.csv` go.
        device: where to run.
        settings: what the result depends on, as plain values; a run of other settings is not continued.
        rounds: most rounds.
        round_steps: optimisation steps of a round, filled up to whole epochs.
        batch_size: images in a step.
        learning_rate: of AdamW at the start of a round; it falls to 0 along a cosine.
        min_confidence: agreement, in [0, 1], from which on an image teaches.
        agreement: mean agreement, in [0, 1], from which on masks count as unchanged.
        seed: of everything random.
        overwrite: start anew, whatever lies there.
        num_workers: processes that augment images.

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
        self.size = tuple(size)
        self.preprocessing = preprocessing
        self.augmentation = augmentation
        self.inferer = inferer
        self.mask = mask
        self.loss_function = loss_function
        self.output_dir = Path(output_dir)
        self.device = torch.device(device)
        self.settings = dict(settings)
        self.rounds = rounds
        self.round_steps = round_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.min_confidence = min_confidence
        self.agreement = agreement
        self.seed = seed
        self.overwrite = overwrite
        self.num_workers = num_workers

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
        first = rounds / "1" / "checkpoint.pt"
        if self.overwrite or not first.is_file():
            return
        changed = sorted(changed_settings(load_checkpoint(first), self.settings))
        if changed:
            raise ValueError(
                f"{rounds} comes from a training with another {' and '.join(changed)}; choose another --output_dir, "
                "or delete that folder to train anew: teachers' masks that are there are kept"
            )

    def run(self, items: Items, teacher_dirs: Sequence[Path]) -> list[Round]:
        """Trains the network; of an item, only `image`, `file` and `name` are looked at.

        Args:
            items: images, see `find_images`.
            teacher_dirs: folders of `<name>_mask.*`, one at least; of one, all images count as sure.

        Returns:
            what each round did; `rounds.csv` holds the same.

        Raises:
            ValueError: when there is nothing to learn from, or the network has learnt that there is nothing.
        """
        samples = self._load(items, teacher_dirs)
        masks = [self._teacher_masks(sample["name"], teacher_dirs, sample.pop("box")) for sample in samples]
        self.settings |= {"images": [item["file"] for item in items], "teachers": _digest(masks)}
        self._refuse_rounds_of_others()

        lesson = lesson_of_teachers(masks)
        history: list[Round] = []
        for number in range(1, self.rounds + 1):
            start = time.perf_counter()
            chosen = self._choose(number, lesson)
            self._train(number, [{**samples[index], "target": lesson.targets[index]} for index in chosen])
            lesson, agreements = self._look_again(samples, lesson)
            seconds = time.perf_counter() - start
            history.append(Round(number, len(chosen), float(np.mean(agreements)), round(seconds, 1)))
            self._write(history)
            logger.info(
                "round %d: %d of %d images taught, mean agreement %.3f, %.0f s",
                *(number, len(chosen), len(samples), history[-1].agreement, seconds),
            )
            if history[-1].agreement > self.agreement:
                break
        else:
            logger.info("masks still changed in the last round by more than agreement (%g) allows", self.agreement)
        if not lesson.masks.any():
            raise ValueError(
                "the network has learnt that there is nothing in any image: more steps (--round_steps) or another "
                "--seed may mend it"
            )
        return history

    def _load(self, items: Items, teacher_dirs: Sequence[Path]) -> list[dict[str, Any]]:
        """`image` (C, *size), `name` and `box` of all images that have masks of all teachers and can be read."""
        taught = [
            {key: item[key] for key in ("image", "file", "name")}
            for item in items
            if all(result_path(folder, item["name"], "mask") for folder in teacher_dirs)
        ]
        if not taught:
            raise ValueError(
                f"none of {len(items)} images has masks of all teachers, see summary.csv in {teacher_dirs[0]}: "
                "there is nothing to learn from"
            )
        if len(taught) < LEAST_IMAGES:
            logger.warning("a network that sees %d images learns these by heart: give it more", len(taught))
        # Nothing but the small image is kept: what it was made from may be a hundred times as large.
        small = Compose([self.preprocessing, with_box, SelectItemsd(["image", "name", "box"])])
        images = SeededCacheDataset(taught, small, progress=False)
        images.prepare()
        prepared = [images[index] for index in range(len(images))]
        return [{**sample, "image": plain(sample["image"]).clone()} for sample in prepared]

    def _teacher_masks(self, name: str, folders: Sequence[Path], box: tuple[slice, ...]) -> Tensor:
        """All masks of an image in the box of its field, (M, *size): the share of each pixel that is foreground."""
        loaded = [plain(load_image(str(result_path(folder, name, "mask"))))[:1] > 0 for folder in folders]
        cropped = [one[(slice(None), *box)].float().unsqueeze(0) for one in loaded]
        return torch.cat([F.interpolate(one, size=self.size, mode="area")[0] for one in cropped])

    def _choose(self, number: int, lesson: Lesson) -> list[int]:
        """Which images teach in a round."""
        chosen = select_confident(lesson.confidences, self.min_confidence)
        if not chosen:
            raise ValueError(
                f"all {len(lesson.confidences)} masks are empty before round {number}: there is nothing to learn from; "
                "say what kind of image it is, for example with configs/skin.yaml"
            )
        return chosen

    def _train(self, number: int, samples: list[dict[str, Any]]) -> None:
        seed = self.seed + 1_000_003 * number
        dataset = SeededCacheDataset(samples, dict, self.augmentation, seed=seed, progress=False)
        sampler = DistributedSampler(dataset, num_replicas=1, rank=0, shuffle=True, seed=seed)
        loader = DataLoader(dataset, self.num_workers, batch_size=self.batch_size, sampler=sampler)
        optimizer = torch.optim.AdamW(self.network.parameters(), self.learning_rate, weight_decay=DECAY)
        checkpoint = ResumableCheckpoint(
            self.output_dir / "rounds" / str(number), self.network, optimizer, self.settings, self.overwrite
        )
        trainer = SupervisedTrainer(
            device=self.device,
            max_epochs=math.ceil(self.round_steps / len(loader)),
            train_data_loader=loader,
            network=self.network,
            optimizer=optimizer,
            loss_function=self.loss_function,
            prepare_batch=prepare_taught,
            train_handlers=[EpochSeed(seed, dataset), checkpoint, ProgressHandler(desc=f"round {number}")],
            decollate=False,
        )
        trainer.add_event_handler(Events.ITERATION_STARTED, follow_cosine, optimizer, self.learning_rate)
        trainer.run()

    def _look_again(self, samples: list[dict[str, Any]], lesson: Lesson) -> tuple[Lesson, list[float]]:
        """What the network teaches after a round, and how far its masks agree with those before, for each image."""
        probabilities = self._predict(samples)
        masks = torch.stack([plain(self.mask({"pred": one})["pred"]) > 0 for one in probabilities])
        return lesson_of_network(probabilities, masks, lesson.masks)

    @torch.no_grad()
    def _predict(self, samples: list[dict[str, Any]]) -> Tensor:
        """Probabilities (N, 1, *size), on the CPU."""
        self.network.eval()
        batches = torch.stack([sample["image"] for sample in samples]).split(self.batch_size)
        return torch.cat([self.inferer(batch.to(self.device), self.network).sigmoid().cpu() for batch in batches])

    def _write(self, history: list[Round]) -> None:
        with (
            atomic_path(self.output_dir / "rounds.csv") as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            table = csv.writer(file)
            table.writerow(Round._fields)
            table.writerows(history)


def with_box(sample: dict[str, Any]) -> dict[str, Any]:
    """The sample with the `box` of its `field` of view, to which its image was cropped; all where it has no field."""
    field = array_of(sample["field"])[0] if "field" in sample else None
    return {**sample, "box": () if field is None else box_of(field)}


def check_runs(network: nn.Module, in_channels: int, size: Sequence[int]) -> None:
    """Raises `ValueError` unless the network, in training, makes one channel of its input's size."""
    image = torch.zeros(2, in_channels, *size)
    try:
        with torch.random.fork_rng([]), torch.no_grad():
            output = copy.deepcopy(network).cpu().train()(image)
    except Exception as error:
        raise ValueError(f"student_def does not run at student_size {list(size)}: {failure_reason(error)}") from None
    if not isinstance(output, Tensor) or output.shape != (2, 1, *size):
        came = tuple(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise ValueError(f"student_def must put out one channel of the size of its input, {(2, 1, *size)}, got {came}")


def prepare_taught(
    batchdata: Mapping[str, Tensor], device: torch.device, non_blocking: bool = False, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    """Takes image and target out of a batch and onto the device."""
    image, target = (plain(batchdata[key]).to(device, non_blocking=non_blocking) for key in ("image", "target"))
    return image, target


def follow_cosine(engine: Engine, optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Sets the learning rate of this iteration; a function of its number alone, so that a resumed training agrees."""
    total = (engine.state.max_epochs or 1) * (engine.state.epoch_length or 1)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * (1 + math.cos(math.pi * (engine.state.iteration - 1) / total)) / 2


def _digest(masks: Sequence[Tensor]) -> str:
    digest = hashlib.sha256()
    for one in masks:
        digest.update((one * 255).round().to(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
