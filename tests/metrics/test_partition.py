import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage import metrics as skimage_metrics
from sklearn.metrics import adjusted_rand_score

from monai_fusenet.metrics import (
    ClusterOverlap,
    adjusted_rand_index,
    boundary_f_score,
    cluster_overlap,
    majority_mask,
    oracle_mask,
    published_mask,
    variation_of_information,
)

SHAPES = [(6, 9), (4, 3, 5)]
ALL = [
    adjusted_rand_index,
    variation_of_information,
    boundary_f_score,
    cluster_overlap,
    majority_mask,
    oracle_mask,
    published_mask,
]
LABEL_MAPS = arrays(np.int16, (4, 5), elements=st.integers(-2, 3))
MASKS = arrays(bool, (4, 5))


def random_pair(shape, labels=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, labels, shape), rng.random(shape) < 0.4


def slow_rand(clusters, label):
    """Adjusted Rand index over all pairs of pixels."""
    together, agreed, expected, pairs = 0, 0, 0, 0
    same_label = 0
    for (a, p), (b, q) in itertools.combinations(zip(clusters.ravel(), label.ravel(), strict=True), 2):
        pairs += 1
        together += a == b
        same_label += p == q
        agreed += (a == b) and (p == q)
    expected = together * same_label / pairs
    return (agreed - expected) / ((together + same_label) / 2 - expected)


def slow_information(clusters, label):
    """Variation of information as twice the joint entropy less both entropies."""

    def entropy(items):
        counts = [items.count(item) for item in set(items)]
        return -sum(count / len(items) * math.log2(count / len(items)) for count in counts)

    a, b = clusters.ravel().tolist(), label.ravel().tolist()
    return 2 * entropy(list(zip(a, b, strict=True))) - entropy(a) - entropy(b)


def slow_boundary_f(clusters, label, tolerance, spacing):
    """Boundary pixels by looking at neighbours, distances by looking at all pairs."""

    def boundary(values):
        found = []
        for pixel in np.ndindex(values.shape):
            for axis, step in itertools.product(range(values.ndim), (-1, 1)):
                other = list(pixel)
                other[axis] += step
                if 0 <= other[axis] < values.shape[axis] and values[tuple(other)] != values[pixel]:
                    found.append(np.multiply(pixel, spacing))
                    break
        return found

    def share(of, near):
        return sum(any(np.linalg.norm(p - q) <= tolerance for q in near) for p in of) / len(of)

    found, true = boundary(clusters), boundary(label)
    precision, recall = share(found, true), share(true, found)
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("shape", SHAPES)
def test_rand_and_information_equal_their_definitions(shape):
    clusters, label = random_pair(shape)
    assert adjusted_rand_index(clusters, label) == pytest.approx(slow_rand(clusters, label))
    assert variation_of_information(clusters, label) == pytest.approx(slow_information(clusters, label))


@pytest.mark.parametrize(("shape", "spacing"), [((6, 9), (1, 1)), ((6, 9), (2.5, 0.5)), ((4, 3, 5), (0.7, 1, 3))])
@pytest.mark.parametrize("tolerance", [0.0, 1.0, 2.0])
def test_boundary_f_equals_all_pairs_of_boundary_pixels(shape, spacing, tolerance):
    clusters, label = np.zeros(shape, int), np.zeros(shape, int)
    clusters[1:3, :2] = 7
    clusters[-1] = 3
    label[1:, 1:3] = 1
    assert boundary_f_score(clusters, label, tolerance, spacing) == pytest.approx(
        slow_boundary_f(clusters, label, tolerance, spacing)
    )


def test_perfect_clusters():
    label = np.zeros((7, 5), int)
    label[2:5, 1:4] = 1
    clusters = np.where(label, 3, 9)
    assert adjusted_rand_index(clusters, label) == 1
    assert variation_of_information(clusters, label) == pytest.approx(0)
    assert boundary_f_score(clusters, label, tolerance=0) == 1
    np.testing.assert_array_equal(majority_mask(clusters, label), label > 0)
    np.testing.assert_array_equal(oracle_mask(clusters, label), label > 0)


def test_one_cluster_over_everything():
    label = np.zeros((4, 4), int)
    label[:, :2] = 1
    clusters = np.ones_like(label)
    assert adjusted_rand_index(clusters, label) == 0
    assert variation_of_information(clusters, label) == pytest.approx(1)  # one bit says which half
    assert boundary_f_score(clusters, label) == 0
    assert not majority_mask(clusters, label).any()  # exactly half inside is not most of it
    assert oracle_mask(clusters, label).all()


def test_cutting_the_object_in_two_costs_information_but_no_boundary_recall():
    label = np.zeros((8, 6), int)
    label[:, :4] = 1
    clusters = label.copy()
    clusters[:4, :4] = 2
    assert variation_of_information(clusters, label) == pytest.approx(2 / 3)  # a bit for two thirds of the pixels
    assert 0 < boundary_f_score(clusters, label, tolerance=0) < 1
    np.testing.assert_array_equal(majority_mask(clusters, label), label > 0)
    np.testing.assert_array_equal(oracle_mask(clusters, label), clusters == 1)  # ties: the smallest label


