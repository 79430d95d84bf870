"""Probabilities become masks and label maps."""

import re

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_fusenet.transforms import ProbabilitiesToMaskd


@pytest.mark.parametrize("shape", [(8, 9), (8, 9, 3)])
def test_objects_that_weigh_most_are_kept(shape):
    probability = torch.zeros(1, *shape)
    probability[0, 2:5, 2:5] = 0.9
    probability[0, 3, 3] = 0.1  # a hole
    probability[0, 6:, :] = 0.8  # larger, along a whole side
    probability[0, 2:5, 6:8] = 0.9
    probability[0, 0, 0] = 0.6  # a crumb
    for objects, kept in ((1, 9), (2, 9 + 6), (3, 9 + 6), (None, 8 + 18 + 6 + 1)):
        mask = ProbabilitiesToMaskd("pred", objects)({"pred": MetaTensor(probability, meta={"here": 1})})["pred"]
        assert mask.shape == probability.shape
        assert mask.meta["here"] == 1
        assert len(shape) == 3 or int(mask.sum()) == kept
    assert int(ProbabilitiesToMaskd("pred", 1)({"pred": torch.zeros(1, *shape)})["pred"].sum()) == 0


@pytest.mark.parametrize("objects", [0, -1, 1.0, True, "2"])
def test_a_number_of_objects_that_is_none(objects):
    with pytest.raises(ValueError, match=f"^objects must be None or a whole number of at least 1, got {objects}$"):
        ProbabilitiesToMaskd("pred", objects)


@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 4)])
def test_each_pixel_belongs_to_the_likeliest_class(shape):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, shape)
    probabilities = np.stack([np.where(labels == place, 0.4, 0.3) for place in range(3)]).astype(np.float32)
    probabilities[:, -1] = 0  # of which nothing is known, as outside a field of view
    sample = {"pred": MetaTensor(torch.from_numpy(probabilities), meta={"here": 1})}
    after = ProbabilitiesToMaskd("pred", objects=1, classes=[1, 300])(sample)
    labels[-1] = 0
    np.testing.assert_array_equal(after["pred"].numpy()[0], np.array([0, 1, 300])[labels])
    assert after["pred"].dtype == torch.int32
    assert after["pred"].meta["here"] == 1
    assert after["classes"] == (1, 300)
    assert sample["pred"].shape == (3, *shape)


def test_a_single_class_is_called_1():
    after = ProbabilitiesToMaskd("pred")({"pred": torch.tensor([[[0.4, 0.6]]])})
    assert after["pred"].tolist() == [[[0, 1]]]
    assert "classes" not in after


@pytest.mark.parametrize(("channels", "classes", "wanted"), [(2, [1], 1), (1, [1, 5], 3), (2, [1, 5], 3)])
def test_probabilities_of_other_classes(channels, classes, wanted):
    told = f"probabilities of the classes {classes} must have {wanted} channels, got {channels}"
    with pytest.raises(ValueError, match=f"^{re.escape(told)}$"):
        ProbabilitiesToMaskd("pred", classes=classes)({"pred": torch.zeros(channels, 3, 4)})


def test_a_ring_stays_a_ring():
    rows, columns = np.mgrid[:40, :44]
    distance = np.hypot(rows - 20, columns - 21)
    ring = (distance < 14) & (distance > 7)
    probability = torch.from_numpy(np.where(ring, 0.9, 0.1)[None].astype(np.float32))
    probability[0, 31, 21] = 0.2  # a hole in the ring itself
    mask = ProbabilitiesToMaskd("pred", 1)({"pred": probability})["pred"]
    np.testing.assert_array_equal(mask[0].numpy() > 0, ring)


@pytest.mark.parametrize("classes", [[], [0, 1], [1, 1], [-1, 2], [1.5, 2], [True]])
def test_classes_that_are_none(classes):
    with pytest.raises(ValueError, match=r"^classes must be different whole numbers above 0, got "):
        ProbabilitiesToMaskd("pred", classes=classes)
