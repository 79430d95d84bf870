"""Surfaces and boundaries: the figures of MONAI, scikit-image and SciPy's whole distance maps, worked out faster."""

import math
import warnings

import numpy as np
import pytest
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_iou, compute_surface_dice
from scipy.ndimage import binary_erosion, distance_transform_edt, gaussian_filter
from skimage.segmentation import find_boundaries

from monai_fusenet.evaluation import score_mask
from monai_fusenet.metrics import boundary_f_score, compute_hammoude, compute_xor
from monai_fusenet.metrics.surface import TrueSurface, _percentile, boundary_of
from monai_fusenet.utils.arrays import border_of

GRIDS = [
    ((37, 52), None),
    ((64, 41), (0.4, 0.4)),
    ((1, 30), (2, 0.7)),
    ((13, 21, 10), None),
    ((9, 16, 12), (3, 0.7, 0.7)),
]


def masks(shape, seed):
    """Blobs, noise, the whole image, single pixels, and a line at the border."""
    rng = np.random.default_rng(seed)
    smooth = gaussian_filter(rng.random(shape), 2)
    corner, centre, line = np.zeros((3, *shape), bool)
    corner[(0,) * len(shape)] = True
    centre[tuple(side // 2 for side in shape)] = True
    line[..., -1] = True
    return [smooth > np.median(smooth), rng.random(shape) < 0.1, np.ones(shape, bool), corner, centre, line]


def of_monai(mask, label, spacing):
    y_pred, y = (torch.from_numpy(each)[None, None] for each in (mask, label))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        surfaces = {"include_background": True, "spacing": spacing and [float(side) for side in spacing]}
        return {
            "dice": compute_dice(y_pred, y, ignore_empty=False).item(),
            "iou": compute_iou(y_pred, y, ignore_empty=False).item(),
            "hd95": compute_hausdorff_distance(y_pred, y, percentile=95, **surfaces).item(),
            "surface_dice": compute_surface_dice(y_pred, y, [2.0], **surfaces).item(),
            "hammoude": compute_hammoude(y_pred, y).item(),
            "xor": compute_xor(y_pred, y).item(),
        }


@pytest.mark.parametrize(("shape", "spacing"), GRIDS)
def test_scores_are_those_of_monai(shape, spacing):
    for mask in masks(shape, seed=1):
        for label in masks(shape, seed=2):
            assert score_mask(mask, label, spacing) == pytest.approx(of_monai(mask, label, spacing), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("mask_is_empty", [True, False])
@pytest.mark.parametrize("label_is_empty", [True, False])
def test_overlaps_with_nothing_are_those_of_monai(mask_is_empty, label_is_empty):
    some = masks((11, 14), seed=0)[0]
    mask, label = some & (not mask_is_empty), np.roll(some, 3, axis=1) & (not label_is_empty)
    expected, scores = of_monai(mask, label, None), score_mask(mask, label)
    for key in ("dice", "iou", "hammoude", "xor"):  # of distances from nothing, MONAI has no number
        assert scores[key] == pytest.approx(expected[key], abs=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3, 20, 21, 1000, 25713])
def test_percentile_is_that_of_torch(count):
    for seed in range(5):
        distances = np.sqrt(np.random.default_rng(seed).integers(0, 900, count)).astype(np.float32)
        assert _percentile(distances) == pytest.approx(torch.quantile(torch.from_numpy(distances), 0.95).item())


def test_a_distance_that_is_the_tolerance_but_for_rounding_counts():
    label, mask = np.zeros((2, 12, 12), bool)
    label[1, 1], mask[4, 5] = True, True  # 5 pixels, of 1.1: 5.5, or a last digit more
    assert math.sqrt((3 * 1.1) ** 2 + (4 * 1.1) ** 2) > 5.5
    assert TrueSurface(label, (1.1, 1.1)).scores(mask, 5.5) == (pytest.approx(5.5), 1)


@pytest.mark.parametrize("shape", [(17,), (12, 1), (15, 22), (6, 9, 7)])
def test_borders_are_those_of_scipy_and_scikit_image(shape):
    rng = np.random.default_rng(3)
    for mask in (rng.random(shape) < 0.7, np.ones(shape, bool), np.zeros(shape, bool)):
        np.testing.assert_array_equal(border_of(mask), mask & ~binary_erosion(mask))
    labels = rng.integers(0, 3, shape)
    for values in (labels, labels > 0, np.zeros(shape, np.uint8)):
        np.testing.assert_array_equal(boundary_of(values), find_boundaries(values, mode="thick"))


def test_a_border_of_a_view_leaves_the_mask_alone():
    mask = np.ones((4, 6, 5), bool)
    view = mask[1:, ::2].T
    np.testing.assert_array_equal(border_of(view), view & ~binary_erosion(view))
    assert mask.all()


def by_whole_maps(clusters, label, tolerance, spacing):
    """The F score from distance maps of the whole image."""
    found, true = (find_boundaries(values, mode="thick") for values in (clusters, label))
    if not (found.any() and true.any()):
        return float(found.any() == true.any())
    precision = np.mean(distance_transform_edt(~true, sampling=spacing)[found] <= tolerance)
    recall = np.mean(distance_transform_edt(~found, sampling=spacing)[true] <= tolerance)
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


@pytest.mark.parametrize(("shape", "spacing"), GRIDS)
def test_boundary_f_is_that_of_whole_distance_maps(shape, spacing):
    clusters = [*masks(shape, seed=4), np.random.default_rng(5).integers(0, 3, shape)]
    for label in masks(shape, seed=6):
        for labels in clusters:
            for tolerance in (0.0, 1.0, 2.0, 1e4):
                expected = by_whole_maps(labels, label, tolerance, spacing)
                assert boundary_f_score(labels, label, tolerance, spacing) == pytest.approx(expected, abs=1e-12)