@pytest.mark.parametrize("shape", SHAPES)
def test_no_boundaries(shape):
    flat, split = np.full(shape, 3), np.zeros(shape, int)
    split[0] = 1
    assert boundary_f_score(flat, np.zeros(shape)) == 1
    assert boundary_f_score(flat, np.ones(shape)) == 1  # the image border is no boundary
    assert boundary_f_score(split, np.zeros(shape)) == 0
    assert boundary_f_score(flat, split) == 0


def test_tolerance_is_in_units_of_the_spacing():
    clusters, label = np.zeros((3, 12), int), np.zeros((3, 12), int)
    clusters[:, 6:], label[:, 4:] = 1, 1  # the same edge, two pixels apart
    assert boundary_f_score(clusters, label, tolerance=1) == pytest.approx(1 / 2)  # one of two rows of pixels each
    assert boundary_f_score(clusters, label, tolerance=2) == 1
    assert boundary_f_score(clusters, label, tolerance=2, spacing=(1, 5)) == 0
    assert boundary_f_score(clusters, label, tolerance=2, spacing=(5, 0.5)) == 1


@given(LABEL_MAPS, MASKS)
@settings(max_examples=80, deadline=None)
def test_names_of_labels_do_not_matter(clusters, label):
    renamed = 100 - 7 * clusters.astype(int)
    for measure in (adjusted_rand_index, variation_of_information, boundary_f_score):
        assert measure(clusters, label) == pytest.approx(measure(renamed, label))
    np.testing.assert_array_equal(majority_mask(clusters, label), majority_mask(renamed, label))


@given(LABEL_MAPS, MASKS)
@settings(max_examples=80, deadline=None)
def test_ranges_and_the_masks_by_definition(clusters, label):
    assert -0.5 <= adjusted_rand_index(clusters, label) <= 1
    assert 0 <= variation_of_information(clusters, label) <= math.log2(20) + 1e-9
    assert 0 <= boundary_f_score(clusters, label) <= 1

    majority, best, best_dice = np.zeros_like(label), None, -1.0
    for value in sorted(set(clusters.ravel().tolist())):
        cluster = clusters == value
        if label[cluster].mean() > 0.5:
            majority |= cluster
        dice = 2 * (cluster & label).sum() / (cluster.sum() + label.sum())
        if dice > best_dice:
            best, best_dice = cluster, dice
    np.testing.assert_array_equal(majority_mask(clusters, label), majority)
    np.testing.assert_array_equal(oracle_mask(clusters, label), best)


def test_overlap_counts():
    clusters = np.array([[5, 5, -1], [5, 0, -1]])
    overlap = cluster_overlap(clusters, np.array([[1, 0, 2], [1, 0, 2]]))  # several classes are one foreground
    assert overlap.labels.tolist() == [-1, 0, 5]
    assert overlap.sizes.tolist() == [2, 1, 3]
    assert overlap.inside.tolist() == [2, 0, 2]
    np.testing.assert_array_equal(overlap.labels[overlap.position], clusters)


@pytest.mark.parametrize("labels", [1, 2, 5, 300, 70_000])
def test_rand_and_information_are_those_of_scikit_learn_and_scikit_image(labels):
    clusters, label = random_pair((61, 83), labels)
    classes = label.astype(int)
    expected = adjusted_rand_score(classes.ravel(), clusters.ravel())
    assert adjusted_rand_index(clusters, label) == pytest.approx(expected, abs=1e-12)
    clusters = np.unique(clusters, return_inverse=True)[1].reshape(label.shape)  # scikit-image takes memory for gaps
    expected = sum(skimage_metrics.variation_of_information(classes, clusters))
    assert variation_of_information(clusters, label) == pytest.approx(expected, abs=1e-9)


def test_counts_of_a_huge_volume_do_not_overflow():
    billion = 10**9
    sizes, inside = np.array([billion, 2 * billion]), np.array([0, billion])
    overlap = ClusterOverlap(np.arange(2), np.zeros(0, int), sizes, inside)
    # of 9e18 / 2 pairs: parts of 1 and 2 in the clusters, of 1 and 2 in the truth, of 1, 1 and 1 in both
    expected = 5 * 5 / 9
    assert overlap.adjusted_rand_index() == pytest.approx((3 - expected) / (5 - expected))


def test_oracle_of_an_empty_truth_is_the_smallest_label():
    clusters = np.array([[2, 1], [2, 3]])
    np.testing.assert_array_equal(oracle_mask(clusters, np.zeros((2, 2))), clusters == 1)


@pytest.mark.parametrize("measure", ALL)
def test_bad_input_is_named(measure):
    with pytest.raises(ValueError, match=r"^clusters and label must have the same shape, got \(2, 3\) and \(3, 2\)$"):
        measure(np.zeros((2, 3), int), np.zeros((3, 2), int))
    with pytest.raises(ValueError, match=r"^clusters must hold integer labels, got float32$"):
        measure(np.zeros((2, 3), np.float32), np.zeros((2, 3), int))


def test_spacing_must_fit_the_axes():
    with pytest.raises(ValueError, match=r"^spacing must have one value per axis, got 2 for 3 axes$"):
        boundary_f_score(np.zeros((2, 3, 4), int), np.zeros((2, 3, 4), int), spacing=(1, 1))
