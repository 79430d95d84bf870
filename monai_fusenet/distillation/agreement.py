"""The agreement of masks of one image, their mean, and the images that are sure enough to learn from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import torch
from monai.metrics import compute_dice
from torch import Tensor

__all__ = ["LEAST_IMAGES", "consensus", "mean_pairwise_dice", "select_confident", "soft_agreement"]

LEAST_IMAGES = 5  # a network that sees fewer learns them by heart
LEAST_SHARE = 0.7


def mean_pairwise_dice(masks: Tensor) -> float:
    """The agreement of masks of one image: the mean Dice over all pairs of them.

    Args:
        masks: (M, *any), foreground above 0, M at least 1.

    Returns:
        a number in [0, 1]. A pair with one empty mask counts 0, a pair of empty masks 1. A single mask gives 1.
    """
    if len(masks) == 1:
        return 1.0
    masks = (masks > 0).float()
    pairs = torch.tensor(list(combinations(range(len(masks)), 2)))
    first, second = (masks[chosen].unsqueeze(1) for chosen in pairs.T)
    return float(compute_dice(first, second, ignore_empty=False).mean())


def soft_agreement(first: Tensor, second: Tensor) -> float:
    """The Dice of two probabilities of the same shape, 2 sum(min(a, b)) / sum(a + b): 1 where equal, 0 of nothing."""
    total = float(first.sum() + second.sum())
    return 2 * float(torch.minimum(first, second).sum()) / total if total > 0 else 0.0


def consensus(masks: Tensor) -> Tensor:
    """The consensus of masks of one image: the mean of those that are not empty; all zero if all are empty.

    Args:
        masks: (M, *spatial), values in [0, 1].

    Returns:
        (*spatial), values in [0, 1]: 0 and 1 where all agree, 1/2 where they are evenly divided.
    """
    present = masks[masks.flatten(1).any(dim=1)]
    return present.mean(dim=0) if len(present) else torch.zeros_like(masks[0])


def select_confident(confidences: Sequence[float | None], min_confidence: float) -> list[int]:
    """The images to learn from: all that are sure enough, or, if these are too few, the surest 70 %, at least five.

    Args:
        confidences: confidence of each image, or `None` if there is nothing to learn.
        min_confidence: the confidence that is sure enough; too few are less than 70 % of the images, or less than five.

    Returns:
        indices in ascending order, without images whose confidence is `None`.
    """
    usable = [(index, value) for index, value in enumerate(confidences) if value is not None]
    sure = [index for index, value in usable if value >= min_confidence]
    least = max(LEAST_IMAGES, math.ceil(LEAST_SHARE * len(confidences)))
    if len(sure) < least:
        sure = [index for index, _ in sorted(usable, key=lambda pair: -pair[1])[:least]]
    return sorted(sure)
