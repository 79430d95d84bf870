"""The targets of a round for the images of a folder, and their confidences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from monai_fusenet.distillation.agreement import consensus, mean_pairwise_dice, soft_agreement
from monai_fusenet.distillation.candidates import CandidatePool

__all__ = ["KnownFolder", "Lesson", "foreground", "lesson_of_teachers", "mix"]


class KnownFolder(NamedTuple):
    """The knowledge of N images before any training, on the working grid of the network.

    Attributes:
        samples: `image` (C, *size) and `name` of each.
        masks: for each image the masks of all teachers (M, 1, *size), in [0, 1]; that of the rule if masks were
            accepted.
        pools: candidates of each image; `None`: none.
        accepted: masks that a person accepted (K, *size), in [0, 1], by the place of their image.
        objects: largest number of objects in the foreground of an image; `None`: any number.
    """

    samples: list[dict[str, Any]]
    masks: list[Tensor]
    pools: list[CandidatePool] | None
    accepted: dict[int, Tensor]
    objects: int | None


class Lesson(NamedTuple):
    """Targets for N images.

    Attributes:
        targets: (N, K, *size), in [0, 1]: the probability that a pixel is foreground, or, with several channels, of
            each class, with the background first.
        confidences: how sure the target of each image is, in [0, 1]; `None` if there is nothing to learn.
    """

    targets: Tensor
    confidences: Sequence[float | None]


def lesson_of_teachers(masks: Sequence[Tensor]) -> Lesson:
    """The mean of the teachers' masks; its confidence is their agreement.

    Args:
        masks: for each image those of all teachers (M, 1, *size), in [0, 1].
    """
    targets = torch.stack([consensus(one) for one in masks])
    return Lesson(targets, [mean_pairwise_dice(one > 0.5) if one.any() else None for one in masks])


def mix(first: Tensor, second: Tensor, share: float = 0.5) -> Lesson:
    """The weighted mean of two opinions; its confidence is their agreement.

    Args:
        first: (N, K, *size), in [0, 1].
        second: likewise.
        share: of the first, in [0, 1].
    """
    targets = share * first + (1 - share) * second
    agreements = [soft_agreement(foreground(one), foreground(other)) for one, other in zip(first, second, strict=True)]
    nothing = [not bool((foreground(one) > 0.5).any()) for one in targets]
    return Lesson(targets, [None if no else value for no, value in zip(nothing, agreements, strict=True)])


def foreground(masks: Tensor, axis: int = 0) -> Tensor:
    """The channels of masks, along an axis, that are no background: all but the first of several, or the only one."""
    channels = masks.shape[axis]
    return masks if channels == 1 else masks.narrow(axis, 1, channels - 1)
