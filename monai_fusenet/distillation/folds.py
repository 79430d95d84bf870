"""Knowledge from masks that a person accepted, applied to all other images, and an estimate of its quality.

Two kinds of models learn from the masks: one from the features of candidates, and a network, from pixels. Each accepted
mask is left out in turn, so that both are tested on an image that they have not seen. The masks of the rule, which
needs no accepted mask, are a third opinion. Better opinions get more weight.
"""

from __future__ import annotations

import copy
import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.metrics import compute_dice
from scipy.optimize import brentq
from torch import Tensor, nn

from monai_fusenet.distillation.agreement import soft_agreement
from monai_fusenet.distillation.lesson import KnownFolder, Lesson, foreground
from monai_fusenet.distillation.ranker import Ranker, Vote
from monai_fusenet.distillation.schooling import Schooling
from monai_fusenet.utils.files import atomic_path

__all__ = [
    *("Expectation", "Folds", "Opening", "confidence_power", "dice_of", "expect", "fold_steps", "split"),
    *("steps_of_round", "sureness"),
]

logger = logging.getLogger(__name__)

MOST_FOLDS = 3
PART = 0.75  # of a round: how long a network learns that leaves masks out
SCALE = 0.2  # of Dice: an opinion that is so much better has e times the say; a mean of five is about so far off
POWERS = (0.1, 20.0)  # a mean confidence of 0.9 becomes 0.99 or 0.12
UNKNOWN = 0.5  # Dice of an opinion that no mask was held out from


class Expectation(NamedTuple):
    """The expected quality of masks that no person has drawn.

    Attributes:
        dice: mean Dice.
        spread: standard deviation of the Dice of single images.
        held_out: Dice of each accepted mask, by `name`, with the result of models that have not learnt from it. Only
            the kind of object and the weights of the models come from all masks together.
    """

    dice: float
    spread: float
    held_out: dict[str, float]

    def write(self, path: str | Path) -> None:
        """Writes `expected_dice`, `spread` and `held_out` as JSON."""
        told = {
            "expected_dice": round(self.dice, 4),
            "spread": round(self.spread, 4),
            "held_out": {name: round(value, 4) for name, value in self.held_out.items()},
        }
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


class Opening(NamedTuple):
    """The targets of the first round.

    Attributes:
        lesson: the targets of all images.
        held_out: Dice of each accepted mask, by index, with the lesson made without it; empty if only one was accepted.
        weights: weights of a network that has learnt from accepted masks; the first round continues from them.
    """

    lesson: Lesson
    held_out: dict[int, float]
    weights: dict[str, Tensor] | None = None


def split(places: Sequence[int]) -> list[list[int]]:
    """The groups of indices to hold out in turn: one by one or in three groups; no group for a single index.

    Example:
        >>> split([7, 3, 5]), split([7])
        ([[3], [5], [7]], [])
    """
    ordered = sorted(places)
    count = min(len(ordered), MOST_FOLDS)
    return [ordered[start::count] for start in range(count)] if len(ordered) > 1 else []


def fold_steps(round_steps: int) -> int:
    """Steps of a network that leaves masks out, for the number of steps of a round."""
    return max(1, int(round_steps * PART))


def steps_of_round(steps: int, rounds: int, accepted: int) -> int:
    """Steps of a round, at least one, so that all trainings together have at most `steps`.

    Args:
        steps: of all rounds and of all networks that leave masks out.
        rounds: how many there are at most.
        accepted: how many masks were accepted.

    Example:
        >>> steps_of_round(300, rounds=3, accepted=5)  # 3 x 57 + 3 x 42
        57
    """
    folds = max(1, len(split(range(accepted))))
    return max(1, int(steps / (rounds + PART * folds)))


def dice_of(mask: Tensor, target: Tensor) -> float:
    """The mean over classes of the Dice of two masks (K, *size), foreground above a half; two empty ones count 1."""
    one, other = ((foreground(part) > 0.5).float().unsqueeze(0) for part in (mask, target))
    return float(compute_dice(one, other, ignore_empty=False).mean())


def expect(held_out: Mapping[str, float], agreements: Sequence[float]) -> Expectation:
    """The expected Dice of images without a mask.

    A few masks are a small sample, and the models that left one out had less to learn from. But if the network and its
    first targets agree, both are mostly right. The answer is the geometric mean of the two: agreement counts nothing if
    the models fail on the accepted masks.

    Args:
        held_out: Dice of each accepted mask, one at least.
        agreements: for all other images, the Dice of the network's mask with the mask of its first target; empty: only
            `held_out` counts.
    """
    dice = np.array(list(held_out.values()))
    mean = float(dice.mean())
    if len(agreements):
        mean = math.sqrt(mean * float(np.mean(agreements)))
    return Expectation(mean, float(dice.std(ddof=1)) if len(dice) > 1 else 0.0, dict(held_out))


def confidence_power(confidences: Sequence[float], expected: float) -> float:
    """The power that makes the mean confidence of a network in its masks equal to their expected Dice.

    It keeps the order of the images, and lowers low confidences most.

    Args:
        confidences: in [0, 1], of masks that no person has drawn, one at least.
        expected: their mean Dice.

    Returns:
        power p with mean(confidences ** p) = expected, or the nearest from 0.1 to 20.
    """
    sure = np.array(confidences)
    least, most = POWERS

    def excess(power: float) -> float:
        return float(np.mean(sure**power)) - expected

    if excess(least) <= 0 or excess(most) >= 0:
        return least if excess(least) <= 0 else most
    return round(float(brentq(excess, least, most, xtol=1e-4)), 3)


