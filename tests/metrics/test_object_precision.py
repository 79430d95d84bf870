"""Average precision of objects: values by hand, and a slow search of all ways to match."""

import doctest
import itertools
from importlib import import_module

import numpy as np
import pytest
import torch
from monai.handlers import IgniteMetricHandler

from monai_fusenet.metrics import ObjectPrecisionMetric, compute_object_precision


def precision(found, true, *thresholds):
    pair = (torch.as_tensor(np.asarray(labels))[None, None] for labels in (found, true))
    return compute_object_precision(*pair, thresholds=thresholds or (0.5, 0.75))[0].tolist()


TRUE = [1, 1, 1, 1, 0, 2, 2, 2, 2, 0, 3, 3]
BY_HAND = {
    "equal": (TRUE, [1, 1]),
    "other numbers": ([9, 9, 9, 9, 0, 4, 4, 4, 4, 0, 70, 70], [1, 1]),
    "one missing": ([1, 1, 1, 1, 0, 2, 2, 2, 2, 0, 0, 0], [2 / 3, 2 / 3]),
    "one too many": ([1, 1, 1, 1, 8, 2, 2, 2, 2, 0, 3, 3], [3 / 4, 3 / 4]),
    "one is two thirds": ([1, 1, 1, 1, 1, 1, 2, 2, 2, 0, 3, 3], [1, 2 / 4]),  # IoU 4/6, 3/4, 1
    "two in one": ([1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 3, 3], [1 / 4, 1 / 4]),  # IoU 4/9
    "one in two": ([1, 1, 4, 4, 0, 2, 2, 2, 2, 0, 3, 3], [3 / 4, 2 / 5]),  # both halves have IoU 1/2
    "all in one": ([1] * 12, [0, 0]),
}


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize("shape", [(12,), (3, 4), (2, 3, 2)])
def test_values_by_hand(name, shape):
    found, expected = BY_HAND[name]
    assert precision(np.reshape(found, shape), np.reshape(TRUE, shape)) == pytest.approx(expected)


def test_empty_maps():
    none, one = np.zeros((3, 5), int), np.ones((3, 5), int)
    assert precision(none, none) == [1, 1]
    assert precision(none, one) == [0, 0]
    assert precision(one, none) == [0, 0]
    assert compute_object_precision(torch.zeros(0, 1, 3, 5), torch.zeros(0, 1, 3, 5)).shape == (0, 2)


def slow_precision(found, true, threshold):
    """The best of all ways to match."""
    ours, theirs = (sorted(set(labels.ravel()) - {0}) for labels in (found, true))
    few, many = sorted((ours, theirs), key=len)
    best = 0
    for order in itertools.permutations(many, len(few)):
        matches = 0
        for a, b in zip(*((few, order) if few is ours else (order, few)), strict=True):
            one, other = found == a, true == b
            matches += (one & other).sum() / (one | other).sum() >= threshold
        best = max(best, matches)
    return best / (len(ours) + len(theirs) - best)


@pytest.mark.parametrize("seed", range(8))
def test_as_many_pairs_as_possible_match(seed):
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 5, (6, 7))
    found = np.where(rng.random(true.shape) < 0.4, rng.integers(0, 6, true.shape), true)
    thresholds = (0.1, 0.2, 0.3, 0.5, 0.8)
    expected = [slow_precision(found, true, threshold) for threshold in thresholds]
    assert precision(found, true, *thresholds) == pytest.approx(expected)
    assert precision(true, found, *thresholds) == pytest.approx(expected)  # symmetric


def test_thousands_of_objects_take_no_matrix_of_all_pairs():
    true = np.arange(1, 300 * 301 + 1).reshape(300, 301)  # 8e9 pairs
    found = true.copy()
    found[:, 0] = 0
    assert precision(found, true) == pytest.approx([300 / 301] * 2)


def test_a_large_number_is_one_object():
    found = np.zeros((4, 5), np.int64)
    found[1, 1:3] = 2**31 - 1
    assert precision(found, found > 0) == [1, 1]


def test_the_metric_gives_a_mean_for_each_threshold():
    metric = ObjectPrecisionMetric()
    true = torch.tensor(TRUE).view(1, 1, 3, 4)
    metric(torch.tensor(BY_HAND["one missing"][0]).view(1, 1, 3, 4), true)
    metric([torch.tensor(BY_HAND["one is two thirds"][0]).view(1, 3, 4)], [true[0]])
    torch.testing.assert_close(metric.aggregate(), torch.tensor([5 / 6, 7 / 12]))
    assert metric.aggregate("mean").item() == pytest.approx(17 / 24)
    metric.reset()
    with pytest.raises(ValueError, match="ObjectPrecisionMetric has no values to aggregate: call it on a batch first"):
        metric.aggregate()


def test_the_metric_goes_into_a_handler_of_monai():
    handler = IgniteMetricHandler(ObjectPrecisionMetric(thresholds=[0.5], reduction="mean"), save_details=False)
    true = torch.tensor(TRUE).view(1, 3, 4)
    handler.update(([true, true], [true, true * 0]))
    assert handler.compute() == pytest.approx(0.5)


MAP = torch.ones(1, 1, 3, 4)


@pytest.mark.parametrize(
    ("found", "thresholds", "message"),
    [
        (
            torch.ones(1, 1, 4, 3),
            [0.5],
            r"same shape, got \(1, 1, 4, 3\) and \(1, 1, 3, 4\)$",
        ),
        (MAP / 2, [0.5], r"^y_pred must hold whole numbers, got float32 with fractions or NaN$"),
        (MAP * torch.nan, [0.5], r"^y_pred must hold whole numbers, got float32 with fractions or NaN$"),
        (-MAP, [0.5], r"^y_pred must hold 0 for background and numbers from 1 for objects, got -1$"),
        (MAP, [0.5, 0], r"^each threshold must be above 0 and at most 1, got 0$"),
        (MAP, [75], r"^each threshold must be above 0 and at most 1, got 75$"),
    ],
)
def test_bad_input_is_named(found, thresholds, message):
    with pytest.raises(ValueError, match=message):
        compute_object_precision(found, MAP, thresholds)


def test_channels_are_no_objects():
    channels = torch.ones(1, 3, 4, 5)
    with pytest.raises(ValueError, match=r"^y_pred and y must have one channel, that of the objects, got 3$"):
        compute_object_precision(channels, channels)
    with pytest.raises(ValueError, match=r"^y_pred and y must have shape \(B, C, \*spatial\), got \(4, 5\)$"):
        compute_object_precision(channels[0, 0], channels[0, 0])


def test_the_docstring_example_runs():
    failures, examples = doctest.testmod(import_module("monai_fusenet.metrics.object_precision"))
    assert (failures, examples) == (0, 3)
