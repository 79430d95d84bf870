"""What masks that a person accepted say about a training on them, by leaving out some of them in turn."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.metrics import compute_dice
from torch import Tensor, nn

from monai_fusenet.distillation.agreement import mean_pairwise_dice, select_confident
from monai_fusenet.distillation.lesson import Folder, Lesson, foreground, lesson_of_network
from monai_fusenet.distillation.pool import CandidatePool
from monai_fusenet.distillation.schooling import Schooling

__all__ = ["Advice", "Expectation", "Folds", "dice_of", "expect", "split"]

logger = logging.getLogger(__name__)

Pools = Sequence[CandidatePool] | None

MOST_FOLDS = 5
PRIOR = 4  # pairs of Dice and agreement that the prior, a slope of 1, counts as


class Expectation(NamedTuple):
    """What to expect of the masks of all other images.

    Attributes:
        dice: mean Dice.
        spread: standard deviation of the Dice of single images.
        held_out: Dice of each accepted mask with what networks that have not seen it say, by place.
    """

    dice: float
    spread: float
    held_out: dict[int, float]


def split(places: Sequence[int]) -> list[list[int]]:
    """Which places are held out in turn: each once, one by one or in five groups; none of a single place.

    Example:
        >>> split([7, 3, 5]), split([7])
        ([[3], [5], [7]], [])
    """
    ordered = sorted(places)
    count = min(len(ordered), MOST_FOLDS)
    return [ordered[start::count] for start in range(count)] if len(ordered) > 1 else []


def dice_of(mask: Tensor, target: Tensor) -> float:
    """The mean over classes of the Dice of a mask (C, *size) with an accepted one; two empty ones count 1.

    Args:
        mask: boolean.
        target: in [0, 1], certain above a half.
    """
    one, other = (foreground(part).float().unsqueeze(0) for part in (mask, (target > 0.5)))
    scores = compute_dice(one, other, ignore_empty=False)
    return float(scores.mean())


def expect(held_out: dict[int, float], masks: Sequence[Tensor]) -> Expectation:
    """What Dice to expect of images without a mask.

    Five images are a small sample. Where networks that saw different masks agree on an image, they are mostly right;
    so the mean over the accepted ones is moved by how much better or worse networks agree on all others.

    Args:
        held_out: Dice of each accepted mask, by place, one at least.
        masks: of each image, those of all networks (M, C, *size), boolean.
    """
    agreements = np.array([mean_pairwise_dice(foreground(one, axis=1)) for one in masks])
    places = list(held_out)
    others = np.setdiff1d(np.arange(len(masks)), places)
    dice = np.array(list(held_out.values()))
    moved = 0.0
    if len(others):
        agreed = agreements[places]
        spread = float(((agreed - agreed.mean()) ** 2).sum())
        common = float(((agreed - agreed.mean()) * (dice - dice.mean())).sum())
        prior = PRIOR * float(agreements.var())
        slope = (common + prior) / (spread + prior) if spread + prior > 0 else 0.0
        moved = float(np.clip(slope, 0, 2)) * float(agreements[others].mean() - agreed.mean())
    return Expectation(float(np.clip(dice.mean() + moved, 0, 1)), float(dice.std()), held_out)


class Advice(NamedTuple):
    """How a network is best trained on a folder.

    Attributes:
        lesson: what teaches in the first round.
        pools: candidates that correct it; `None`: none.
        self_training: whether images without a mask teach.
        expectation: what Dice to expect of them; `None` where nobody can say.
    """

    lesson: Lesson
    pools: Pools
    self_training: bool
    expectation: Expectation | None


class Folds:
    """Networks that each leave out some accepted masks, and what these say of them.

    Each is trained twice: on the masks that it does not leave out alone, and then on what it says itself of all other
    images, too.

    Args:
        schooling: how networks are trained.
        steps: of each training.
        min_confidence: agreement from which on an image teaches.
        settings: what the trainings depend on.
    """

    def __init__(self, schooling: Schooling, steps: int, min_confidence: float, settings: Mapping[str, Any]) -> None:
        self.schooling = schooling
        self.steps = steps
        self.min_confidence = min_confidence
        self.settings = settings

    def advise(self, network: nn.Module, folder: Folder) -> Advice:
        """Asks the accepted masks of a folder.

        Args:
            network: as it was made; it stays so.
            folder: all images, with one accepted mask at least.
        """
        left_out = split(list(folder.accepted)) or [[]]
        networks = [copy.deepcopy(network) for _ in left_out]
        pools = folder.pools
        looks = [self._alone(*fold, folder) for fold in zip(range(len(networks)), networks, left_out, strict=True)]
        alone = self._held_out(looks, left_out, folder)
        if pools is not None and alone:
            corrected = self._held_out(
                [(one, lesson_of_network(one, masks, pools).masks) for one, masks in looks], left_out, folder
            )
            logger.info("held-out masks: Dice %.3f alone, %.3f corrected by candidates", _mean(alone), _mean(corrected))
            pools = pools if _mean(corrected) > _mean(alone) else None
        looks = [
            self._again(number, networks[number], left_out[number], looks[number], folder, pools)
            for number in range(len(networks))
        ]
        taught = self._held_out(looks, left_out, folder)
        if alone:
            logger.info("held-out masks: Dice %.3f after self-training", _mean(taught))
        helps = not alone or _mean(taught) >= _mean(alone)
        masks = torch.stack([look[1] for look in looks], dim=1)
        probabilities = torch.stack([look[0] for look in looks]).mean(dim=0)
        lesson = lesson_of_network(probabilities, self.schooling.decide(probabilities), pools)
        if len(looks) > 1:
            agreed = [mean_pairwise_dice(foreground(one, axis=1)) for one in masks]
            known = zip(agreed, lesson.confidences, strict=True)
            lesson = lesson._replace(confidences=[None if own is None else value for value, own in known])
        if not helps:
            lesson = lesson._replace(confidences=[None] * len(masks))
        expectation = expect(taught if helps else alone, list(masks)) if alone else None
        return Advice(lesson.with_accepted(folder.accepted), pools, helps, expectation)

    def _alone(self, number: int, network: nn.Module, left_out: Sequence[int], folder: Folder) -> tuple[Tensor, Tensor]:
        """Trains on accepted masks; returns probabilities and masks of all images."""
        empty = Lesson(torch.empty(0), torch.empty(0), [])
        return self._train(number, "alone", network, self._persons(left_out, folder), folder, empty, [])

    def _again(
        self,
        number: int,
        network: nn.Module,
        left_out: Sequence[int],
        look: tuple[Tensor, Tensor],
        folder: Folder,
        pools: Pools,
    ) -> tuple[Tensor, Tensor]:
        """Trains on what the network says itself, too; returns probabilities and masks of all images."""
        persons = self._persons(left_out, folder)
        lesson = lesson_of_network(*look, pools)
        chosen = select_confident(lesson.confidences, self.min_confidence)
        return self._train(number, "all", network, persons, folder, lesson, chosen)

    def _train(
        self,
        number: int,
        kind: str,
        network: nn.Module,
        persons: Mapping[int, Tensor],
        folder: Folder,
        lesson: Lesson,
        chosen: Sequence[int],
    ) -> tuple[Tensor, Tensor]:
        samples = self.schooling.lessons(folder, lesson, chosen, persons)
        place = 1000 + 2 * number + (kind == "all")
        name = f"without_{number + 1}_{kind}"
        self.schooling.teach(network, name, place, samples, self.steps, self.settings)
        probabilities = self.schooling.ask(network, folder.samples)
        return probabilities, self.schooling.decide(probabilities)

    @staticmethod
    def _persons(left_out: Sequence[int], folder: Folder) -> dict[int, Tensor]:
        return {place: target for place, target in folder.accepted.items() if place not in left_out}

    @staticmethod
    def _held_out(
        looks: Sequence[tuple[Tensor, Tensor]], left_out: Sequence[Sequence[int]], folder: Folder
    ) -> dict[int, float]:
        """The Dice of each accepted mask with that of the network that has not seen it."""
        return {
            place: dice_of(look[1][place], folder.accepted[place])
            for look, places in zip(looks, left_out, strict=True)
            for place in places
        }


def _mean(scores: Mapping[int, float]) -> float:
    return float(np.mean(list(scores.values())))
