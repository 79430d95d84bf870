"""Scores at the four levels, which differ in what they use the ground truth for."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_iou, compute_surface_dice
from threadpoolctl import threadpool_limits
from torch import Tensor

from monai_fusenet.data import ScaleByPercentilesd
from monai_fusenet.evaluation.baselines import (
    centre_component,
    centred_disk_mask,
    otsu_mask,
    slic_clusters,
    whole_image_mask,
)
from monai_fusenet.metrics.hammoude import compute_hammoude
from monai_fusenet.metrics.object_precision import compute_object_precision
from monai_fusenet.metrics.partition import (
    adjusted_rand_index,
    boundary_f_score,
    majority_mask,
    oracle_mask,
    variation_of_information,
)
from monai_fusenet.metrics.published import published_mask
from monai_fusenet.metrics.xor import compute_xor
from monai_fusenet.transforms.acquisition import fill_outside
from monai_fusenet.transforms.kmeans import is_rgb, kmeans_clusters
from monai_fusenet.transforms.objects import split_objects
from monai_fusenet.utils.arrays import present_labels, relabel_by_size

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

        Two empty masks agree (1, 1, 0, 1, 0, 0). If only one is empty, the overlaps are 0 and ``hd95``, which is not
        defined, is the diagonal of the image (of its outer edges); ``xor`` is inf if it is the truth.

    Shape:
        (*spatial) twice, 2-D or 3-D

    Raises:
        ValueError: the shapes differ, or ``spacing`` does not fit the axes.

    Source:
        MONAI's metrics; a mask's surface are its pixels with a face neighbour outside the mask or outside the image.
    """
    _check_shapes("mask", mask, label)
    if spacing is not None and len(spacing) != label.ndim:
        raise ValueError(f"spacing must have one value per axis, got {len(spacing)} for {label.ndim} axes")
    y_pred = torch.from_numpy(np.ascontiguousarray(mask > 0))[None, None]
    y = torch.from_numpy(np.ascontiguousarray(label > 0))[None, None]
    with threadpool_limits(1):  # masks are small; threads that wait for a busy core cost a hundred times the work
        if y_pred.any() and y.any():
            hd95, surface_dice = _surface_scores(y_pred, y, spacing)
        elif y_pred.any() or y.any():
            hd95, surface_dice = _diagonal(label.shape, spacing), 0.0
        else:
            hd95, surface_dice = 0.0, 1.0
        return {
            "dice": compute_dice(y_pred, y, ignore_empty=False).item(),
            "iou": compute_iou(y_pred, y, ignore_empty=False).item(),
            "hd95": hd95,
            "surface_dice": surface_dice,
            "hammoude": compute_hammoude(y_pred, y).item(),
            "xor": compute_xor(y_pred, y).item(),
        }


