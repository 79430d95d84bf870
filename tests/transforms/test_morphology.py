"""Masks as shapes, beside the slow functions of SciPy that say the same."""

import numpy as np
import pytest
from scipy import ndimage

from monai_fusenet.transforms.kmeans import kmeans_clusters, kmeans_partitions
from monai_fusenet.transforms.morphology import fill_holes, opened_components, within_distance
from monai_fusenet.utils.arrays import border_of

SHAPES = [(37, 53), (1, 9), (20, 1), (9, 14, 11)]
RADII = [0, 0.5, 1, 2**0.5, 3**0.5, 5**0.5, 3.7, 11, 25.0]


def blobs(shape, seed):
    random = np.random.default_rng(seed)
    mask = ndimage.gaussian_filter(random.normal(size=shape), random.uniform(0.3, 3)) > random.uniform(-0.1, 0.3)
    mask.flat[0] = True
    return mask


@pytest.mark.parametrize("shape", SHAPES)
def test_distances_borders_and_holes_are_those_of_scipy(shape):
    for seed in range(5):
        mask = blobs(shape, seed)
        distance = ndimage.distance_transform_edt(~mask)
        for radius in RADII:
            np.testing.assert_array_equal(within_distance(mask, radius), distance <= radius)
        np.testing.assert_array_equal(border_of(mask), mask & ~ndimage.binary_erosion(mask))
        np.testing.assert_array_equal(fill_holes(mask), ndimage.binary_fill_holes(mask))


def test_nothing_is_near_an_empty_mask():
    assert not within_distance(np.zeros((4, 7), dtype=bool), 30).any()


def test_a_bridge_is_cut_halfway():
    mask = np.zeros((11, 31), dtype=bool)
    mask[1:10, 1:10] = mask[1:10, 21:30] = mask[5, 10:21] = True
    assert opened_components(mask, 0).max() == 1
    cut = opened_components(mask, 2.0)
    assert cut.max() == 2
    assert cut[5, 8] == 1
    assert cut[5, 22] == 2
    assert cut[5, 15] == 0  # further than the radius and a pixel from both
    np.testing.assert_array_equal(opened_components(mask[:, :20], 2.0) > 0, cut[:, :20] == 1)
    assert not opened_components(mask, 6.0).any()


def test_partitions_are_those_of_k_means_one_by_one():
    image = np.random.default_rng(0).random((3, 17, 23)).astype(np.float32)
    for k, clusters in zip((4, 2), kmeans_partitions(image, [4, 2]), strict=True):
        np.testing.assert_array_equal(clusters, kmeans_clusters(image, k))
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        next(kmeans_partitions(image, [2, 0]))
