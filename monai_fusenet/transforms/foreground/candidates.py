"""Candidates for the foreground, and their scores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from skimage.measure import label as connected_components

from monai_fusenet.transforms.foreground.rule import Rule
from monai_fusenet.transforms.morphology import Box, fill_holes, opened_components, parts, within_distance
from monai_fusenet.utils.arrays import border_of, box_of

__all__ = ["Candidate", "Region", "find_candidates"]

RING_WIDTH = 0.04  # of the mean side: how far around a region its contrast is measured
OPENINGS = (0, 1 / 3, 2 / 3, 1)  # of the widest: how often candidates are cut anew, from not at all on
CENTRE_WIDTH = 0.25  # standard deviation of the centre prior, in sides


class Region(NamedTuple):
    """A candidate for the foreground and its scores; all in [0, 1], contrast in [-1, 1].

    Attributes:
        score: the number that decides the choice.
        fraction: share of the field of view that it covers; of the image if there is no field.
        centre: share of a Gaussian at the centre that it covers.
        border: share of the border pixels of field or image that it covers, or share of its own outline that lies on
            that border, whichever is larger. The second catches small things that the border cuts, such as a colour
            chip.
        contrast: mean grey value inside minus that of a ring around it; the opposite for a dark object, and the
            absolute value if the polarity is "any".
        chosen: whether it is part of the foreground.
        overlaps: whether it was not chosen because it overlaps with a chosen one of a higher score.
    """

    score: float
    fraction: float
    centre: float
    border: float
    contrast: float
    chosen: bool = False
    overlaps: bool = False


class Candidate(NamedTuple):
    """A region and where it lies.

    Attributes:
        region: its scores.
        box: part of the image that holds it and the ring around it.
        inside: where it is in the box, bool.
    """

    region: Region
    box: Box
    inside: np.ndarray


def find_candidates(clusters: np.ndarray, image: np.ndarray, rule: Rule, opening: float) -> list[Candidate]:
    """Finds all candidates of an image that a rule allows, best first.

    Args:
        clusters: (*spatial), integer labels from 1, 2-D or 3-D; 0: outside the field of view.
        image: (C, *spatial), values in [0, 1].
        rule: what is known of the object.
        opening: the rule's opening in pixels; the image may be a part of a larger one.
    """
    grey = image.mean(axis=0)
    if not clusters.any():  # of an image whose margins hold all of its field
        return []
    judge = _Judge(grey, rule, clusters > 0)
    proposed = _propose(clusters, grey, rule, opening)
    candidates = [found for box, part in proposed if (found := judge(box, part)) is not None]
    return sorted(candidates, key=lambda candidate: candidate.region.score, reverse=True)


def _propose(clusters: np.ndarray, grey: np.ndarray, rule: Rule, opening: float) -> Iterator[tuple[Box, np.ndarray]]:
    """What may be an object, or all of them: bounding boxes, and where it is therein; nothing comes twice."""
    field = clusters > 0
    least = rule.min_fraction * field.sum()
    if rule.objects is None:
        surroundings = _surroundings(clusters)
        yield from parts(surroundings, least)
        for mask in _level_sets(clusters, grey, rule.polarity, field & (surroundings == 0)):
            if mask.sum() >= least:
                box = box_of(mask)
                yield box, mask[box]
        return
    seen = set()
    radii = sorted({share * opening for share in OPENINGS})
    for mask in _level_sets(clusters, grey, rule.polarity, field):
        for radius in radii:
            for box, part in parts(opened_components(mask, radius), least):
                key = (*((side.start, side.stop) for side in box), part.tobytes())
                if key not in seen:
                    seen.add(key)
                    yield box, part


def _surroundings(clusters: np.ndarray) -> np.ndarray:
    """Connected components of clusters that touch every side of the image, from 1 on; 0 elsewhere."""
    whole = tuple(slice(0, side) for side in clusters.shape)
    components = connected_components(clusters, background=0, connectivity=1)
    boxes = ndimage.find_objects(components)
    touching = [label for label, box in enumerate(boxes, start=1) if box == whole]
    return np.where(np.isin(components, touching), components, 0)


def _level_sets(clusters: np.ndarray, grey: np.ndarray, polarity: str, within: np.ndarray) -> Iterator[np.ndarray]:
    """Masks: each cluster, and the two darkest together, the three darkest and so on, or the brightest."""
    found = np.unique(clusters[within])
    brightness = [grey[(clusters == cluster) & within].mean() for cluster in found]
    ranks = np.zeros(clusters.shape, dtype=np.int64)
    for rank, cluster in enumerate(found[np.argsort(brightness)], start=1):
        ranks[(clusters == cluster) & within] = rank
    last = len(found)
    runs = {(rank, rank) for rank in range(1, last + 1)}
    if polarity != "bright":
        runs |= {(1, rank) for rank in range(1, last + 1)}
    if polarity != "dark":
        runs |= {(rank, last) for rank in range(1, last + 1)}
    for first, last in sorted(runs):
        yield (first <= ranks) & (ranks <= last)


class _Judge:
    """Says what speaks for the regions of one image.

    Args:
        grey: (*spatial), the image.
        rule: what is known of the object.
        field: (*spatial), bool: the field of view.
    """

    def __init__(self, grey: np.ndarray, rule: Rule, field: np.ndarray) -> None:
        self.grey = grey
        self.rule = rule
        self.size = field.sum()
        self.centre_prior = _centre_prior(grey.shape) * field
        self.border = border_of(field)
        self.ring_width = max(1, round(RING_WIDTH * np.mean(grey.shape)))

    def __call__(self, box: Box, part: np.ndarray) -> Candidate | None:
        """The candidate that is a part in its bounding box; `None` where it is too large or nothing speaks for it."""
        box, inside = self._with_room(box, part)
        if self.rule.fill_holes:
            inside = fill_holes(inside)
        fraction = float(inside.sum() / self.size)
        if fraction > self.rule.max_fraction:
            return None
        contrast = self._contrast(box, inside)
        centre = float(self.centre_prior[box][inside].sum() / self.centre_prior.sum())
        on_border = int((self.border[box] & inside).sum())
        border = float(max(on_border / self.border.sum(), on_border / border_of(inside).sum()))
        score = max(contrast, 0.0) * centre**self.rule.centre_weight * (1 - border) ** self.rule.border_weight
        return Candidate(Region(score, fraction, centre, border, contrast), box, inside) if score > 0 else None

    def _with_room(self, box: Box, part: np.ndarray) -> tuple[Box, np.ndarray]:
        """The box grown by the width of the ring, as far as the image goes, and the part in it.

        All is measured in this box: a distance map of the whole image for each candidate would take seconds.
        """
        sides = list(zip(box, self.grey.shape, strict=True))
        room = [(min(self.ring_width, side.start), min(self.ring_width, length - side.stop)) for side, length in sides]
        grown = tuple(
            slice(side.start - before, side.stop + after) for side, (before, after) in zip(box, room, strict=True)
        )
        return grown, np.pad(part, room)

    def _contrast(self, box: Box, inside: np.ndarray) -> float:
        """How much a region differs from the ring around it, in the sense of the polarity."""
        ring = within_distance(inside, self.ring_width) & ~inside
        brighter = float(self.grey[box][inside].mean() - self.grey[box][ring].mean()) if ring.any() else 0.0
        return {"bright": brighter, "dark": -brighter, "any": abs(brighter)}[self.rule.polarity]


def _centre_prior(shape: tuple[int, ...]) -> np.ndarray:
    axes = np.ogrid[tuple(slice(-1 + 1 / side, 1, 2 / side) for side in shape)]
    return np.exp(-sum((axis / 2 / CENTRE_WIDTH) ** 2 for axis in axes) / 2)
