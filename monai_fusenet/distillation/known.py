"""Knowledge from accepted masks about the object: number, brightness, size and shape."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy import ndimage
from skimage.measure import label as connected_components
from torch import Tensor

from monai_fusenet.distillation.lesson import foreground
from monai_fusenet.transforms.foreground import Rule
from monai_fusenet.transforms.morphology import convex_hulls
from monai_fusenet.utils.errors import printable

__all__ = ["count_objects", "rule_of_accepted", "without_vanished"]

logger = logging.getLogger(__name__)

CRUMB = 0.1  # of a mask: a smaller part of it is no object of its own
FEW = 3  # objects that are looked for one by one; more are any number
RING = 0.05  # of the mean side: how far around an object its surroundings go
ROOM = 3.0  # how much smaller or larger than all accepted ones another object may be
SOLID = 0.92  # share of its hull that a mask fills which may be drawn as one
OPENING = 0.04


def rule_of_accepted(masks: Sequence[np.ndarray], images: Sequence[np.ndarray], rule: Rule) -> Rule:
    """A rule from accepted masks; everything that they cannot show stays as in another rule.

    Args:
        masks: (*spatial) each, bool; one that is empty shows nothing.
        images: (C, *spatial) each, values in [0, 1].
        rule: the other rule.
    """
    shown = [(mask, image.mean(axis=0)) for mask, image in zip(masks, images, strict=True) if mask.any()]
    if not shown:
        return rule
    objects = count_objects([mask for mask, _ in shown])
    darker = [_contrast(mask, grey) < 0 for mask, grey in shown]
    fractions = [float(mask.mean()) for mask, _ in shown]
    smallest = min(fractions) / objects if objects else 0.01 * min(fractions)
    solid = np.mean([mask.sum() / convex_hulls(mask).sum() for mask, _ in shown])
    holes = np.mean([ndimage.binary_fill_holes(mask).sum() / mask.sum() - 1 for mask, _ in shown])
    return replace(
        rule,
        objects=objects,
        polarity="dark" if all(darker) else "any" if any(darker) else "bright",
        min_fraction=smallest / ROOM,
        max_fraction=min(0.95, max(fractions) * ROOM),
        fill_holes=bool(holes < 1 - SOLID),
        margin=0.0,
        opening=OPENING if objects else 0.0,
        convex=bool(solid > SOLID),
        growth=0.0,
    )


def without_vanished(targets: Mapping[int, Tensor], names: Sequence[str]) -> dict[int, Tensor]:
    """Removes accepted masks whose object vanishes at the size that a network gets.

    Args:
        targets: (K, *size), in [0, 1], by the place of their image.
        names: of all images.
    """
    vanished = [place for place, one in targets.items() if foreground(one).any() and not (foreground(one) > 0.5).any()]
    if vanished:
        logger.warning(
            "%d accepted masks are not used, as their objects are smaller than a pixel at student_size (a larger one "
            "keeps them): %s",
            len(vanished),
            ", ".join(printable(names[place]) for place in vanished[:FEW]) + (", ..." if vanished[FEW:] else ""),
        )
    return {place: target for place, target in targets.items() if place not in vanished}


def count_objects(masks: Sequence[np.ndarray]) -> int | None:
    """The largest number of connected parts of masks (*spatial), bool, without crumbs; `None`: more than three."""
    objects = max((_count(mask) for mask in masks if mask.any()), default=0)
    return objects if 0 < objects <= FEW else None


def _count(mask: np.ndarray) -> int:
    sizes = np.bincount(connected_components(mask, connectivity=1).ravel())[1:]
    return int((sizes >= CRUMB * sizes.sum() / min(len(sizes), FEW)).sum()) or FEW + 1


def _contrast(mask: np.ndarray, grey: np.ndarray) -> float:
    """Mean grey value inside less that of a ring around it; of a mask that is everything, 0."""
    width = max(1, round(RING * float(np.mean(mask.shape))))
    ring = ndimage.binary_dilation(mask, iterations=width) & ~mask
    return float(grey[mask].mean() - grey[ring].mean()) if ring.any() else 0.0
