"""The student: rounds of training on the knowledge of each image, and then also on the network's own masks.

Where masks of several fits and of k-means agree, they show what the object looks like. Masks that a person accepted
show it directly. Half of each target always comes from this knowledge, so that the network does not drift. Nothing here
ever uses a ground truth.
"""

from __future__ import annotations

import copy
import csv
import hashlib
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.engines import SupervisedTrainer
from monai.inferers import Inferer
from torch import Tensor, nn

from monai_fusenet.distillation.accepted import AcceptedMasks
from monai_fusenet.distillation.agreement import LEAST_IMAGES, select_confident
from monai_fusenet.distillation.candidates import PoolMaker
from monai_fusenet.distillation.folds import Folds, Opening, confidence_power, dice_of, expect, fold_steps, sureness
from monai_fusenet.distillation.lesson import KnownFolder, Lesson, foreground, lesson_of_teachers, mix
from monai_fusenet.distillation.ranker import cross_votes
from monai_fusenet.distillation.schooling import InBfloat16, Schooling
from monai_fusenet.distillation.study import FolderStudy
from monai_fusenet.handlers.checkpoint import changed_settings, load_checkpoint
from monai_fusenet.transforms import channels_of
from monai_fusenet.utils.checks import check_number, check_whole
from monai_fusenet.utils.errors import failure_reason
from monai_fusenet.utils.files import atomic_path

__all__ = ["Distiller", "Round", "check_runs"]


logger = logging.getLogger(__name__)

Items = Sequence[Mapping[str, Any]]

EXPECTATION = "expectation.json"
RANKINGS = 2  # by what the sure images look like, and then by what those look like that are sure by then


class Round(NamedTuple):
    """A round of self-training, a row of `rounds.csv`.

    Attributes:
        round: counted from 1.
        images: number of images that the network learnt from.
        agreement: mean Dice, over all images, between the masks before and after it.
        seconds: wall-clock time; after an interruption, only that of the rest of the round.
    """

    round: int
    images: int
    agreement: float
    seconds: float


