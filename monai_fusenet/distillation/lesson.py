"""What the images of a folder teach in a round: targets, and which of them are sure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from monai_fusenet.distillation.agreement import consensus, mean_pairwise_dice, soft_dice
from monai_fusenet.distillation.pool import CandidatePool

__all__ = ["Folder", "Lesson", "foreground", "lesson_of_network", "lesson_of_teachers"]

TRUSTED = 0.75  # Dice of a candidate with what a network says, from which on it is taken for what the network means


class Folder(NamedTuple):
    """What is known of N images before any training, on the grid that the network works on.

    Attributes:
        samples: `image` (C, *size) and `name` of each.
        masks: of each, those of all teachers (M, 1, *size), in [0, 1]; M may be 0 where masks were accepted.
        pools: candidates of each; `None`: of none.
        accepted: masks that a person accepted (K, *size), in [0, 1], by the place of their image.
    """

    samples: list[dict[str, Any]]
    masks: list[Tensor]
    pools: list[CandidatePool] | None
    accepted: dict[int, Tensor]


class Lesson(NamedTuple):
    """What there is to learn from N images.

    Attributes:
        targets: (N, C, *size), in [0, 1]: how sure each pixel is foreground, or, of several channels, of a class, of
            which the first is background.
        masks: (N, C, *size), boolean: what is foreground, or of a class.
        confidences: of each image, how far the masks agree that it was made of, in [0, 1]; `None` where there is
            nothing to learn.
    """

    targets: Tensor
    masks: Tensor
    confidences: list[float | None]

    def with_accepted(self, accepted: Mapping[int, Tensor]) -> Lesson:
        """The same, but accepted masks (C, *size) stand for what the images at their places teach, and are certain."""
        targets, masks, confidences = self.targets.clone(), self.masks.clone(), list(self.confidences)
        for place, target in accepted.items():
            targets[place], masks[place], confidences[place] = target, target > 0.5, 1.0
        return Lesson(targets, masks, confidences)


def lesson_of_teachers(masks: Sequence[Tensor]) -> Lesson:
    """The mean of the teachers' masks, as sure as they agree with each other.

    Args:
        masks: for each image those of all teachers (M, C, *size), in [0, 1].
    """
    targets = torch.stack([consensus(one) for one in masks])
    objects = [foreground(one, axis=1) for one in masks]
    confidences = [mean_pairwise_dice(one > 0.5) if one.any() else None for one in objects]
    return Lesson(targets, targets > 0.5, confidences)


def lesson_of_network(probabilities: Tensor, masks: Tensor, pools: Sequence[CandidatePool] | None = None) -> Lesson:
    """What a network says of each image, corrected by the candidate that it means most.

    A candidate ends where the image has an edge, a network where it guesses one. Where the best candidate is not what
    the network means, the network's own probabilities teach, and such an image is unsure.

    Args:
        probabilities: (N, C, *size), what the network says.
        masks: (N, C, *size), boolean, what a rule has made of them.
        pools: candidates of each image; `None`: the network alone, as sure as it is decided.
    """
    # What the rule took away or filled is certain; elsewhere the network knows best how sure it is.
    targets = torch.where(masks == (probabilities > 0.5), probabilities, masks.float())
    if pools is None:
        found = [(mask, soft_dice(foreground(mask), foreground(one))) for mask, one in zip(masks, targets, strict=True)]
    else:
        found = [pool.closest(one) for pool, one in zip(pools, targets, strict=True)]
    chosen = masks.clone()
    for place, (mask, agreement) in enumerate(found):
        if pools is not None and agreement >= TRUSTED:
            chosen[place], targets[place] = mask, mask.float()
    confidences = [
        agreement if foreground(one).any() else None for (_, agreement), one in zip(found, chosen, strict=True)
    ]
    return Lesson(targets, chosen, confidences)


def foreground(masks: Tensor, axis: int = 0) -> Tensor:
    """The channels of masks, along an axis, that are no background: all but the first of several, or the only one."""
    channels = masks.shape[axis]
    return masks if channels == 1 else masks.narrow(axis, 1, channels - 1)
