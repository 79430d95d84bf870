import numpy as np
import pytest
from monai.metrics import compute_dice
from parity import figures
from scipy.ndimage import binary_dilation
from torch import from_numpy

from monai_fusenet.metrics import published_mask

SHAPES = [(23, 31), (21, 19, 24)]


def test_published_code_makes_the_same_mask():
    reference = figures()
    mask = published_mask(reference["legacy_pred"], reference["metric_b"])
    np.testing.assert_array_equal(mask, reference["legacy_mask"])
    assert 0 < mask.sum() < reference["legacy_pred"].size


def test_published_code_gives_the_same_dice_as_monai():
    reference = figures()
    a, b = (from_numpy(reference[key])[None, None] for key in ("metric_a", "metric_b"))
    assert compute_dice(a, b).item() == pytest.approx(reference["metric_values_dice_hm_xor"][0])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("corner", [True, False], ids=["at the border", "inside"])
def test_margin_is_the_published_dilation(shape, corner):
    label = np.zeros(shape, int)
    label[tuple(slice(0, 2) if corner else slice(side // 2, side // 2 + 3) for side in shape)] = 1
    dilated = binary_dilation(label, np.ones([5] * len(shape)), iterations=4)
    np.testing.assert_array_equal(published_mask(np.ones(shape, int), label), dilated)


def test_margin_zero_clips_with_the_truth_itself():
    label = np.zeros((9, 7), int)
    label[3:5, 2:6] = 1
    np.testing.assert_array_equal(published_mask(np.ones_like(label), label, margin=0), label)


def test_rule_step_by_step():
    clusters = np.array([[0, 0, 0, 0, 3, 3, 2, 2, 2, 2, 2, 2]])
    label = np.array([[1, 1, 1, 1, 1, 0, 1, 0, 0, 0, 0, 0]])
    # label 0 covers most of the truth and is passed over; 2 and 3 tie, and the smaller label wins
    assert published_mask(clusters, label, margin=1).astype(int).tolist() == [[0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0]]
    assert published_mask(clusters, label, margin=2).astype(int).tolist() == [[0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0]]


def test_choice_ignores_the_dilated_part():
    clusters = np.array([[1, 1, 2, 2, 2, 2]])
    label = np.array([[1, 1, 1, 0, 0, 0]])
    assert published_mask(clusters, label, margin=2).astype(int).tolist() == [[1, 1, 0, 0, 0, 0]]


def test_whole_image_scores_far_above_its_worth():
    label = np.zeros((64, 64), int)
    label[16:48, 16:48] = 1
    mask = published_mask(np.ones_like(label), label)
    assert mask.sum() == 48 * 48
    assert 2 * label.sum() / (mask.sum() + label.sum()) > 0.6 > 2 * label.sum() / (label.size + label.sum())


@pytest.mark.parametrize("label", [np.zeros((4, 5), int), np.eye(4, 5, dtype=int)], ids=["empty truth", "only label 0"])
def test_rule_fails_where_the_published_one_does(label):
    clusters = np.where(label, 0, 1)
    with pytest.raises(ValueError, match="nothing to choose: the truth overlaps no cluster other than label 0"):
        published_mask(clusters, label)


def test_negative_margin_is_refused():
    with pytest.raises(ValueError, match=r"^margin must be at least 0 pixels, got -1$"):
        published_mask(np.ones((2, 3), int), np.ones((2, 3), int), margin=-1)
