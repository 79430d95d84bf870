"""Scores at the four levels, which differ in their use of the ground truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
import torch

from monai_fusenet.data import ScaleByPercentilesd
from monai_fusenet.evaluation.baselines import (
    centre_component,
    centred_disk_mask,
    otsu_mask,
    slic_clusters,
    whole_image_mask,
)
from monai_fusenet.metrics.object_precision import compute_object_precision
from monai_fusenet.metrics.partition import cluster_overlap
from monai_fusenet.metrics.published import dilated, published_choice
from monai_fusenet.metrics.surface import TrueBoundary, TrueSurface
from monai_fusenet.transforms.acquisition import fill_outside
from monai_fusenet.transforms.kmeans import is_rgb, kmeans_partitions
from monai_fusenet.transforms.objects import split_objects
from monai_fusenet.utils.arrays import relabel_by_size

LEVELS = {
    "deployed": "The ground truth is used for nothing but the final score: this is what a user gets.",
    "partition": (
        "The ground truth is used for nothing but the final score of the clusters as a partition; the mask that Dice "
        "and the like refer to is the union of the clusters that lie mostly inside the truth."
    ),
    "oracle": "The ground truth chooses the single best cluster, unclipped: how much better choosing could get.",
    "published": (
        "The ground truth chooses the cluster and clips it with the truth dilated by 8 pixels: for comparison with "
        "figures that were made this way, and for nothing else. A single cluster that covers the whole image scores "
        "high here too."
    ),
}
"""The levels in the order of every table, each with what it uses the ground truth for."""

MASK_METRICS = ("dice", "iou", "hd95", "surface_dice", "hammoude", "xor")
PARTITION_METRICS = ("ari", "voi", "boundary_f")
OBJECT_METRICS = {"ap50": 0.5, "ap75": 0.75}  # and the IoU from which on two objects match
METRICS = (*MASK_METRICS, *PARTITION_METRICS, "clusters", *OBJECT_METRICS)
"""The numeric columns of a row, besides ``collapsed``."""

BASELINE_PIXELS = 2**19  # of an image with more, baselines are made and scored on a smaller grid
BASELINES = (
    "whole image",
    "centred disk",
    "Otsu dark",
    "Otsu bright",
    "Otsu dark + centre component",
    "Otsu bright + centre component",
    "2-means",
    "3-means",
    "4-means",
    "SLIC merged to 3",
)
"""The methods of :py:func:`score_baselines`, in its order."""

CLUSTERINGS = BASELINES[6:]
"""Those that only cluster, and are deployed by the same label-free choice as the method under test."""

TOLERANCE = 2.0
"""Distance up to which surfaces and boundaries agree, in mm where the spacing is known, else in pixels."""

Row = dict[str, Any]
ChooseMask = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Judge:
    """Scores masks and clusters against one truth.

    The part that depends only on the truth is computed once. The scores of a mask that occurs again are also computed
    once; many masks do, among four levels of ten baselines.

    Args:
        label: truth (*spatial), foreground above 0, 2-D or 3-D.
        spacing: mm per axis, or None for pixels.

    Raises:
        ValueError: ``spacing`` does not fit the axes.
    """

    def __init__(self, label: np.ndarray, spacing: Sequence[float] | None = None) -> None:
        if spacing is not None and len(spacing) != label.ndim:
            raise ValueError(f"spacing must have one value per axis, got {len(spacing)} for {label.ndim} axes")
        self.label = np.ascontiguousarray(label > 0)
        self.spacing = spacing
        self.pixels = np.count_nonzero(self.label)
        self._scores: dict[bytes, dict[str, float]] = {}

    @cached_property
    def _surface(self) -> TrueSurface:
        return TrueSurface(self.label, self.spacing)

    @cached_property
    def _boundary(self) -> TrueBoundary:
        return TrueBoundary(self.label, TOLERANCE, self.spacing)

    @cached_property
    def _dilated(self) -> np.ndarray:
        return dilated(self.label)

    def score_mask(self, mask: np.ndarray) -> dict[str, float]:
        """See :py:func:`score_mask`."""
        self._check_shape("mask", mask)
        mask = mask > 0
        digest = blake2b(np.packbits(mask).tobytes(), digest_size=16).digest()
        if digest not in self._scores:
            self._scores[digest] = self._compared(mask)
        return dict(self._scores[digest])

    def _compared(self, mask: np.ndarray) -> dict[str, float]:
        found, both = np.count_nonzero(mask), np.count_nonzero(mask & self.label)
        either = found + self.pixels - both
        if not either:
            return {"dice": 1.0, "iou": 1.0, "hd95": 0.0, "surface_dice": 1.0, "hammoude": 0.0, "xor": 0.0}
        if not (found and self.pixels):
            return self._failed() | {"xor": 1.0 if self.pixels else np.inf}
        hd95, surface_dice = self._surface.scores(mask, TOLERANCE)
        return {
            "dice": 2 * both / (found + self.pixels),
            "iou": both / either,
            "hd95": hd95,
            "surface_dice": surface_dice,
            "hammoude": 1 - both / either,
            "xor": (either - both) / self.pixels,
        }

    def _failed(self) -> dict[str, float]:
        """The scores of an empty mask against an object, also where there is none."""
        diagonal = float(np.linalg.norm(np.multiply(self.label.shape, 1.0 if self.spacing is None else self.spacing)))
        return {"dice": 0.0, "iou": 0.0, "hd95": diagonal, "surface_dice": 0.0, "hammoude": 1.0, "xor": 1.0}

    def score_image(
        self,
        method: str,
        mask: np.ndarray | None,
        clusters: np.ndarray | None,
        objects: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> list[Row]:
        """See :py:func:`score_image`."""
        rows: dict[str, Row] = {}
        count, partition = np.nan, {}
        if mask is not None:
            rows["deployed"] = self.score_mask(mask)
        if clusters is not None:
            self._check_shape("clusters", clusters)
            overlap = cluster_overlap(clusters, self.label)
            count = float(len(overlap.labels))
            partition = {
                "ari": overlap.adjusted_rand_index(),
                "voi": overlap.variation_of_information(),
                "boundary_f": self._boundary.f_score(overlap.position),
            }
            chosen = published_choice(overlap)
            rows["partition"] = self.score_mask(overlap.majority_mask()) | partition
            rows["oracle"] = self.score_mask(overlap.oracle_mask())
            rows["published"] = self._failed() if chosen is None else self.score_mask(chosen & self._dilated)
        if mask is not None and objects is not None:
            rows["deployed"] |= _object_scores(*objects)
        trivial = mask is not None and bool((mask > 0).all() or not (mask > 0).any())
        empty = dict.fromkeys(METRICS, np.nan) | {"clusters": count}
        return [
            {
                "method": method,
                "level": level,
                **(empty | row),
                "collapsed": float(count == 1 or (level == "deployed" and trivial)),
            }
            for level, row in rows.items()
        ]

    def score_baselines(
        self,
        image: np.ndarray,
        choose_mask: ChooseMask | None = None,
        seed: int = 0,
        true_objects: np.ndarray | None = None,
        field: np.ndarray | None = None,
    ) -> list[Row]:
        """See :py:func:`score_baselines`."""
        if image.shape[1:] != self.label.shape:
            raise ValueError(
                f"image and label must have the same spatial shape, got {image.shape[1:]} and {self.label.shape}"
            )

        def score(method: str, mask: np.ndarray | None, clusters: np.ndarray | None) -> list[Row]:
            objects = None
            if mask is not None and true_objects is not None:
                objects = (split_objects(mask, self.spacing), true_objects)
            return self.score_image(method, mask, clusters, objects)

        rows = []
        for method, mask in _masks(image).items():
            rows += score(method, mask, None if method == "Otsu bright" else relabel_by_size(mask))
        if field is None:
            field = np.ones(self.label.shape, dtype=bool)
        seen = image if field.all() else _scaled_in(field, image)
        for method, clusters in _partitions(seen, seed, field).items():
            rows += score(method, None if choose_mask is None else choose_mask(clusters, seen), clusters)
        return rows

    def _check_shape(self, name: str, array: np.ndarray) -> None:
        if array.shape != self.label.shape:
            raise ValueError(f"{name} and label must have the same shape, got {array.shape} and {self.label.shape}")


def score_mask(mask: np.ndarray, label: np.ndarray, spacing: Sequence[float] | None = None) -> dict[str, float]:
    """Scores one mask against the truth.

    Args:
        mask: prediction, foreground above 0.
        label: truth, foreground above 0, on its own grid.
        spacing: mm per axis, or None for pixels.

    Returns:
        - ``dice``, ``iou``: overlap, in [0, 1].
        - ``hd95``: the larger of the two directed 95th percentiles of the surface distances, in mm or pixels.
        - ``surface_dice``: share of both surfaces within 2 mm or pixels of the other, in [0, 1].
        - ``hammoude``: 1 - IoU, in [0, 1].
        - ``xor``: symmetric difference over the truth's area, in [0, inf].

        Two empty masks agree (1, 1, 0, 1, 0, 0). If only one is empty, the overlaps are 0, and ``hd95``, which is then
        undefined, is the diagonal of the image (of its outer edges); ``xor`` is inf if the truth is empty.

    Shape:
        (*spatial) twice, 2-D or 3-D

    Raises:
        ValueError: the shapes differ, or ``spacing`` does not fit the axes.

    Source:
        MONAI's metrics; the surface of a mask is its pixels with a face neighbour outside the mask or outside the
        image.
    """
    return Judge(label, spacing).score_mask(mask)


def score_image(
    method: str,
    mask: np.ndarray | None,
    clusters: np.ndarray | None,
    label: np.ndarray,
    spacing: Sequence[float] | None = None,
    objects: tuple[np.ndarray, np.ndarray] | None = None,
) -> list[Row]:
    """Scores the results of one method for one image, a row per level.

    Args:
        method: name for the table.
        mask: the method's mask, chosen without the truth, for the level ``deployed``; None leaves this level out.
        clusters: the method's integer label map, for the other levels; None leaves these out.
        label: truth, foreground above 0.
        spacing: mm per axis, or None for pixels.
        objects: the method's objects and the true ones, label maps with 0 for background; None if there are none.

    Returns:
        rows with the keys ``method``, ``level``, those of :py:func:`score_mask`, ``ari``, ``voi`` and ``boundary_f``
        (level ``partition`` only, else nan), ``clusters`` (how many; nan without a label map), ``ap50`` and ``ap75``
        (average precision of the objects at IoU 0.5 and 0.75, level ``deployed`` only, else nan) and ``collapsed``
        (1.0 if there is one cluster or, deployed, if the mask is empty or full). At the level ``partition`` the mask is
        :py:func:`monai_fusenet.metrics.majority_mask`. If the published rule finds nothing to choose, the row
        ``published`` has the scores of an empty mask against an object: Dice 0.

    Raises:
        ValueError: shapes differ, or the label map does not hold integers.
    """
    return Judge(label, spacing).score_image(method, mask, clusters, objects)


def score_baselines(
    image: np.ndarray,
    label: np.ndarray,
    choose_mask: ChooseMask | None = None,
    spacing: Sequence[float] | None = None,
    seed: int = 0,
    true_objects: np.ndarray | None = None,
    field: np.ndarray | None = None,
) -> list[Row]:
    """Scores the trivial methods of ``BASELINES`` on one image.

    The whole image counts as one cluster; a mask (disk, Otsu) as two: the mask and the rest. Otsu's bright mask has the
    same partition as the dark one, so it is scored only as deployed.

    Args:
        image: (C, *spatial), floats in [0, 1], on the truth's grid.
        label: truth (*spatial), foreground above 0.
        choose_mask: ``choose_mask(clusters, image)`` returns a mask without using the truth. Pass the rule of the
            method under test, so that k-means and SLIC are deployed by the same rule. None leaves out their level
            ``deployed``.
        spacing: mm per axis, or None for pixels.
        seed: seed of k-means.
        true_objects: label map (*spatial), 0 for background; the objects of a mask are then those of
            :py:func:`monai_fusenet.transforms.split_objects`. None leaves objects out.
        field: (*spatial), bool: the field of view. k-means and SLIC see only this part, with values scaled again, as
            the method under test does; their label outside is 0. `None`: the whole image.

    Returns:
        rows as those of :py:func:`score_image`.

    Raises:
        ValueError: image and label differ in shape, or the image has another type or range.
    """
    judge = Judge(label, spacing)
    return judge.score_baselines(image, choose_mask, seed, true_objects, field)


def _object_scores(found: np.ndarray, true: np.ndarray) -> dict[str, float]:
    found_, true_ = (torch.from_numpy(objects)[None, None] for objects in (found, true))
    precisions = compute_object_precision(found_, true_, list(OBJECT_METRICS.values()))[0].tolist()
    return dict(zip(OBJECT_METRICS, precisions, strict=True))


def _masks(image: np.ndarray) -> dict[str, np.ndarray]:
    """The masks among the baselines."""
    dark = otsu_mask(image, "dark")
    return {
        "whole image": whole_image_mask(image),
        "centred disk": centred_disk_mask(image),
        "Otsu dark": dark,
        "Otsu bright": ~dark,
        "Otsu dark + centre component": centre_component(dark),
        "Otsu bright + centre component": centre_component(~dark),
    }


def _partitions(image: np.ndarray, seed: int, field: np.ndarray) -> dict[str, np.ndarray]:
    """The clusters among the baselines."""
    counts = (2, 3, 4)
    by_colour = kmeans_partitions(image, counts, seed, field)
    partitions = {f"{k}-means": clusters for k, clusters in zip(counts, by_colour, strict=True)}
    return partitions | {"SLIC merged to 3": np.where(field, slic_clusters(image), 0)}


def _scaled_in(field: np.ndarray, image: np.ndarray) -> np.ndarray:
    """An image whose values in a field fill [0, 1], what is outside filled from within."""
    scaled = ScaleByPercentilesd("image", channel_wise=not is_rgb(image), field_key="field")
    return fill_outside(scaled({"image": image, "field": field[None]})["image"].numpy(), field)