class Distiller:
    """Trains one feed-forward network on the masks of a folder, and then on its own masks, corrected by candidates.

    The teachers' masks, or those that a person accepted, first show how the object differs from its surroundings. With
    this, all candidates of each image are ranked, and together they say where the object is, see `Ranker`. In each
    round the network learns from the images that are sure enough, see `select_confident`. Its own predictions are then
    half of the targets of the next round. The other half remains the candidates: their borders follow edges of the
    image, which keeps the network from drifting. The rounds end when the masks no longer change. An interrupted run
    continues in the epoch where it stopped.

    Masks that a person accepted are used unchanged in every round, with more weight. Each is left out in turn. This
    shows whether candidates, networks or the rule without masks are best, and which Dice to expect, see `Folds`.

    Args:
        network: any network (B, C, *spatial) -> (B, K, *spatial), logits: K = 1, or one channel for each class and for
            the background; trained in place.
        in_channels: image channels.
        size: spatial size for the training.
        preprocessing: transform of an item to `image` (C, *size), a `MetaTensor` whose affine gives its geometry.
        augmentation: random transform of images (B, C, *size) and targets (B, K, *size), as `AugmentBatch`.
        inferer: how the network predicts.
        mask: dictionary transform of probabilities (K, *spatial) in `pred` to a mask.
        loss_function: called with logits and target.
        pool: makes the candidates of an image.
        output_dir: folder for checkpoints, `rounds.csv` and `expectation.json`.
        device: where to run.
        settings: everything that the result depends on, as plain values; a run with other settings is not continued.
        classes: the values in label maps of the classes that the network separates, see `AcceptedMasks`.
        rounds: largest number of rounds.
        round_steps: optimisation steps of a round, rounded up to whole epochs; three quarters of them for each network
            that leaves out accepted masks.
        batch_size: images in a step.
        learning_rate: of AdamW at the start of a round; it falls to 0 along a cosine.
        min_confidence: smallest agreement, in [0, 1], at which the network learns from an image.
        agreement: smallest mean agreement, in [0, 1], at which masks count as unchanged.
        seed: seed of all random numbers.
        overwrite: start from the beginning and replace existing files.
        amp: whether the network computes in bfloat16 where this is precise enough.

    Attributes:
        confidence_power: set after a run, see the function of this name; `None` if there is no accepted mask to compute
            it from.

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
        pool: PoolMaker,
        output_dir: str | Path,
        device: str | torch.device,
        settings: Mapping[str, Any],
        classes: Sequence[int] = (1,),
        rounds: int = 3,
        round_steps: int = 400,
        batch_size: int = 8,
        learning_rate: float = 1e-3,
        min_confidence: float = 0.8,
        agreement: float = 0.98,
        seed: int = 0,
        overwrite: bool = False,
        amp: bool = False,
    ) -> None:
        check_number("min_confidence", min_confidence, 0, 1)
        check_number("agreement", agreement, 0, 1)
        check_number("learning_rate", learning_rate, 0)
        if learning_rate == 0:
            raise ValueError("learning_rate must be above 0, got 0")
        check_whole("rounds", rounds, 1)
        check_whole("round_steps", round_steps, 1)
        for one in (network, InBfloat16(network)) if amp else (network,):
            check_runs(one, in_channels, size, channels_of(classes))
        self.network = network.to(device)
        self.inferer = inferer
        self.confidence_power: float | None = None
        self.size = tuple(size)
        self.classes = tuple(classes)
        self.output_dir = Path(output_dir)
        self.device = torch.device(device)
        self.settings = dict(settings)
        self._study = FolderStudy(preprocessing, pool, size)
        self.rounds = rounds
        self.round_steps = round_steps
        self.min_confidence = min_confidence
        self.agreement = agreement
        self.overwrite = overwrite
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
            amp=amp,
        )

    def check_continuable(self, items: Items) -> None:
        """Checks whether existing rounds can be continued, before the teachers, which may take hours.

        With `overwrite`, they are removed.

        Args:
            items: images, see `find_images`.

        Raises:
            ValueError: when the rounds come from other settings or images.
        """
        self.settings["images"] = [item["file"] for item in items]
        if self.overwrite:
            shutil.rmtree(self.output_dir / "rounds", ignore_errors=True)
        self._refuse_rounds_of_others()

    def _refuse_rounds_of_others(self) -> None:
        rounds = self.output_dir / "rounds"
        first = next(
            (path for name in ("1", "without_1", "accepted") if (path := rounds / name / "checkpoint.pt").is_file()),
            None,
        )
        if self.overwrite or first is None:
            return
        changed = sorted(changed_settings(load_checkpoint(first), self.settings))
        if changed:
            raise ValueError(
                f"{rounds} comes from a training with another {' and '.join(changed)}; choose another --output_dir, "
                "or delete that folder to train again: existing teachers' masks are kept"
            )

    def run(
        self,
        items: Items,
        teacher_dirs: Sequence[Path],
        accepted: AcceptedMasks | None = None,
        weights: Mapping[str, Tensor] | None = None,
    ) -> list[Round]:
        """Trains the network; only `image`, `file` and `name` of an item are used.

        Args:
            items: images, see `find_images`.
            teacher_dirs: folders of `<name>_mask.*` and `<name>_clusters.*`. With a single folder, all images count as
                sure. With accepted masks there may be no folder, and only the clusters are used.
            accepted: masks that a person accepted.
            weights: weights of an earlier training from which the first round continues. Networks that leave out
                accepted masks do not start from them, because these weights may have learnt from the masks.

        Returns:
            a record of each round, as in `rounds.csv`.

        Raises:
            ValueError: when there is nothing to learn from, the network predicts only background, or the accepted masks
                show other classes than the network has.
        """
        folder, opening = self._begin(items, teacher_dirs, accepted)
        lesson, masks = opening.lesson, self._schooling.decide(opening.lesson.targets)
        first = masks
        if (known := opening.weights if weights is None else weights) is not None:
            self.network.load_state_dict(known)
        history: list[Round] = []
        logger.info("the model learns in at most %d rounds of %d steps", self.rounds, self.round_steps)
        for number in range(1, self.rounds + 1):
            start = time.perf_counter()
            chosen = self._choose(number, lesson, folder)
            samples = self._schooling.lessons(folder, lesson, chosen, folder.accepted)
            title = f"round {number} of {self.rounds}"
            self._schooling.teach(self.network, str(number), number, samples, self.round_steps, self.settings, title)
            said, before = self._schooling.ask(self.network, folder.samples), masks
            lesson, masks = mix(said, opening.lesson.targets), self._schooling.decide(said)
            unchanged = float(np.mean([dice_of(one, other) for one, other in zip(masks, before, strict=True)]))
            seconds = time.perf_counter() - start
            history.append(Round(number, len(chosen) + len(folder.accepted), unchanged, round(seconds, 1)))
            self._write(history)
            logger.info(
                "round %d: %d of %d images taught, mean agreement %.3f, %.0f s",
                *(number, history[-1].images, len(folder.samples), unchanged, seconds),
            )
            if unchanged > self.agreement:
                break
        else:
            logger.info("masks still changed in the last round by more than agreement (%g) allows", self.agreement)
        if not foreground(masks, axis=1).any():
            raise ValueError(
                "the network finds no object in any image: try more steps (--round_steps) or another --seed"
            )
        agreements = [dice_of(one, other) for one, other in zip(masks, first, strict=True)]
        self._expect(folder, opening, agreements, list(map(sureness, masks, said)))
        return history

    def trainer(
        self, items: Items, teacher_dirs: Sequence[Path], accepted: AcceptedMasks | None = None, epochs: int = 1
    ) -> SupervisedTrainer:
        """A trainer for the network on the targets of the first round, which can be run again and again.

        It keeps no checkpoint: the caller that runs it round after round, such as `monai.fl.client.MonaiAlgo`, sets the
        weights.

        Args:
            items: as in `run`.
            teacher_dirs: as in `run`.
            accepted: as in `run`.
            epochs: epochs of a round; the learning rate falls to 0 over these.

        Raises:
            ValueError: as `run`, when there is nothing to learn from, or classes differ.
        """
        folder, opening = self._begin(items, teacher_dirs, accepted)
        chosen = self._choose(1, opening.lesson, folder)
        samples = self._schooling.lessons(folder, opening.lesson, chosen, folder.accepted)
        logger.info("%d of %d images teach", len({one["name"] for one in samples}), len(folder.samples))
        return self._schooling.trainer(self.network, "round of the federation", 1, samples, epochs)

    def _begin(
        self, items: Items, teacher_dirs: Sequence[Path], accepted: AcceptedMasks | None
    ) -> tuple[KnownFolder, Opening]:
        """What is known of the images, and what they teach first."""
        shown = accepted.classes if accepted else (1,)
        if shown != self.classes:
            raise ValueError(f"classes must be those of the masks that teach, {list(shown)}, got {list(self.classes)}")
        folder = self._study(items, teacher_dirs, accepted)
        self.settings |= {"images": [item["file"] for item in items], "teachers": _digest(folder, accepted)}
        self._refuse_rounds_of_others()
        return folder, self._open(folder)

    def _open(self, folder: KnownFolder) -> Opening:
        """What teaches in the first round, and anchors what the network teaches itself later."""
        lesson = lesson_of_teachers(folder.masks)
        if folder.pools is not None:
            for _ in range(RANKINGS):
                lesson = self._rank(folder, lesson)
        if not folder.accepted:
            return Opening(lesson, {})
        folds = Folds(self._schooling, fold_steps(self.round_steps), self.settings)
        return folds.open(self.network, folder, lesson.targets)

    def _rank(self, folder: KnownFolder, lesson: Lesson) -> Lesson:
        """What the candidates of all images say, ranked by what the sure ones of other images look like."""
        pools = folder.pools or []
        sure = [place for place in select_confident(lesson.confidences, self.min_confidence) if len(pools[place])]
        if len(sure) < LEAST_IMAGES:
            return lesson
        targets = {place: lesson.targets[place] for place in sure}
        votes = cross_votes(pools, targets, folder.objects, self.size)
        confidences = [vote.confidence if bool((vote.probability > 0.5).any()) else None for vote in votes]
        return Lesson(torch.stack([vote.probability for vote in votes]), confidences)

    def _expect(
        self, folder: KnownFolder, opening: Opening, agreements: Sequence[float], sure: Sequence[float]
    ) -> None:
        """Says what Dice to expect, where accepted masks can tell, and how far the network is right to be so sure."""
        path = self.output_dir / EXPECTATION
        self.confidence_power = None
        if not opening.held_out:
            path.unlink(missing_ok=True)
            return
        held_out = {folder.samples[place]["name"]: dice for place, dice in opening.held_out.items()}
        others = [place for place in range(len(agreements)) if place not in folder.accepted]
        found = expect(held_out, [agreements[place] for place in others])
        drawn = [sure[place] for place in others if sure[place] > 0]
        if drawn:
            self.confidence_power = confidence_power(drawn, found.dice)
            calibrated = np.mean(np.array(drawn) ** self.confidence_power)
            logger.info(
                "mean confidence of the network: %.3f; to the power of %g: %.3f, near the expected Dice",
                *(np.mean(drawn), self.confidence_power, calibrated),
            )
        logger.info(
            "expected Dice of the masks of %d other images: %.3f, standard deviation %.3f (%d masks held out: %.3f)",
            *(len(others), found.dice, found.spread, len(held_out), np.mean(list(held_out.values()))),
        )
        found.write(path)

    def _choose(self, number: int, lesson: Lesson, folder: KnownFolder) -> list[int]:
        """Which images teach in a round beside those with an accepted mask."""
        known = [None if place in folder.accepted else value for place, value in enumerate(lesson.confidences)]
        chosen = select_confident(known, self.min_confidence)
        if not chosen and not folder.accepted:
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
    image = torch.zeros(1, in_channels, *size)  # as the last batch of an epoch may be
    try:
        with torch.random.fork_rng([]), torch.no_grad():
            output = copy.deepcopy(network).cpu().train()(image)
    except Exception as error:
        raise ValueError(f"student_def does not run at student_size {list(size)}: {failure_reason(error)}") from None
    wanted = (1, channels, *size)
    if not isinstance(output, Tensor) or output.shape != wanted:
        came = tuple(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"
        many = "one channel" if channels == 1 else f"{channels} channels"
        raise ValueError(f"student_def must put out {many} of the size of its input, {wanted}, got {came}")


def _digest(folder: KnownFolder, accepted: AcceptedMasks | None) -> str:
    """Changes with the masks that teach."""
    digest = hashlib.sha256((accepted.digest if accepted else "").encode())
    for one in folder.masks:
        digest.update((one * 255).round().to(torch.uint8).numpy().tobytes())
    for pool in folder.pools or ():
        digest.update(np.packbits(pool.masks).tobytes())
    return digest.hexdigest()
