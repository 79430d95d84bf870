"""The mask that several partitions of one image agree on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from skimage.measure import label as connected_components

from monai_fusenet.transforms.foreground.rule import Rule
from monai_fusenet.transforms.morphology import convex_hulls, fill_holes

__all__ = ["agree", "dice"]


def agree(masks: Sequence[np.ndarray], weights: Sequence[float], rule: Rule) -> np.ndarray:
    """The pixels that more than half of the masks contain, by weight, finished by the rule.

    Args:
        masks: (*spatial) each, bool, finished by the rule.
        weights: of each mask, at least 0.
        rule: with a number of objects, that many of the largest connected parts are kept, without holes if the rule
            says so. A single object also becomes convex again. Several do not, because two that touch would get one
            hull.

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
    """The Dice of two boolean masks of one shape; 1 if both are empty."""
    total = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / total if total else 1.0
