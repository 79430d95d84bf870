import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_fusenet.transforms import ClustersToMaskd, Region, choose_foreground
from monai_fusenet.transforms.foreground import Rule
from monai_fusenet.transforms.foreground import choice as foreground
from monai_fusenet.transforms.morphology import convex_hulls


def ball(shape, centre, radius):
    """A disk or a ball."""
    grid = np.ogrid[tuple(slice(0, side) for side in shape)]
    return sum((axis - position) ** 2 for axis, position in zip(grid, centre, strict=True)) <= radius**2


def draw(shape, *regions, ground=0.5):
    """Clusters (1: ground, then one for each region) and a grey image of the given values."""
    clusters, image = np.ones(shape, dtype=np.uint8), np.full((1, *shape), ground)
    for label, (region, value) in enumerate(regions, start=2):
        clusters[region] = label
        image[0, region] = value
    return clusters, image


SKIN = (41, 53)


@pytest.fixture
def lesion():
    """A dark disk in the centre of bright skin with dark corners, as a dermatoscope leaves them."""
    disk = ball(SKIN, (20, 26), 9)
    corners = ~ball(SKIN, (20, 26), 29)
    clusters, image = draw(SKIN, (disk, 0.2), (corners, 0.0), ground=0.8)
    return clusters, image, disk


@pytest.mark.parametrize("objects", [None, 1])
@pytest.mark.parametrize("polarity", ["dark", "any"])
def test_a_dark_disk_in_the_centre(lesion, objects, polarity):
    clusters, image, disk = lesion
    mask, regions = choose_foreground(clusters, image, objects=objects, polarity=polarity)
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, disk)
    assert [region.chosen for region in regions] == [True] + [False] * (len(regions) - 1)
    region = regions[0]
    assert isinstance(region, Region)
    assert region.fraction == pytest.approx(disk.mean())
    assert region.border == 0
    assert region.contrast == pytest.approx(0.8 - 0.2)
    assert 0.25 < region.centre < 0.5
    assert region.score == pytest.approx(region.contrast * region.centre)


def test_an_inverted_image_is_bright_where_it_was_dark(lesion):
    clusters, image, _ = lesion
    dark = choose_foreground(clusters, image, polarity="dark")
    bright = choose_foreground(clusters, 1 - image, polarity="bright")
    np.testing.assert_array_equal(dark[0], bright[0])
    assert dark[1][0] == pytest.approx(bright[1][0])


# Five columns: centres at -0.4, -0.2, 0, 0.2 and 0.4 of the side; deviation 0.25.
CENTRE_PRIOR = np.exp(-((np.array([-0.4, -0.2, 0, 0.2, 0.4]) / 0.25) ** 2) / 2)


@pytest.mark.parametrize("centre_weight", [0.0, 1.0, 2.0])
def test_the_centre_prior_by_hand(centre_weight):
    clusters, image = np.array([[1, 2, 2, 1, 1]]), np.array([[[0.0, 0.5, 0.5, 0.0, 0.0]]])
    _, regions = choose_foreground(clusters, image, polarity="bright", centre_weight=centre_weight, border_weight=0)
    share = CENTRE_PRIOR[1:3].sum() / CENTRE_PRIOR.sum()
    assert regions[0].centre == pytest.approx(share)
    assert regions[0].score == pytest.approx(0.5 * share**centre_weight)


def test_centre_shares_add_up():
    # Every region differs from its surroundings, but for the largest possible sum no hole may count twice.
    clusters = np.random.default_rng(0).integers(1, 3, (7, 5))
    image = clusters[None] / 3
    _, regions = choose_foreground(
        clusters, image, objects=35, min_fraction=1 / 35, max_fraction=1, border_weight=0, fill_holes=False
    )
    for name in ("fraction", "centre"):
        assert sum(getattr(region, name) for region in regions) == pytest.approx(1)


@pytest.mark.parametrize("border_weight", [0.0, 1.0, 2.0])
def test_touching_the_border_lowers_the_score(border_weight):
    # A 5 x 8 image has 22 border pixels; the bright stripe has 5 + 2 of them, and 5 + 5 pixels of outline.
    clusters = np.ones((5, 8), dtype=int)
    clusters[:, :2] = 2
    image = np.where(clusters == 2, 0.7, 0.2)[None]
    _, regions = choose_foreground(clusters, image, polarity="bright", centre_weight=0, border_weight=border_weight)
    assert regions[0].border == pytest.approx(7 / 10)
    assert regions[0].score == pytest.approx(0.5 * 0.3**border_weight)


