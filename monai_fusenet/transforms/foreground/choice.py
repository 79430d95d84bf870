"""The foreground of one image, chosen among its clusters by a rule, or by the agreement of several partitions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from monai_fusenet.transforms.acquisition.field import fill_outside
from monai_fusenet.transforms.foreground.agreement import agree, dice
from monai_fusenet.transforms.foreground.candidates import Candidate, Region, find_candidates
from monai_fusenet.transforms.foreground.outline import finish, redraw
from monai_fusenet.transforms.foreground.rule import Rule, shows_rule
from monai_fusenet.transforms.kmeans import kmeans_partitions
from monai_fusenet.transforms.morphology import Box
from monai_fusenet.utils.arrays import box_of, numbered, reduced_shape, resize_area, resize_nearest

__all__ = ["Choice", "apply_rule", "choose_foreground", "propose_masks"]

JUDGED_PIXELS = {2: 2**17, 3: 2**18}  # by number of axes: an image of more is judged on a smaller grid, for time
OWN_VOTES = 2  # of the clusters' mask; each k-means has one


class Choice(NamedTuple):
    """The foreground of one image.

    Attributes:
        mask: (*spatial), bool.
        regions: all candidates, best first; with several partitions, those of the partition with the mask nearest to
            `mask`.
        confidence: how well the masks of several partitions agree with `mask`: their mean Dice with it, with the
            weights of the vote, in [0, 1]. `None` if there is only one partition, or the mask is empty.
    """

    mask: np.ndarray
    regions: list[Region]
    confidence: float | None


@shows_rule
def choose_foreground(
    clusters: np.ndarray, image: np.ndarray, *args: Any, **kwargs: Any
) -> tuple[np.ndarray, list[Region]]:
    """Chooses the foreground of one image among its clusters.

    Candidates are the clusters, and the two darkest together, the three darkest and so on, or the brightest. With a
    number of objects, the candidates are the connected components of these; that many are kept, and they do not
    overlap. Without a number of objects, one candidate is kept as it is. A component that touches every side of the
    image, such as a background or a frame, is then left out of the others and is a candidate of its own. The score is
    `max(contrast, 0) * centre ** centre_weight * (1 - border) ** border_weight`, see `Region`. It is a product because
    an object must do well in all of them, and because their scales differ.

    An image of more than 131 072 pixels (262 144 voxels) is judged, refined and made convex on a smaller grid. The
    contour is then drawn on the grid of the image.

    Args:
        clusters: (*spatial), integer labels, 2-D or 3-D.
        image: (C, *spatial), values in [0, 1].
        *args: the fields of `Rule`, in its order.
        **kwargs: the fields of `Rule`, by name.

    Returns:
        the mask (*spatial), bool, and all candidates, best first, chosen and rejected, as they were before refinement,
        hulls and growth. If no candidate has an allowed size and the wanted polarity, mask and list are empty.

    Raises:
        ValueError: when clusters and image differ in shape, or a value of the rule is invalid.
        TypeError: when the rule has no field of that name.
    """
    return apply_rule(Rule(*args, **kwargs), clusters, image)[:2]


def apply_rule(
    rule: Rule,
    clusters: np.ndarray,
    image: np.ndarray,
    field: np.ndarray | None = None,
    partitions: Sequence[int] = (),
) -> Choice:
    """As `choose_foreground`, but with a `Rule`, a field of view, and several partitions of one image.

    `partitions` are numbers of clusters. The rule makes a mask from the given clusters, and one from a k-means of the
    image for each of these numbers. The foreground is what the masks agree on, see `agree`. The vote of a mask is the
    sum of the scores of its chosen candidates; the mask of the given clusters has twice that vote.

    Nothing outside the field of view `field` (*spatial), bool, is judged, chosen or drawn. Its border counts as that of
    the image. Margins and centre refer to its box, fractions to its pixels. `None`: the whole image.
    """
    if clusters.shape != image.shape[1:]:
        raise ValueError(f"clusters and image must have the same shape, got {clusters.shape} and {image.shape[1:]}")
    if field is None or field.all():
        return _judge(rule, clusters if clusters.min() > 0 else numbered(clusters), image, partitions)
    if not field.any():
        return Choice(np.zeros(field.shape, dtype=bool), [], None)
    box = box_of(field)
    within = np.where(field[box], numbered(clusters)[box], 0)
    choice = _judge(rule, within, fill_outside(image[(slice(None), *box)], field[box]), partitions)
    mask = np.zeros(field.shape, dtype=bool)
    mask[box] = choice.mask
    return choice._replace(mask=mask & field)


def _judge(rule: Rule, clusters: np.ndarray, image: np.ndarray, partitions: Sequence[int]) -> Choice:
    """The same for the box of a field: labels from 1, and 0 outside the field, where the image is filled."""
    shape = reduced_shape(clusters.shape, JUDGED_PIXELS.get(clusters.ndim, clusters.size))
    small_clusters, small_image = resize_nearest(clusters, shape), resize_area(image, shape)
    counts = partitions if small_clusters.any() else ()  # a thin field may have no pixel on the smaller grid
    means = kmeans_partitions(small_image, counts, field=small_clusters > 0) if counts else ()
    found = [_choose(one, small_image, rule) for one in (small_clusters, *means)]
    masks = [finish(chosen, small_image.mean(axis=0), rule) for chosen, _ in found]
    votes = np.array([sum(region.score for region in regions if region.chosen) for _, regions in found])
    votes[0] *= OWN_VOTES
    mask = agree(masks, votes.tolist(), rule)
    likeness = np.array([dice(one, mask) for one in masks])
    confidence = float(likeness @ votes / votes.sum()) if partitions and mask.any() else None
    if shape != clusters.shape:
        mask = redraw(mask, None if counts else small_clusters, clusters, image, rule)
    return Choice(mask, found[int(likeness.argmax())][1], confidence)


def propose_masks(rule: Rule, clusters: np.ndarray, image: np.ndarray, most: int) -> Iterator[np.ndarray]:
    """Yields the best candidates of an image one by one, each as a whole mask that may be the object or one of several.

    If the rule uses convex hulls or growth, each candidate comes twice: without these and with them.

    Args:
        rule: what is known of the object.
        clusters: (*spatial), integer labels, 2-D or 3-D.
        image: (C, *spatial), values in [0, 1].
        most: largest number of candidates; the two forms of a candidate count once.

    Yields:
        masks (*spatial), bool.
    """
    within = _within(rule, clusters.shape)
    plainly = replace(rule, convex=False, growth=0.0)
    ways = dict.fromkeys((plainly, rule))  # in this order, whatever the hashes of words
    for _, box, inside in _candidates(rule, within, clusters, image)[:most]:
        mask = np.zeros(clusters.shape, dtype=bool)
        mask[within][box] = inside
        for way in ways:
            yield finish(mask, image.mean(axis=0), way)


def _within(rule: Rule, shape: tuple[int, ...]) -> Box:
    """The part of an image in which its rule looks for objects."""
    cuts = [min(round(rule.margin * side), (side - 1) // 2) for side in shape]
    return tuple(slice(cut, side - cut) for cut, side in zip(cuts, shape, strict=True))


def _candidates(rule: Rule, within: Box, clusters: np.ndarray, image: np.ndarray) -> list[Candidate]:
    """What may be an object in a part of an image, best first; boxes are relative to that part."""
    opening = rule.opening * float(np.mean(clusters.shape))
    return find_candidates(clusters[within], image[(slice(None), *within)], rule, opening)


def _choose(clusters: np.ndarray, image: np.ndarray, rule: Rule) -> tuple[np.ndarray, list[Region]]:
    """The best candidates that do not overlap, as a mask, and all candidates, best first."""
    whole = np.zeros(clusters.shape, dtype=bool)
    within = _within(rule, clusters.shape)
    mask = whole[within]  # a view
    regions: list[Region] = []
    wanted = rule.objects or 1
    for region, box, inside in _candidates(rule, within, clusters, image):
        overlaps = bool((mask[box] & inside).any())
        chosen = wanted > 0 and not overlaps
        if chosen:
            mask[box] |= inside
            wanted -= 1
        regions.append(region._replace(chosen=chosen, overlaps=overlaps))
    return whole, regions
