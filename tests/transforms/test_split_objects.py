"""Masks cut into objects: drawn shapes of known number, in 2-D and 3-D, on grids of any pixel."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_fusenet.metrics import compute_object_precision
from monai_fusenet.transforms import MaskToObjectsd, split_objects


def drawn(shape, objects, spacing=None):
    """Label map of ellipses (centre, radii), in units of the spacing; later ones over earlier ones."""
    sides = np.ones(len(shape)) if spacing is None else np.asarray(spacing)
    places = np.moveaxis(np.indices(shape), 0, -1) * sides
    labels = np.zeros(shape, int)
    for number, (centre, radii) in enumerate(objects, start=1):
        labels[(((places - centre) / radii) ** 2).sum(-1) <= 1] = number
    return labels


def average_precision(found, true, threshold):
    pair = (torch.from_numpy(labels)[None, None] for labels in (found, true))
    return compute_object_precision(*pair, thresholds=[threshold]).item()


SCENES = {
    "two discs that touch": ((61, 83), [((30, 25), 14), ((31, 52), 14)]),
    "a small disc at a large one": ((71, 93), [((35, 33), 24), ((35, 64), 9)]),
    "a row of three, and one apart": ((53, 121), [((20, 18), 12), ((21, 40), 12), ((20, 62), 12), ((35, 100), 13)]),
    "four in a square": ((67, 71), [((20, 20), 13), ((20, 45), 13), ((45, 20), 13), ((45, 45), 13)]),
    "ellipses side by side": ((67, 89), [((33, 15), (26, 10)), ((35, 37), (24, 11)), ((33, 61), (20, 12))]),
    "ellipses of different sizes": ((91, 99), [((22, 34), (12, 26)), ((44, 34), (10, 20)), ((56, 73), (8, 18))]),
    "cut off by the image": ((40, 57), [((0, 10), 14), ((1, 36), 14), ((40, 28), 15)]),
    "one disc": ((33, 47), [((16, 20), 12)]),
    "one long ellipse": ((31, 97), [((15, 48), (7, 45))]),
    "balls that touch": ((31, 37, 59), [((15, 18, 16), 13), ((15, 18, 40), 13)]),
    "three balls of different sizes": ((41, 43, 67), [((20, 21, 18), 16), ((20, 21, 42), 10), ((20, 21, 59), 8)]),
}


@pytest.mark.parametrize("scene", SCENES)
def test_drawn_objects_are_found_one_to_one(scene):
    true = drawn(*SCENES[scene])
    found = split_objects(true > 0)
    assert found.max() == len(SCENES[scene][1])
    assert average_precision(found, true, 0.75) == 1
    np.testing.assert_array_equal(found > 0, true > 0)  # nothing is lost, no line is drawn


@pytest.mark.parametrize("factor", [2, 3])
def test_the_number_of_pixels_makes_no_difference(factor):
    shape, objects = SCENES["ellipses of different sizes"]
    larger = [(np.multiply(centre, factor), np.multiply(radii, factor)) for centre, radii in objects]
    true = drawn(np.multiply(shape, factor), larger)
    assert average_precision(split_objects(true > 0), true, 0.75) == 1


def test_many_discs_of_a_rough_outline():
    rng = np.random.default_rng(0)
    centres = [(22 + 26 * row + 13 * (column % 2), 20 + 27 * column) for row in range(5) for column in range(6)]
    true = drawn((173, 179), [(centre, rng.uniform(11, 14)) for centre in centres])
    edge = (rng.random(true.shape) < 0.25) & (true > 0) & (np.roll(true, 1, 0) * np.roll(true, -1, 1) == 0)
    found = split_objects((true > 0) & ~edge)
    assert found.max() == 30
    assert average_precision(found, true, 0.6) == 1


SPACING = (3.0, 1.0, 1.0)  # thick slices


def test_thick_slices_are_measured_in_millimetres():
    true = drawn((20, 47, 83), [((28, 23, 22), 18), ((28, 23, 56), 18)], SPACING)
    found = split_objects(true > 0, SPACING)
    assert found.max() == 2
    assert average_precision(found, true, 0.75) == 1
    one_below_the_other = drawn((29, 45, 47), [((24, 22, 23), 20), ((62, 22, 23), 20)], SPACING)
    assert split_objects(one_below_the_other > 0, SPACING).max() == 2
    # A slice is as thick as three pixels: measured in voxels, a flat disc is a ball, and has no neck.
    assert average_precision(split_objects(one_below_the_other > 0, SPACING), one_below_the_other, 0.75) == 1


def test_a_ring_is_one_object():
    distance = np.hypot(*(np.indices((57, 61)) - np.array([[[28]], [[30]]])))
    ring = (distance > 13) & (distance < 24)
    np.testing.assert_array_equal(split_objects(ring), ring)


def test_spacing_of_any_unit():
    mask = drawn((20, 47, 83), [((28, 23, 22), 18), ((28, 23, 56), 18)], SPACING) > 0
    metres = split_objects(mask, [side / 1000 for side in SPACING])
    np.testing.assert_array_equal(metres, split_objects(mask, SPACING))


def test_debris_is_no_object_and_a_small_object_is():
    true = drawn((81, 101), [((25, 25), 18), ((25, 75), 18), ((60, 30), 8), ((60, 60), 3)])
    found = split_objects(true > 0)
    assert found.max() == 3
    assert not found[true == 4].any()
    assert found[true == 3].all()


def test_a_fragment_joins_the_larger_neighbour():
    true = drawn((61, 83), [((30, 25), 14), ((31, 52), 14), ((13, 25), 4)])
    assert (true == 3).any()
    found = split_objects(true > 0)
    assert found.max() == 2
    assert set(found[true == 3]) == set(found[true == 1])


@pytest.mark.parametrize("shape", [(5, 8), (1, 7), (9, 1), (1, 1), (4, 3, 6), (1, 5, 7)])
def test_empty_full_and_single_pixels(shape):
    assert split_objects(np.zeros(shape)).max() == 0
    np.testing.assert_array_equal(split_objects(np.full(shape, 255, np.uint8)), np.ones(shape))
    single = np.zeros(shape)
    single[tuple(side // 2 for side in shape)] = 1
    np.testing.assert_array_equal(split_objects(single), single)


def test_objects_are_numbered_as_they_come():
    true = drawn((41, 63), [((30, 10), 8), ((10, 50), 8), ((10, 12), 8)])
    found = split_objects(true > 0)
    assert found.dtype == np.int32
    assert [found[10, 12], found[10, 50], found[30, 10]] == [1, 2, 3]
    assert set(np.unique(found)) == {0, 1, 2, 3}


@pytest.mark.parametrize("spacing", [(1, 1, 1), (1,), (0, 1), (-1, 1), (np.nan, 1)])
def test_a_spacing_that_does_not_fit(spacing):
    with pytest.raises(ValueError, match=r"^spacing must have 2 values above 0, one per axis, got \(.*\)$"):
        split_objects(np.ones((4, 5)), spacing)


def test_the_transform_keeps_the_mask_and_its_place():
    affine = torch.diag(torch.tensor([3.0, 1, 1, 1], dtype=torch.float64))
    true = drawn((20, 47, 83), [((28, 23, 22), 18), ((28, 23, 56), 18)], SPACING)
    mask = MetaTensor(torch.from_numpy(true > 0).to(torch.uint8)[None], affine=affine, meta={"has_geometry": True})
    sample = MaskToObjectsd("pred")({"pred": mask})
    assert torch.equal(sample["pred"], mask)
    objects = sample["objects"]
    assert (objects.shape, objects.dtype) == (mask.shape, torch.int32)
    assert torch.equal(objects.affine, affine)
    np.testing.assert_array_equal(objects[0].numpy(), split_objects(true > 0, SPACING))
    with pytest.raises(KeyError):
        MaskToObjectsd("mask")({"pred": mask})
    assert MaskToObjectsd("mask", allow_missing_keys=True)({"pred": 1}) == {"pred": 1}