def test_a_large_thing_is_measured_by_the_border_and_a_small_one_by_its_outline():
    # Rows 0 to 6 of 8 x 6 pixels: 6 + 2 * 6 of the 24 border pixels, and of the 22 pixels of its outline.
    clusters = np.ones((8, 6), dtype=int)
    clusters[:7] = 2
    _, regions = choose_foreground(clusters, clusters[None] / 2, max_fraction=1)
    assert regions[0].border == pytest.approx(18 / 22)
    # A frame with an opening: 23 of 24 border pixels.
    frame = np.ones((8, 6), dtype=int)
    frame[1:-1, 1:-1] = frame[7, 3] = 2
    _, regions = choose_foreground(frame, frame[None] / 2, objects=1, polarity="dark", fill_holes=False)
    assert regions == []  # nothing but border


def test_contrast_is_taken_against_a_ring():
    # Mean side 50, so a ring of 2 pixels: the bright far away does not count.
    disk, surroundings = ball((45, 55), (22, 27), 8), ball((45, 55), (22, 27), 10.5)
    clusters, image = draw((45, 55), (disk, 0.2), ground=1.0)
    image[0, surroundings & ~disk] = 0.3
    _, regions = choose_foreground(clusters, image, objects=1, polarity="dark")
    assert regions[0].contrast == pytest.approx(0.1, abs=0.01)


def test_a_region_of_the_other_polarity_comes_last():
    clusters, image = draw((30, 37), (ball((30, 37), (15, 12), 5), 0.1), (ball((30, 37), (15, 30), 3), 0.9))
    for polarity, label in (("dark", 2), ("bright", 3)):
        mask, regions = choose_foreground(clusters, image, polarity=polarity)
        np.testing.assert_array_equal(mask, clusters == label)
        assert regions[0].contrast == pytest.approx(0.4)


def test_two_lungs_of_equal_size():
    shape = (48, 63)
    left, right = ball(shape, (24, 16), 10), ball(shape, (24, 46), 10)
    speck = ball(shape, (6, 31), 2)  # dark as well, but smaller and off the centre
    clusters, image = draw(shape, (left | right, 0.1), (speck, 0.1), ground=0.7)
    mask, regions = choose_foreground(clusters, image, objects=2, polarity="dark")
    np.testing.assert_array_equal(mask, left | right)
    assert [region.fraction for region in regions] == [left.mean(), right.mean()]


def test_two_lungs_that_are_clusters_of_their_own():
    shape = (48, 63)
    left, right = ball(shape, (24, 16), 10), ball(shape, (24, 46), 10)
    clusters, image = draw(shape, (left, 0.1), (right, 0.12), ground=0.7)
    np.testing.assert_array_equal(choose_foreground(clusters, image, objects=2)[0], left | right)
    assert choose_foreground(clusters, image, objects=1)[0].sum() == left.sum()


def test_any_number_of_bright_blobs_of_one_cluster():
    shape = (50, 61)
    blobs = np.zeros(shape, dtype=bool)
    for centre in [(10, 12), (12, 40), (27, 25), (38, 50), (40, 8)]:
        blobs |= ball(shape, centre, 4)
    clusters, image = draw(shape, (blobs, 0.9), ground=0.2)
    mask, regions = choose_foreground(clusters, image, polarity="bright")
    np.testing.assert_array_equal(mask, blobs)
    assert len(regions) == 1
    mask, regions = choose_foreground(clusters, image, objects=3, polarity="bright")
    assert mask.sum() == 3 * ball(shape, (10, 12), 4).sum()
    assert [region.chosen for region in regions] == [True, True, True, False, False]
    scores = [region.score for region in regions]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("shape", [(41, 53), (31, 27, 29)])