def sureness(mask: Tensor, said: Tensor) -> float:
    """How sure a network is of a mask, as in `MaskConfidenced` before its power.

    Args:
        mask: (K, *size), boolean; of several K, the first is the background.
        said: (K, *size), the probabilities from which it was made.

    Returns:
        a number in [0, 1]; 0 for an empty mask
    """
    if len(said) > 1:
        mask, said = ~mask[:1], 1 - said[:1]
    return soft_agreement(mask.float(), said)


class Folds:
    """Models that learn from accepted masks, each leaving some of them out.

    Args:
        schooling: how networks are trained.
        steps: of each network.
        settings: what the trainings depend on.
    """

    def __init__(self, schooling: Schooling, steps: int, settings: Mapping[str, Any]) -> None:
        self.schooling = schooling
        self.steps = steps
        self.settings = settings

    def open(self, network: nn.Module, folder: KnownFolder, ruled: Tensor) -> Opening:
        """Learns from the accepted masks of a folder.

        Args:
            network: the untrained network; it does not change.
            folder: all images, with one accepted mask at least.
            ruled: (N, 1, *size), in [0, 1], masks of the rule for all images, made without any accepted mask; not used
                with several classes.
        """
        groups = split(list(folder.accepted))
        titles = [f"check {number} of {len(groups)}" for number in range(1, len(groups) + 1)] or ["accepted masks"]
        logger.info("%d networks learn from accepted masks, in %d steps each; then the rounds", len(titles), self.steps)
        networks = [
            self._teach(network, number, group, folder, title)
            for number, (group, title) in enumerate(zip(groups or [[]], titles, strict=True))
        ]
        said = [self.schooling.ask(one, folder.samples) for one in networks]
        weights = networks[0].state_dict()
        alone = {place: one[place] for one, group in zip(said, groups, strict=False) for place in group}
        mean = torch.stack(said).mean(dim=0)
        sure: list[float | None]
        if folder.pools is None:
            sure = [float(np.mean([agreement(one[place], mean[place]) for one in said])) for place in range(len(mean))]
            return Opening(Lesson(mean, sure), self._held_out(alone, folder), weights)
        votes = vote(folder, list(folder.accepted), range(len(folder.samples)))
        rest = {place: one for group in groups for place, one in self._vote_without(group, folder).items()}
        opinions = [torch.stack([one.probability for one in votes]), mean, ruled]
        asked = [rest, alone, {place: ruled[place] for place in folder.accepted}]
        shares = self._shares(asked, folder)
        targets = torch.stack([share * one for share, one in zip(shares, opinions, strict=True)]).sum(dim=0)
        left = {
            place: torch.stack([share * said[place] for share, said in zip(shares, asked, strict=True)]).sum(dim=0)
            for place in alone
        }
        sure = [
            None
            if not (targets[place] > 0.5).any()
            else votes[place].confidence
            * sum(share * agreement(one[place], targets[place]) for share, one in zip(shares, opinions, strict=True))
            for place in range(len(targets))
        ]
        return Opening(Lesson(targets, sure), self._held_out(left, folder), weights)

    def _teach(
        self, network: nn.Module, number: int, left_out: Sequence[int], folder: KnownFolder, title: str
    ) -> nn.Module:
        """A copy of a network that has learnt from all accepted masks but some."""
        network = copy.deepcopy(network)
        persons = {place: target for place, target in folder.accepted.items() if place not in left_out}
        samples = self.schooling.lessons(folder, None, [], persons)
        name = f"without_{number + 1}" if left_out else "accepted"
        self.schooling.teach(network, name, 1000 + number, samples, self.steps, self.settings, title)
        return network

    @staticmethod
    def _vote_without(left_out: Sequence[int], folder: KnownFolder) -> dict[int, Tensor]:
        """What candidates say of accepted masks that none of them was ranked by, by place."""
        places = [place for place in folder.accepted if place not in left_out]
        return dict(zip(left_out, (one.probability for one in vote(folder, places, left_out)), strict=True))

    def _shares(self, asked: Sequence[Mapping[int, Tensor]], folder: KnownFolder) -> list[float]:
        """The share of each opinion, by what it says of accepted masks that it has not learnt from, by place."""
        scores = [float(np.mean(list(self._held_out(said, folder).values()))) if said else UNKNOWN for said in asked]
        logger.info("held-out masks: Dice %.3f by candidates, %.3f by networks, %.3f by the rule without them", *scores)
        weights = [math.exp(score / SCALE) for score in scores]
        return [weight / sum(weights) for weight in weights]

    def _held_out(self, said: Mapping[int, Tensor], folder: KnownFolder) -> dict[int, float]:
        """The Dice of each accepted mask, by place, with the mask that is made of what was said without it."""
        masks = self.schooling.decide(torch.stack(list(said.values()))) if said else ()
        return {place: dice_of(mask, folder.accepted[place]) for place, mask in zip(said, masks, strict=True)}


def vote(folder: KnownFolder, taught: Sequence[int], asked: Sequence[int]) -> list[Vote]:
    """The votes of the candidates of some images, from a ranker trained on other images with accepted masks."""
    pools = folder.pools or []
    ranker = Ranker(folder.objects).fit((pools[place], folder.accepted[place]) for place in taught)
    size = folder.samples[0]["image"].shape[1:]
    return [ranker.vote(pools[place], size) for place in asked]


def agreement(first: Tensor, second: Tensor) -> float:
    """The agreement of two opinions (K, *size) on the foreground, in [0, 1]."""
    return soft_agreement(foreground(first), foreground(second))
