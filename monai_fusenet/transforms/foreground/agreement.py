"""What the masks of several partitions of one image agree on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from skimage.measure import label as connected_components

from monai_fusenet.transforms.foreground.rule import Rule
from monai_fusenet.transforms.morphology import convex_hulls, fill_holes

__all__ = ["agree", "dice"]


def agree(masks: Sequence[np.ndarray], weights: Sequence[float], rule: Rule) -> np.ndarray:
    """The pixels that more than half of the masks hold, by weight, as a foreground of the kind that a rule describes.

    Args:
        masks: (*spatial) each, bool, finished by the rule.
        weights: of each mask, at least 0.
        rule: with a number of objects, so many of the largest connected parts are kept, without holes where the rule
            says so; a single object also becomes convex again. Of several, two that touch would get one hull.

    Returns:
        (*spatial), bool; a single mask as it is.
    """
    if len(masks) == 1:
        return masks[0]
    mask = np.tensordot(weights, masks, axes=1) > sum(weights) / 2
    if rule.objects is None:
        return mask
    components = connected_components(mask, connectivity=1)
    sizes = np.bincount(components.ravel())[1:]
    mask = np.isin(components, np.argsort(-sizes, kind="stable")[: rule.objects] + 1)
    if rule.fill_holes:
        mask = fill_holes(mask)
    return convex_hulls(mask) if rule.convex and rule.objects == 1 else mask


def dice(one: np.ndarray, other: np.ndarray) -> float:
    """The Dice of two masks of one shape, bool; 1 where both are empty."""
    total = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / total if total else 1.0