def test_an_object_of_several_clusters(shape):
    centre = tuple(side // 2 for side in shape)
    lesion, core = ball(shape, centre, 10), ball(shape, centre, 6)
    gap = np.zeros(shape, dtype=bool)
    gap[(slice(0, centre[0]), *centre[1:])] = True  # so that filling the holes of the rim does not include the core
    clusters, image = draw(shape, (lesion & ~gap, 0.4), (core, 0.2), ground=0.8)
    mask, regions = choose_foreground(clusters, image, objects=1, polarity="dark", fill_holes=False)
    np.testing.assert_array_equal(mask, lesion & ~gap | core)
    # The rim alone, the core alone, both, and what both leave of the image; no region is chosen that overlaps another.
    assert [region.chosen for region in regions] == [True, *[False] * (len(regions) - 1)]
    pair, regions = choose_foreground(clusters, image, objects=2, polarity="dark", fill_holes=False)
    np.testing.assert_array_equal(pair, mask)
    assert sum(region.chosen for region in regions) == 1


def test_fewer_objects_than_asked_for():
    clusters, image = draw((30, 37), (ball((30, 37), (15, 18), 6), 0.1))
    mask, regions = choose_foreground(clusters, image, objects=5, max_fraction=0.5)
    assert len(regions) == 1
    np.testing.assert_array_equal(mask, clusters == 2)


def test_a_ball_in_a_volume():
    shape = (17, 21, 13)
    inside = ball(shape, (8, 10, 6), 4)
    clusters, image = draw(shape, (inside, 0.9), ground=0.3)
    for objects in (None, 1):
        mask, regions = choose_foreground(clusters, image, objects=objects, polarity="bright")
        np.testing.assert_array_equal(mask, inside)
        assert regions[0].contrast == pytest.approx(0.6)
        assert regions[0].border == 0


@pytest.mark.parametrize("fill_holes", [True, False])
def test_holes_are_filled_on_request(fill_holes):
    shape = (30, 37)
    disk, hole = ball(shape, (15, 18), 9), ball(shape, (15, 18), 3)
    clusters, image = draw(shape, (disk, 0.1), (hole, 0.9), ground=0.6)
    mask, _ = choose_foreground(clusters, image, objects=1, polarity="dark", fill_holes=fill_holes)
    np.testing.assert_array_equal(mask, disk if fill_holes else disk & ~hole)


def test_nothing_of_an_allowed_size():
    clusters, image = draw((20, 31), (ball((20, 31), (10, 15), 1), 0.1))
    mask, regions = choose_foreground(clusters, image, min_fraction=0.05)
    assert mask.shape == (20, 31)
    assert not mask.any()
    assert regions == []


def test_sizes_at_the_limits_are_allowed():
    clusters = np.repeat([1, 2, 2, 2], 5).reshape(4, 5)
    image = clusters[None] / 2
    assert choose_foreground(clusters, image, min_fraction=0.75, max_fraction=0.75)[0].sum() == 15
    # All of it is border.
    assert choose_foreground(clusters, image, min_fraction=0.25, max_fraction=0.25, border_weight=0)[0].sum() == 5
    assert not choose_foreground(clusters, image, min_fraction=0.76)[0].any()


@pytest.mark.parametrize("objects", [None, 2])
def test_without_a_least_size_there_are_no_empty_candidates(objects):
    clusters = np.array([[1, 1, 1, 1], [1, 3, 1, 1], [1, 1, 1, 1]])
    image = np.where(clusters == 3, 0.2, 0.8)[None]
    mask, regions = choose_foreground(clusters, image, objects=objects, min_fraction=0)
    np.testing.assert_array_equal(mask, clusters == 3)
    assert len(regions) == 1


def test_one_cluster_all_over():
    clusters, image = draw((20, 31))
    mask, regions = choose_foreground(clusters, image, max_fraction=1)
    assert not mask.any()  # there is nothing around it that it could differ from
    assert regions == []


def test_label_0_is_a_cluster_like_others():
    clusters, image = draw((30, 37), (ball((30, 37), (15, 18), 7), 0.1))
    expected, _ = choose_foreground(clusters, image)
    np.testing.assert_array_equal(choose_foreground(clusters.max() - clusters.astype(int), image)[0], expected)


def test_colours_count_by_their_mean():
    disk = ball((30, 37), (15, 18), 7)
    clusters, image = draw((30, 37), (disk, 0.2), ground=0.8)
    rgb = np.concatenate([image, image, np.full_like(image, 0.5)])
    _, regions = choose_foreground(clusters, rgb, objects=1)
    assert regions[0].contrast == pytest.approx(0.6 * 2 / 3)


def test_the_inputs_stay_as_they_are(lesion):
    clusters, image, _ = lesion
    before = clusters.copy(), image.copy()
    choose_foreground(clusters, image, objects=2)
    np.testing.assert_array_equal(clusters, before[0])
    np.testing.assert_array_equal(image, before[1])


def test_clusters_and_image_of_different_shape():
    with pytest.raises(ValueError, match=r"^clusters and image must have the same shape, got \(5, 7\) and \(7, 5\)$"):
        choose_foreground(np.ones((5, 7), int), np.zeros((1, 7, 5)))


def test_an_unknown_polarity():
    with pytest.raises(ValueError, match=r'^polarity must be "dark", "bright" or "any", got "black"$'):
        choose_foreground(np.ones((5, 7), int), np.zeros((1, 5, 7)), polarity="black")


# In a pipeline.


def test_the_mask_stands_beside_the_clusters(lesion):
    clusters, image, disk = lesion
    sample = {
        "clusters": MetaTensor(torch.from_numpy(clusters).unsqueeze(0), meta={"filename_or_obj": "a.png"}),
        "image": MetaTensor(torch.from_numpy(image)),
    }
    result = ClustersToMaskd(polarity="dark")(sample)
    mask = result["pred"]
    assert set(sample) == {"clusters", "image"}
    assert result["regions"] == choose_foreground(clusters, image, polarity="dark")[1]
    assert mask.dtype == torch.uint8
    assert mask.shape == (1, *SKIN)
    np.testing.assert_array_equal(np.asarray(mask)[0], disk)
    assert mask.meta["filename_or_obj"] == "a.png"


def test_plain_tensors_and_keys_of_the_users_own(lesion):
    clusters, image, disk = lesion
    sample = {"labels": torch.from_numpy(clusters).unsqueeze(0), "picture": torch.from_numpy(image)}
    mask = ClustersToMaskd("labels", mask_key="mask", image_key="picture", objects=1)(sample)["mask"]
    assert type(mask) is torch.Tensor
    np.testing.assert_array_equal(mask.numpy()[0], disk)


@pytest.mark.parametrize(("shape", "working_size"), [((40, 54), (20, 18)), ((12, 20, 16), (6, 10, 4))])
def test_the_image_may_have_another_resolution(shape, working_size):
    inside = ball(shape, [side / 2 for side in shape], min(shape) / 3)
    clusters, image = draw(shape, (inside, 0.1), ground=0.8)
    steps = [side // size for side, size in zip(shape, working_size, strict=True)]
    small = image[(slice(None), *(slice(step // 2, None, step) for step in steps))]
    assert small.shape == (1, *working_size)
    sample = {"clusters": torch.from_numpy(clusters).unsqueeze(0), "image": torch.from_numpy(small)}
    mask = ClustersToMaskd(polarity="dark")(sample)["pred"]
    np.testing.assert_array_equal(mask.numpy()[0], inside)


def test_options_reach_the_rule():
    rule = {
        "objects": 2,
        "polarity": "dark",
        "centre_weight": 0.1,
        "border_weight": 0.2,
        "min_fraction": 0.01,
        "max_fraction": 0.5,
        "fill_holes": False,
        "margin": 0.1,
        "opening": 0.05,
        "refinement": 0.02,
        "convex": True,
        "growth": 0.03,
    }
    assert ClustersToMaskd(**rule).rule == Rule(**rule)


@pytest.mark.parametrize("shape", [(41, 53), (17, 21, 19)])
def test_a_frame_of_the_same_cluster_does_not_hide_the_object(shape):
    # As zeros beyond the border make a network see one there.
    centre = tuple(side // 2 for side in shape)
    lesion = ball(shape, centre, min(shape) // 4)
    frame = np.ones(shape, bool)
    frame[tuple(slice(1, -1) for _ in shape)] = False
    clusters = np.where(lesion | frame, 2, 1)
    mask, regions = choose_foreground(clusters, np.where(lesion, 0.2, 0.8)[None])
    np.testing.assert_array_equal(mask, lesion)
    assert sum(region.chosen for region in regions) == 1


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"convex": 1}, "convex must be True or False, got 1"),
        ({"margin": 0.5}, "margin must be a finite number from 0 to 0.4, got 0.5"),
        ({"opening": -0.1}, "opening must be a finite number from 0 to 0.4, got -0.1"),
        ({"refinement": 1}, "refinement must be a finite number from 0 to 0.4, got 1"),
        ({"growth": 0.5}, "growth must be a finite number from 0 to 0.4, got 0.5"),
        ({"objects": 0}, "objects must be None or a whole number of at least 1, got 0"),
        ({"centre_weight": "abc"}, "centre_weight must be a finite number of at least 0, got abc"),
        ({"border_weight": float("nan")}, "border_weight must be a finite number of at least 0, got nan"),
        ({"max_fraction": 1.5}, "max_fraction must be a finite number from 0 to 1, got 1.5"),
        ({"fill_holes": "no"}, "fill_holes must be True or False, got no"),
    ],
)
def test_options_that_make_no_sense(option, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        ClustersToMaskd(**option)


@pytest.mark.parametrize("shape", [(40, 60), (20, 30, 40)])
def test_nothing_is_looked_for_in_the_margin(shape):
    # Darker than the lesion and larger, but at the border.
    lesion = ball(shape, tuple(side // 2 for side in shape), 4)
    band = np.zeros(shape, bool)
    band[:4] = True
    clusters = np.where(lesion, 2, np.where(band, 3, 1))
    image = np.where(lesion, 0.4, np.where(band, 0.0, 0.8))[None]
    options = {"objects": 1, "polarity": "dark", "centre_weight": 0.0, "border_weight": 0.0, "min_fraction": 0.0}
    np.testing.assert_array_equal(choose_foreground(clusters, image, **options)[0], band)
    np.testing.assert_array_equal(choose_foreground(clusters, image, margin=0.2, **options)[0], lesion)


@pytest.mark.parametrize("shape", [(41, 61), (31, 33, 25)])
def test_a_bridge_is_cut_where_it_is_thinner_than_the_opening(shape):
    centre = tuple(side // 2 for side in shape)
    lesion = ball(shape, centre, 8)
    ink = np.zeros(shape, bool)
    ink[:3] = True
    bridge = np.zeros(shape, bool)
    bridge[(slice(0, centre[0]), *centre[1:])] = True  # one pixel wide
    clusters = np.where(lesion | ink | bridge, 2, 1)
    image = np.where(clusters == 2, 0.2, 0.8)[None]
    joined = choose_foreground(clusters, image, objects=1, polarity="dark")[0]
    np.testing.assert_array_equal(joined, clusters == 2)
    cut = choose_foreground(clusters, image, objects=1, polarity="dark", opening=2 / np.mean(shape))[0]
    assert not cut[0].any()
    # All of the lesion but for corners of its outline, and a stump of the bridge.
    assert (cut & lesion).sum() > 0.95 * lesion.sum()
    assert (cut & ~lesion).sum() <= 3


def test_what_is_thinner_than_the_opening_stays_as_it_is():
    stripes = np.broadcast_to(1 + np.arange(30) // 3 % 2, (20, 30))
    uncut = choose_foreground(stripes, stripes[None] / 2, objects=1)
    cut = choose_foreground(stripes, stripes[None] / 2, objects=1, opening=0.4)
    np.testing.assert_array_equal(cut[0], uncut[0])
    assert cut[1] == uncut[1]


def test_bridges_narrower_than_the_opening_are_cut_at_their_own_width():
    # Three squares in a row with a bridge of 3 and one of 9 pixels between them, all of one cluster.
    clusters = np.ones((41, 121), dtype=np.uint8)
    for start in (5, 50, 95):
        clusters[10:31, start : start + 21] = 2
    clusters[19:22, 26:50] = 2
    clusters[16:25, 71:95] = 2
    image = np.where(clusters == 2, 0.2, 0.8)[None]
    _, regions = choose_foreground(clusters, image, objects=1, polarity="dark", opening=6 / 81, fill_holes=False)
    sizes = sorted({round(region.fraction * clusters.size / 21**2) for region in regions})
    # Each square; two with the wide bridge between them (one and a bit more than two squares); all three together.
    assert sizes == [1, 2, 3, 4]


@pytest.mark.parametrize("shape", [(61, 53), (41, 37, 33), (900, 700)])
def test_outlines_are_moved_outwards(shape):
    centre, side = tuple(side // 2 for side in shape), np.mean(shape)
    disk, generous = (ball(shape, centre, radius * side) for radius in (0.2, 0.25))
    clusters, image = draw(shape, (disk, 0.2), ground=0.8)
    mask, regions = choose_foreground(clusters, image, polarity="dark", growth=0.05)
    assert (mask ^ generous).sum() < 0.1 * generous.sum()
    assert regions[0].fraction == pytest.approx(disk.mean(), rel=0.03)
    assert not choose_foreground(*draw(shape), growth=0.05)[0].any()


@pytest.mark.parametrize("shape", [(40, 50), (20, 25, 30)])
def test_the_contour_moves_to_where_the_grey_values_part(shape):
    centre = tuple(side // 2 for side in shape)
    blob, generous = ball(shape, centre, 5), ball(shape, centre, 7)
    image = np.where(blob, 0.9, 0.1)[None]
    clusters = np.where(generous, 2, 1)
    np.testing.assert_array_equal(choose_foreground(clusters, image, polarity="bright")[0], generous)
    refined = choose_foreground(clusters, image, polarity="bright", refinement=4 / np.mean(shape))[0]
    np.testing.assert_array_equal(refined, blob)
    # It may not move further than asked for.
    a_step = choose_foreground(clusters, image, polarity="bright", refinement=1 / np.mean(shape))[0]
    assert blob.sum() < a_step.sum() < generous.sum()


@pytest.mark.parametrize("shape", [(30, 40), (12, 14, 16)])
def test_each_part_becomes_convex(shape):
    # Two boxes with a notch each; hulls of both together would meet.
    parts, notched = np.zeros(shape, bool), np.zeros(shape, bool)
    for start in (1, shape[1] // 2 + 1):
        parts[4:10, start : start + 4] = True
        notched[4:10, start : start + 4] = True
        notched[6:8, start : start + 2] = False
    clusters, image = np.where(notched, 2, 1), np.where(notched, 0.2, 0.8)[None]
    options = {"objects": 2, "polarity": "dark", "border_weight": 0.0}
    np.testing.assert_array_equal(choose_foreground(clusters, image, **options)[0], notched)
    np.testing.assert_array_equal(choose_foreground(clusters, image, convex=True, **options)[0], parts)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 2), (1, 5, 6)])
def test_sides_of_a_pixel_or_two(shape):
    clusters = np.arange(np.prod(shape)).reshape(shape) % 2
    mask, _ = choose_foreground(clusters, clusters[None] / 2, margin=0.4, opening=0.1, refinement=0.4, convex=True)
    assert mask.shape == shape


# Large images are judged on a smaller grid.

LARGE = {2: (700, 391), 3: (90, 71, 80)}


@pytest.mark.parametrize(
    "options", [{}, {"objects": 1}, {"fill_holes": False, "centre_weight": 0}, {"refinement": 0.02}, {"convex": True}]
)
@pytest.mark.parametrize("axes", [2, 3])
def test_a_large_image_gets_a_contour_of_its_own(axes, options):
    shape = LARGE[axes]
    outer, inner = (ball(shape, [side / 2 for side in shape], radius * min(shape)) for radius in (0.3, 0.1))
    clusters, image = draw(shape, (outer & ~inner, 0.2), ground=0.8)
    mask, regions = choose_foreground(clusters, image, polarity="dark", **options)
    truth = outer & ~inner if options.get("fill_holes") is False else outer
    assert regions[0].fraction == pytest.approx(truth.mean(), rel=0.05)
    # Hulls are as smooth as the smaller grid.
    assert (mask ^ truth).sum() <= (0.1 if options.get("convex") else 0.001) * truth.sum()


def test_a_large_image_in_which_nothing_is_found():
    clusters, image = draw(LARGE[2])
    for options in ({}, {"refinement": 0.02}, {"convex": True}):
        assert not choose_foreground(clusters, image, **options)[0].any()


def test_a_large_image_takes_no_longer_than_its_smaller_grid(monkeypatch):
    shapes = []
    judge = foreground._choose
    monkeypatch.setattr(
        foreground, "_choose", lambda clusters, *rule: shapes.append(clusters.shape) or judge(clusters, *rule)
    )
    choose_foreground(*draw((1000, 2000)))
    choose_foreground(*draw((256, 512)))
    assert shapes == [(256, 512), (256, 512)]


def test_hulls_of_each_part():
    mask = np.zeros((9, 12), dtype=bool)
    mask[1:6, 1] = mask[5, 1:6] = True  # the legs of a triangle
    mask[7, 8:11] = True
    rows, columns = np.ogrid[:9, :12]
    triangle = (rows >= 1) & (rows <= 5) & (columns >= 1) & (columns <= rows)
    hulls = convex_hulls(mask)
    np.testing.assert_array_equal(hulls[:7], triangle[:7])
    np.testing.assert_array_equal(hulls[7:], mask[7:])
