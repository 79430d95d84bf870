"""What several partitions of one image agree on, and how sure that is."""

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation, binary_erosion

from monai_fusenet.transforms import ClustersToMaskd, choose_foreground, kmeans_clusters
from monai_fusenet.transforms.foreground import Rule
from monai_fusenet.transforms.foreground.agreement import agree
from monai_fusenet.transforms.foreground.choice import apply_rule

DARK = {"objects": 1, "polarity": "dark"}


def boxes(shape, *corners):
    """A mask for each box, which is given by its slices."""
    masks = []
    for box in corners:
        mask = np.zeros(shape, dtype=bool)
        mask[box] = True
        masks.append(mask)
    return masks


def two_boxes(shape, dark=0.2, darker=0.1):
    """A bright image with a small box at the centre and another one near the border, and their masks."""
    centre = tuple(slice(side // 3, 2 * side // 3) for side in shape)
    corner = tuple(slice(1, side // 4) for side in shape)
    object_, other = boxes(shape, centre, corner)
    image = np.full((1, *shape), 0.9)
    image[0, object_], image[0, other] = dark, darker
    return image, object_, other


@pytest.mark.parametrize("shape", [(7, 11), (5, 6, 7)])
def test_pixels_of_more_than_half_of_the_votes_are_kept(shape):
    rng = np.random.default_rng(0)
    masks, votes = list(rng.random((3, *shape)) > 0.5), [1.0, 2.0, 4.0]
    # The third has more votes than the two others together; in fours, two of equal votes are not enough.
    np.testing.assert_array_equal(agree(masks, votes, Rule()), masks[2])
    two = [masks[0], masks[0], masks[1], masks[1]]
    np.testing.assert_array_equal(agree(two, [1.0] * 4, Rule()), masks[0] & masks[1])
    np.testing.assert_array_equal(agree(masks[:1], [0.0], Rule(**DARK)), masks[0])


def test_a_mask_without_a_vote_says_nothing():
    empty, full = np.zeros((2, 5, 6), dtype=bool)[0], np.ones((5, 6), dtype=bool)
    np.testing.assert_array_equal(agree([full, empty, empty], [0.1, 0.0, 0.0], Rule()), full)
    assert not agree([full, full], [0.0, 0.0], Rule()).any()


def test_as_many_of_the_largest_parts_are_kept_as_there_are_objects():
    small, middle, large = boxes((9, 20), np.s_[1:3, 1:3], np.s_[1:4, 6:9], np.s_[1:8, 12:19])
    ring = large.copy()
    ring[4, 15] = False
    masks = [small | middle | ring] * 2
    np.testing.assert_array_equal(agree(masks, [1, 1], Rule(objects=1)), large)
    np.testing.assert_array_equal(agree(masks, [1, 1], Rule(objects=2)), middle | large)
    np.testing.assert_array_equal(agree(masks, [1, 1], Rule(objects=2, fill_holes=False)), middle | ring)
    np.testing.assert_array_equal(agree(masks, [1, 1], Rule()), masks[0])


def test_one_object_becomes_convex_and_of_two_that_touch_none():
    corner = np.zeros((8, 9), dtype=bool)
    corner[1:7, 1:3] = corner[5:7, 1:8] = True  # an L
    hull = agree([corner] * 2, [1, 1], Rule(objects=1, convex=True))
    assert hull[3, 4]
    assert hull.sum() > corner.sum()
    np.testing.assert_array_equal(agree([corner] * 2, [1, 1], Rule(objects=2, convex=True)), corner)


@pytest.mark.parametrize("shape", [(41, 53), (17, 21, 19)])
def test_one_bad_partition_is_outvoted(shape):
    image, object_, other = two_boxes(shape)
    wrong = np.where(other, 2, 1)  # clusters in which the object does not occur
    np.testing.assert_array_equal(choose_foreground(wrong, image, **DARK)[0], other)
    choice = apply_rule(Rule(**DARK), wrong, image, partitions=[2, 3])
    np.testing.assert_array_equal(choice.mask, object_)
    # The candidates are those of a partition that found it.
    assert choice.regions[0].fraction == pytest.approx(object_.mean())
    assert 0 < choice.confidence < 1


def test_confidence_is_the_mean_dice_with_the_mask_by_votes():
    image, object_, other = two_boxes((41, 53))
    wrong = np.where(other, 2, 1)
    lost = choose_foreground(wrong, image, **DARK)[1][0].score
    found = [choose_foreground(kmeans_clusters(image, k), image, **DARK)[1][0].score for k in (2, 3)]
    confidence = apply_rule(Rule(**DARK), wrong, image, partitions=[2, 3]).confidence
    assert confidence == pytest.approx(sum(found) / (2 * lost + sum(found)))  # the Dice of 0, twice, and of 1
    right = np.where(object_, 2, 1)
    assert apply_rule(Rule(**DARK), right, image, partitions=[2, 3]).confidence == 1


def test_without_partitions_all_is_as_by_the_clusters_alone():
    image, object_, _ = two_boxes((41, 53))
    clusters = np.where(object_, 2, 1)
    mask, regions = choose_foreground(clusters, image, **DARK)
    choice = apply_rule(Rule(**DARK), clusters, image)
    np.testing.assert_array_equal(choice.mask, mask)
    assert (choice.regions, choice.confidence) == (regions, None)


@pytest.mark.parametrize("image", [np.full((1, 9, 11), 0.5), np.zeros((3, 1, 1)), np.full((1, 5, 6, 7), 1.0)])
def test_nobody_is_sure_of_an_image_without_an_object(image):
    choice = apply_rule(Rule(**DARK), np.ones(image.shape[1:], dtype=int), image, partitions=[2, 3, 4])
    assert (choice.mask.any(), choice.regions, choice.confidence) == (False, [], None)


def test_a_thin_field_that_the_smaller_grid_misses_holds_nothing():
    field = np.zeros((2000, 2000), dtype=bool)
    field[::1999, 0] = field[0, ::1999] = True
    image = np.random.default_rng(0).random((1, 2000, 2000))
    choice = apply_rule(Rule(**DARK), np.ones(field.shape, dtype=int), image, field, [2])
    assert (choice.mask.any(), choice.confidence) == (False, None)


def test_nothing_is_drawn_outside_the_field():
    image, object_, _ = two_boxes((41, 53))
    field = np.zeros((41, 53), dtype=bool)
    field[4:30, 4:40] = True
    choice = apply_rule(Rule(**DARK), np.where(object_, 2, 1), image, field, [2, 3])
    assert choice.mask.any()
    assert not choice.mask[~field].any()


@pytest.mark.parametrize("shape", [(900, 700), (90, 71, 80)])
@pytest.mark.parametrize("options", [{}, {"refinement": 0.02}, {"convex": True}])
def test_a_large_image_gets_a_contour_of_its_own(shape, options):
    image, object_, _ = two_boxes(shape, darker=0.8)
    choice = apply_rule(Rule(**DARK, **options), np.where(object_, 2, 1), image, partitions=[2, 3])
    # Nowhere is it more than a pixel of the smaller grid away.
    assert not (binary_erosion(object_, iterations=2) & ~choice.mask).any()
    assert not (choice.mask & ~binary_dilation(object_, iterations=2)).any()


def test_the_transform_hands_on_mask_candidates_and_confidence():
    image, object_, other = two_boxes((41, 53))
    sample = {"clusters": torch.from_numpy(np.where(other, 2, 1)).unsqueeze(0), "image": torch.from_numpy(image)}
    alone = ClustersToMaskd(**DARK)(sample)
    agreed = ClustersToMaskd(**DARK, partitions=[2, 3])(sample)
    np.testing.assert_array_equal(alone["pred"][0].numpy() > 0, other)
    np.testing.assert_array_equal(agreed["pred"][0].numpy() > 0, object_)
    assert alone["confidence"] is None
    assert 0 < agreed["confidence"] < 1
    assert agreed["regions"][0].fraction == pytest.approx(object_.mean())


def test_baselines_are_chosen_by_their_clusters_alone_and_all_agree_where_asked():
    image, object_, other = two_boxes((41, 53))
    clusters = np.where(other, 2, 1)
    rule = ClustersToMaskd(**DARK, partitions=[2, 3])
    np.testing.assert_array_equal(rule.choose(clusters, image), other)
    np.testing.assert_array_equal(rule.agree(clusters, image), object_)


@pytest.mark.parametrize("partitions", [3, "23", None, [1], [2, 2], [True, 2], [2.0], {"k": 2}])
def test_partitions_that_are_no_list_of_numbers_are_refused(partitions):
    message = "partitions must be a list of different whole numbers of at least 2, as .2,3,4., got "
    with pytest.raises(ValueError, match=message):
        ClustersToMaskd(partitions=partitions)
