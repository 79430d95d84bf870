"""What the images of a folder teach in a round: targets, and which of them are sure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from monai.metrics import compute_dice
from torch import Tensor

from monai_fusenet.distillation.agreement import consensus, mean_pairwise_dice

__all__ = ["Lesson", "lesson_of_network", "lesson_of_teachers"]


class Lesson(NamedTuple):
    """What there is to learn from N images.

    Attributes:
        targets: (N, 1, *size), in [0, 1]: how sure each pixel is foreground.
        masks: (N, 1, *size), boolean: what is foreground.
        confidences: of each image, how far the masks agree that it was made of, in [0, 1]; `None` where there is
            nothing to learn.
    """

    targets: Tensor
    masks: Tensor
    confidences: list[float | None]


def lesson_of_teachers(masks: Sequence[Tensor]) -> Lesson:
    """The mean of the teachers' masks, as sure as they agree with each other.

    Args:
        masks: for each image those of all teachers (M, *size), in [0, 1].
    """
    targets = torch.stack([consensus(one) for one in masks]).unsqueeze(1)
    confidences = [mean_pairwise_dice(one > 0.5) if one.any() else None for one in masks]
    return Lesson(targets, targets > 0.5, confidences)


def lesson_of_network(probabilities: Tensor, masks: Tensor, before: Tensor) -> tuple[Lesson, list[float]]:
    """The network's own probabilities, as sure as its masks agree with those before the round.

    Args:
        probabilities: (N, 1, *size), what the network says.
        masks: (N, 1, *size), boolean, what a rule has made of them.
        before: (N, 1, *size), boolean, the masks before the round.

    Returns:
        the lesson, and the Dice of masks and those before, of every image.
    """
    agreements = compute_dice(masks.float(), before.float(), ignore_empty=False).flatten().tolist()
    # What the rule took away or filled is certain; elsewhere the network knows best how sure it is.
    targets = torch.where(masks == (probabilities > 0.5), probabilities, masks.float())
    confidences = [value if one.any() else None for value, one in zip(agreements, masks, strict=True)]
    return Lesson(targets, masks, confidences), agreements
