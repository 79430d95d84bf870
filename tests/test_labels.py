"""Label maps, whatever their labels are called."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from monai_fusenet.utils import arrays as module
from monai_fusenet.utils.arrays import TABLE, count_labels, numbered, present_labels, relabel_by_size


def test_labels_are_counted():
    found = count_labels(np.array([[7, -2, 7], [7, 300, -2]], dtype=np.int16))
    np.testing.assert_array_equal(found.values, [-2, 7, 300])
    np.testing.assert_array_equal(found.position, [[1, 0, 1], [1, 2, 0]])
    np.testing.assert_array_equal(found.sizes, [2, 3, 1])


@given(arrays(st.sampled_from([np.int8, np.uint8, np.int64, np.uint16, bool]), (3, 4, 2)), st.sampled_from([1, TABLE]))
@settings(max_examples=80, deadline=None)
def test_labels_are_counted_as_numpy_does_by_sorting(labels, step):
    labels = labels if labels.dtype == bool else labels % 7 * (step if labels.dtype == np.int64 else 1)
    values, position, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    found = count_labels(labels)
    np.testing.assert_array_equal(found.values, values)
    np.testing.assert_array_equal(found.position, position.reshape(labels.shape))
    np.testing.assert_array_equal(found.sizes, sizes)


@pytest.mark.parametrize("step", [1, TABLE])
def test_labels_are_numbered_in_their_order_a_few_at_a_time(step, monkeypatch):
    monkeypatch.setattr(module, "PART", 3)
    labels = np.array([[7, -2, 7, 0], [7, 3, -2, -2]]) * step
    np.testing.assert_array_equal(present_labels(labels), np.array([-2, 0, 3, 7]) * step)
    found = numbered(labels)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, [[4, 1, 4, 2], [4, 3, 1, 1]])
    np.testing.assert_array_equal(numbered(labels.T), found.T)  # of other strides
    np.testing.assert_array_equal(count_labels(labels).sizes, [3, 1, 1, 3])


def test_labels_are_named_by_decreasing_size():
    labels = np.array([[7, 7, 0], [7, 9, 9]])
    np.testing.assert_array_equal(relabel_by_size(labels), [[1, 1, 3], [1, 2, 2]])


def test_of_equal_sizes_the_smaller_label_comes_first():
    np.testing.assert_array_equal(relabel_by_size(np.array([5, 2, 5, 2, 9, 1])), [2, 1, 2, 1, 4, 3])


def test_many_labels_of_few_sizes():
    labels = np.concatenate([np.arange(200), np.arange(0, 200, 3), np.arange(0, 200, 7)])
    order = sorted(range(200), key=lambda label: (-np.count_nonzero(labels == label), label))
    np.testing.assert_array_equal(relabel_by_size(labels), [order.index(label) + 1 for label in labels])


@pytest.mark.parametrize("shape", [(6, 4), (2, 3, 4), (24,), (1, 6, 4)])
def test_labels_keep_their_shape_and_their_partition(shape):
    labels = np.random.default_rng(0).integers(-3, 4, shape)
    renamed = relabel_by_size(labels)
    assert renamed.shape == shape
    assert renamed.dtype == np.uint8
    assert set(np.unique(renamed)) == set(range(1, len(np.unique(labels)) + 1))
    assert len(np.unique(np.stack([labels.ravel(), renamed.ravel()]), axis=1).T) == len(np.unique(labels))
    assert list(np.bincount(renamed.ravel())[1:]) == sorted(np.bincount(renamed.ravel())[1:], reverse=True)


@pytest.mark.parametrize(("count", "dtype"), [(255, np.uint8), (256, np.uint16), (1000, np.uint16)])
def test_more_than_255_labels_need_16_bits(count, dtype):
    renamed = relabel_by_size(np.arange(count).reshape(5, -1) if count % 5 == 0 else np.arange(count))
    assert renamed.dtype == dtype
    np.testing.assert_array_equal(renamed.ravel(), np.arange(1, count + 1))


def test_a_mask_has_two_labels():
    assert relabel_by_size(np.array([True, False, True])).tolist() == [1, 2, 1]