def score_image(
    method: str,
    mask: np.ndarray | None,
    clusters: np.ndarray | None,
    label: np.ndarray,
    spacing: Sequence[float] | None = None,
    objects: tuple[np.ndarray, np.ndarray] | None = None,
) -> list[Row]:
    """Scores what one method made of one image, a row per level.

    Args:
        method: name for the table.
        mask: the method's mask, chosen without the truth, for the level ``deployed``; None leaves this level out.
        clusters: the method's integer label map for the other levels; None leaves these out.
        label: truth, foreground above 0.
        spacing: mm per axis, or None for pixels.
        objects: the method's objects and the true ones, label maps with 0 for background; None where there are none.

    Returns:
        rows with the keys ``method``, ``level``, those of :py:func:`score_mask`, ``ari``, ``voi`` and ``boundary_f``
        (level ``partition`` only, else nan), ``clusters`` (how many; nan without a label map), ``ap50`` and ``ap75``
        (average precision of the objects at IoU 0.5 and 0.75, level ``deployed`` only, else nan) and ``collapsed``
        (1.0 if there is one cluster or, deployed, if the mask is empty or full). At the level ``partition`` the mask is
        :py:func:`monai_fusenet.metrics.majority_mask`. Where the published rule finds nothing to choose, the row
        ``published`` scores as an empty mask against an object does: Dice 0.

    Raises:
        ValueError: shapes differ, or the label map does not hold integers.
    """
    count = np.nan
    masks: dict[str, np.ndarray | None] = {}
    if mask is not None:
        _check_shapes("mask", mask, label)
        masks["deployed"] = mask
    if clusters is not None:
        _check_shapes("clusters", clusters, label)
        count = float(len(present_labels(clusters)))
        masks["partition"] = majority_mask(clusters, label)
        masks["oracle"] = oracle_mask(clusters, label)
        truth_overlaps = np.any(clusters[label > 0] != 0)
        masks["published"] = published_mask(clusters, label) if truth_overlaps else None

    rows = []
    for level, candidate in masks.items():
        row: Row = {"method": method, "level": level, **dict.fromkeys(METRICS, np.nan), "clusters": count}
        row |= _failed(label, spacing) if candidate is None else score_mask(candidate, label, spacing)
        if level == "partition" and clusters is not None:
            row["ari"] = adjusted_rand_index(clusters, label)
            row["voi"] = variation_of_information(clusters, label)
            row["boundary_f"] = boundary_f_score(clusters, label, TOLERANCE, spacing)
        if level == "deployed" and objects is not None:
            found, true = (torch.from_numpy(each)[None, None] for each in objects)
            precisions = compute_object_precision(found, true, list(OBJECT_METRICS.values()))[0].tolist()
            row |= dict(zip(OBJECT_METRICS, precisions, strict=True))
        trivial = level == "deployed" and mask is not None and bool((mask > 0).all() or not (mask > 0).any())
        row["collapsed"] = float(count == 1 or trivial)
        rows.append(row)
    return rows


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

    The whole image counts as one cluster; a mask (disk, Otsu) as two: itself and the rest. Otsu's bright mask has the
    partition of the dark one and is scored as deployed only.

    Args:
        image: (C, *spatial), floats in [0, 1], on the truth's grid.
        label: truth (*spatial), foreground above 0.
        choose_mask: ``choose_mask(clusters, image)`` returns a mask without looking at the truth; pass the rule of
            the method under test, and k-means and SLIC are deployed by the same rule. None leaves their level
            ``deployed`` out.
        spacing: mm per axis, or None for pixels.
        seed: of k-means.
        true_objects: label map (*spatial), 0 for background; the objects of a mask are then those of
            :py:func:`monai_fusenet.transforms.split_objects`. None leaves objects out.
        field: (*spatial), bool: the field of view. k-means and SLIC see it alone, with values scaled anew, as the
            method under test does; their label outside is 0. `None`: the whole image.

    Returns:
        rows as those of :py:func:`score_image`.

    Raises:
        ValueError: image and label differ in shape, or the image has another type or range.
    """
    if image.shape[1:] != label.shape:
        raise ValueError(f"image and label must have the same spatial shape, got {image.shape[1:]} and {label.shape}")
    dark, bright = otsu_mask(image, "dark"), otsu_mask(image, "bright")
    masks = {
        "whole image": whole_image_mask(image),
        "centred disk": centred_disk_mask(image),
        "Otsu dark": dark,
        "Otsu bright": bright,
        "Otsu dark + centre component": centre_component(dark),
        "Otsu bright + centre component": centre_component(bright),
    }
    if field is None:
        field = np.ones(label.shape, dtype=bool)
    seen = image if field.all() else _scaled_in(field, image)
    partitions = {f"{k}-means": kmeans_clusters(seen, k, seed, field) for k in (2, 3, 4)}
    partitions["SLIC merged to 3"] = np.where(field, slic_clusters(seen), 0)

    def score(method: str, mask: np.ndarray | None, clusters: np.ndarray | None) -> list[Row]:
        objects = None
        if mask is not None and true_objects is not None:
            objects = (split_objects(mask, spacing), true_objects)
        return score_image(method, mask, clusters, label, spacing, objects)

    rows = []
    for method, mask in masks.items():
        rows += score(method, mask, None if method == "Otsu bright" else relabel_by_size(mask))
    for method, clusters in partitions.items():
        rows += score(method, None if choose_mask is None else choose_mask(clusters, seen), clusters)
    return rows


def _scaled_in(field: np.ndarray, image: np.ndarray) -> np.ndarray:
    """An image whose values in a field fill [0, 1], what is outside filled from within."""
    scaled = ScaleByPercentilesd("image", channel_wise=not is_rgb(image), field_key="field")
    return fill_outside(scaled({"image": image, "field": field[None]})["image"].numpy(), field)


def _check_shapes(name: str, array: np.ndarray, label: np.ndarray) -> None:
    if array.shape != label.shape:
        raise ValueError(f"{name} and label must have the same shape, got {array.shape} and {label.shape}")


def _surface_scores(y_pred: Tensor, y: Tensor, spacing: Sequence[float] | None) -> tuple[float, float]:
    """HD95 and surface Dice of two masks (1, 1, *spatial), neither of them empty: MONAI has no answer for those."""
    sides = None if spacing is None else [float(side) for side in spacing]
    with warnings.catch_warnings():  # MONAI 1.5 and 1.6 warn of an argument that only they themselves pass
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy", category=FutureWarning)
        hd95 = compute_hausdorff_distance(y_pred, y, include_background=True, percentile=95, spacing=sides)
        surface_dice = compute_surface_dice(y_pred, y, [TOLERANCE], include_background=True, spacing=sides)
    return hd95.item(), surface_dice.item()


def _diagonal(shape: Sequence[int], spacing: Sequence[float] | None) -> float:
    return float(np.linalg.norm(np.multiply(shape, 1.0 if spacing is None else spacing)))


def _failed(label: np.ndarray, spacing: Sequence[float] | None) -> dict[str, float]:
    """The scores of an empty mask against an object, also where there is none."""
    worst = dict.fromkeys(MASK_METRICS, 0.0)
    return worst | {"hd95": _diagonal(label.shape, spacing), "hammoude": 1.0, "xor": 1.0}
