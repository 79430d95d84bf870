import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from monai_fusenet.evaluation.baselines import (
    centre_component,
    centred_disk_mask,
    otsu_mask,
    slic_clusters,
    whole_image_mask,
)
from monai_fusenet.evaluation.levels import score_baselines
from monai_fusenet.transforms import ClustersToMaskd
from monai_fusenet.transforms.kmeans import kmeans_clusters, kmeans_partitions

SHAPES = [(1, 33, 20), (3, 20, 33), (1, 12, 17, 9), (3, 12, 17, 9)]
MAKERS = [whole_image_mask, centred_disk_mask, otsu_mask, lambda image: kmeans_clusters(image, 2), slic_clusters]


def blob(shape, inside=0.2, outside=0.8, noise=0.02, seed=0):
    """A box off the centre in front of a background, with a little noise; and the box."""
    spatial = shape[1:]
    box = np.zeros(spatial, bool)
    box[tuple(slice(side // 4, side // 2 + 1) for side in spatial)] = True
    image = np.broadcast_to(np.where(box, inside, outside), shape).astype(np.float32)
    noise = np.random.default_rng(seed).normal(0, noise, shape)
    return np.clip(image + noise, 0, 1).astype(np.float32), box


@pytest.mark.parametrize("shape", SHAPES)
def test_whole_image(shape):
    mask = whole_image_mask(blob(shape)[0])
    assert mask.shape == shape[1:]
    assert mask.dtype == bool
    assert mask.all()


def test_disk_covers_the_area_of_a_disk_and_follows_the_aspect():
    mask = centred_disk_mask(np.zeros((1, 200, 100)))
    assert mask.mean() == pytest.approx(math.pi * 0.3**2, rel=0.01)
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    assert (rows[0], rows[-1]) == (40, 159)
    assert (columns[0], columns[-1]) == (20, 79)


def test_ball():
    mask = centred_disk_mask(np.zeros((3, 60, 40, 50)), radius=0.5)
    assert mask.mean() == pytest.approx(math.pi / 6, rel=0.01)
    np.testing.assert_array_equal(mask, mask[::-1, ::-1, ::-1])


@pytest.mark.parametrize("shape", SHAPES)
def test_otsu_parts_two_greys(shape):
    image, box = blob(shape)
    assert np.mean(otsu_mask(image, smoothing=0) == box) > 0.99  # a threshold in the last occupied bin cuts a few
    assert np.mean(otsu_mask(image, "bright", smoothing=0) == ~box) > 0.99
    np.testing.assert_array_equal(otsu_mask(image, "dark"), ~otsu_mask(image, "bright"))


def test_otsu_grey_is_the_mean_of_the_channels():
    image = np.ones((3, 8, 6))
    image[2, :4] = 0.4  # luminance weighs blue by 0.07 and would rank these rows above the next ones
    image[1, 4:6] = 0.85
    np.testing.assert_array_equal(otsu_mask(image, smoothing=0)[:, 0], [True] * 4 + [False] * 4)


def test_otsu_smoothing_removes_salt_and_pepper():
    image, box = blob((1, 128, 160))
    rng = np.random.default_rng(1)
    image = np.where(rng.random(image.shape) < 0.15, rng.integers(0, 2, image.shape), image).astype(float)
    assert np.mean(otsu_mask(image) != box) < 0.5 * np.mean(otsu_mask(image, smoothing=0) != box)


def test_constant_image_is_dark_everywhere():
    image = np.full((1, 5, 7), 0.5)
    assert otsu_mask(image).all()
    assert not otsu_mask(image, "bright").any()


@pytest.mark.parametrize("shape", [(40, 61), (21, 20, 30)])
def test_centre_component_prefers_centre_and_size(shape):
    centre = tuple(slice(side // 2 - 2, side // 2 + 2) for side in shape)
    mask = np.zeros(shape, int)
    mask[centre] = 1
    expected = mask.astype(bool)
    mask[0], mask[:3, :3] = 1, 1  # a long and a small one at the border
    np.testing.assert_array_equal(centre_component(mask), expected)


def test_small_speck_in_the_centre_loses_against_a_large_object_beside_it():
    mask = np.zeros((101, 101), bool)
    mask[50, 50] = True
    mask[30:70, 60:90] = True
    component = centre_component(mask)
    assert component.sum() == 40 * 30
    assert not component[50, 50]


def test_centre_component_is_connected_through_faces():
    mask = np.zeros((6, 6), bool)
    mask[1:3, 1:3], mask[3:6, 3:6] = True, True  # touch in a corner
    assert centre_component(mask).sum() == 9


@pytest.mark.parametrize("value", [False, True])
def test_centre_component_of_nothing_and_of_everything(value):
    mask = np.full((5, 8), value)
    np.testing.assert_array_equal(centre_component(mask), mask)


@given(arrays(bool, (5, 6)))
@settings(max_examples=60, deadline=None)
def test_centre_component_weighs_like_a_slow_loop(mask):
    remaining, components = {tuple(pixel) for pixel in np.argwhere(mask)}, []
    while remaining:
        front, component = [remaining.pop()], set()
        while front:
            row, column = front.pop()
            component.add((row, column))
            neighbours = {(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)} & remaining
            remaining -= neighbours
            front += neighbours
        components.append(component)

    def weight(component):
        places = [((row + 0.5) / 5 - 0.5, (column + 0.5) / 6 - 0.5) for row, column in component]
        return sum(math.exp(-(y * y + x * x) / (2 * 0.25**2)) for y, x in places)

    found = {tuple(pixel) for pixel in np.argwhere(centre_component(mask))}
    assert found in components or not components
    assert weight(found) == pytest.approx(max(map(weight, components), default=0))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cluster", [lambda image: kmeans_clusters(image, 2), lambda image: slic_clusters(image, 2)])
def test_clusters_part_two_greys(shape, cluster):
    image, box = blob(shape)
    clusters = cluster(image)
    assert clusters.shape == shape[1:]
    assert np.mean(clusters == np.where(box, 2, 1)) > 0.95  # the box is the smaller one


def test_kmeans_tells_colours_of_equal_grey_apart():
    image = np.zeros((3, 9, 8))
    image[0, :, :3] = image[1, :, 3:6] = image[2, :, 6:] = 0.6
    clusters = kmeans_clusters(image, 3)
    assert len(np.unique(clusters)) == 3
    np.testing.assert_array_equal(clusters, np.broadcast_to(clusters[0], (9, 8)))
    assert (clusters[0, 6:] == 3).all()


def test_kmeans_distances_are_those_of_lab():
    image = np.ones((3, 4, 6))
    image[2, :, 2:4] = 0.6  # pale yellow is nearer to white than light grey in RGB, but farther in Lab
    image[:, :, 4:] = 0.7
    assert kmeans_clusters(image, 2)[0].tolist() == [1, 1, 2, 2, 1, 1]


def test_kmeans_on_a_sample_agrees_with_all_pixels(monkeypatch):
    image, _ = blob((3, 60, 50), noise=0.05)
    everything = kmeans_clusters(image, 3)
    monkeypatch.setattr("monai_fusenet.transforms.kmeans.KMEANS_PIXELS", 500)
    sampled = kmeans_clusters(image, 2)
    np.testing.assert_array_equal(sampled, kmeans_clusters(image, 2))
    assert sampled.shape == everything.shape
    monkeypatch.undo()
    assert np.mean(sampled == kmeans_clusters(image, 2)) > 0.99


def test_clusters_do_not_touch_the_global_random_state():
    np.random.seed(0)
    expected = np.random.rand()
    np.random.seed(0)
    image, _ = blob((3, 20, 33))
    first = kmeans_clusters(image, 4, seed=3)
    assert np.random.rand() == expected
    np.testing.assert_array_equal(first, kmeans_clusters(image, 4, seed=3))


@pytest.mark.parametrize("cluster", [kmeans_clusters, slic_clusters])
@pytest.mark.parametrize("channels", [1, 3])
def test_constant_image_is_one_cluster_without_a_warning(cluster, channels):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clusters = cluster(np.full((channels, 6, 7), 0.25), 1 if cluster is slic_clusters else 3)
    assert (clusters == 1).all()


def test_fewer_colours_than_clusters():
    image = np.zeros((1, 4, 5))
    image[:, :1] = 1
    assert kmeans_clusters(image, 4).tolist() == [[2] * 5] + [[1] * 5] * 3


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((5, 6)), r"image must have shape \(C, \*spatial\) in 2-D or 3-D, got \(5, 6\)"),
        (np.full((1, 5, 6), 200, np.uint8), r"^image must be float in \[0, 1\], got uint8 from 200 to 200$"),
        (np.full((3, 5, 6), 1.5), r"^image must be float in \[0, 1\], got float64 from 1.5 to 1.5$"),
        (np.full((3, 5, 6), np.nan), r"^image must be float in \[0, 1\], got float64 from nan to nan$"),
    ],
    ids=["no channel", "8 bit", "out of range", "nan"],
)
def test_bad_image_is_named(make, image, message):
    with pytest.raises(ValueError, match=message):
        make(image)


def test_bad_options_are_named():
    image = np.zeros((1, 3, 4))
    with pytest.raises(ValueError, match=r"^polarity must be 'dark' or 'bright', got 'black'$"):
        otsu_mask(image, "black")
    with pytest.raises(ValueError, match=r"^k must be at least 1, got 0$"):
        kmeans_clusters(image, 0)
    with pytest.raises(ValueError, match=r"^k must be at least 1, got -1$"):
        slic_clusters(image, -1)


@pytest.mark.parametrize("cluster", [kmeans_clusters, slic_clusters])
@pytest.mark.parametrize(("channels", "shape"), [(2, (20, 24)), (4, (20, 24)), (3, (12, 10, 8))])
def test_sequences_are_told_apart_though_their_mean_is_the_same(cluster, channels, shape):
    image = np.full((channels, *shape), 0.5)
    image[0, : shape[0] // 2], image[1, : shape[0] // 2] = 0.1, 0.9
    clusters = cluster(image, 2)
    assert len(np.unique(clusters)) == 2
    assert len(np.unique(clusters[: shape[0] // 2])) == len(np.unique(clusters[shape[0] // 2 :])) == 1


def test_clusterings_are_given_the_field_of_view():
    rows, columns = np.indices((60, 75))
    field = np.hypot(rows - 30, columns - 37) < 26
    label = np.hypot(rows - 24, columns - 33) < 9
    image = np.where(label, 0.55, 0.75) * field + np.random.default_rng(0).uniform(0, 0.02, field.shape)
    image = image[None].astype(np.float32)
    choose = ClustersToMaskd(objects=1, polarity="dark").choose

    def dice(**options):
        scored = score_baselines(image, label, choose, **options)
        return {(row["method"], row["level"]): row["dice"] for row in scored}

    without, within = dice(), dice(field=field)
    assert within["2-means", "deployed"] > 0.99
    assert within["SLIC merged to 3", "oracle"] > 0.9
    assert without["2-means", "oracle"] < 0.6  # it parts the picture from what surrounds it
    for method in ("whole image", "centred disk", "Otsu dark"):
        assert within[method, "deployed"] == without[method, "deployed"]
    assert dice(field=np.ones_like(field)) == without


@pytest.mark.parametrize("shape", [(3, 31, 44), (1, 12, 15, 10), (2, 40, 27)])
def test_several_partitions_are_those_made_one_by_one(shape):
    rng = np.random.default_rng(0)
    few = rng.choice([0.1, 0.5, 0.9], shape[1:]) * np.ones(shape)  # three colours for up to five clusters
    field = rng.random(shape[1:]) < 0.8
    for image in (rng.random(shape), few):
        for where in (None, field):
            together = kmeans_partitions(image, (2, 5, 1), 3, where)
            for k, clusters in zip((2, 5, 1), together, strict=True):
                np.testing.assert_array_equal(clusters, kmeans_clusters(image, k, 3, where))
                assert clusters.max() == (min(k, 3) if image is few else k)
