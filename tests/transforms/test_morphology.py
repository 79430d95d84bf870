"""Masks as shapes, beside the slow functions of SciPy that say the same."""

import numpy as np
import pytest
from scipy import ndimage
from skimage.morphology import convex_hull_image

from monai_fusenet.transforms.kmeans import kmeans_clusters, kmeans_partitions
from monai_fusenet.transforms.morphology import convex_hull, fill_holes, opened_components, within_distance
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


@pytest.mark.parametrize("shape", [(37, 53), (9, 64), (64, 9), (2, 4), (9, 14, 11)])
@pytest.mark.parametrize("of_centres", [False, True])
def test_hulls_are_those_of_scikit_image(shape, of_centres):
    for seed in range(20):
        mask = blobs(shape, seed)
        mask &= np.random.default_rng(seed).random(shape) > 0.9 * (seed % 2)  # some of many parts
        mask.flat[[0, 5]] = seed % 3 == 0
        mask.flat[-1 if seed % 5 else 3] = mask.flat[len(mask.flat) // 2] = mask.flat[2] = True
        np.testing.assert_array_equal(
            convex_hull(mask, of_centres), convex_hull_image(mask, offset_coordinates=not of_centres)
        )


def test_hulls_of_a_point_and_of_lines():
    for pixels in ([(2, 3)], [(2, 1), (2, 6)], [(0, 4), (5, 4)], [(0, 0), (5, 7)]):
        mask = np.zeros((6, 8), dtype=bool)
        mask[tuple(zip(*pixels, strict=True))] = True
        hull = convex_hull(mask, of_centres=True)
        between = np.linspace(*pixels, 36) if len(pixels) == 2 else np.array(pixels, dtype=float)
        on_line = {
            tuple(place) for place in between.round().astype(int) if np.abs(between - place).max(axis=1).min() < 1e-9
        }
        assert {tuple(place) for place in np.argwhere(hull)} == on_line


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
