"""Large arrays on a smaller grid."""

from __future__ import annotations

import numpy as np
import pytest

from monai_fusenet.utils.arrays import reduced_shape, resize_area, resize_nearest


@pytest.mark.parametrize(
    ("shape", "pixels", "expected"),
    [
        ((10, 20), 200, (10, 20)),
        ((20, 80), 400, (10, 40)),
        ((3, 30_000), 900, (1, 3000)),  # a side has a pixel at least
        ((8, 16, 32), 64, (2, 4, 8)),
    ],
)
def test_proportions_stay(shape, pixels, expected):
    assert reduced_shape(shape, pixels) == expected


def test_means_by_hand():
    channels = np.array([[[0.0, 1, 4, 5], [2, 3, 6, 7]], [[1.0, 1, 0, 0], [1, 1, 0, 0]]])
    np.testing.assert_array_equal(resize_area(channels, (1, 2)), [[[1.5, 5.5]], [[1, 0]]])
    assert resize_area(channels, (2, 4)) is channels


def test_nearest_by_hand():
    labels = np.array([[1, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(resize_nearest(labels, (4, 3)), labels[[0, 0, 1, 1]])
    np.testing.assert_array_equal(resize_nearest(labels, (1, 2)), [[4, 6]])  # from the centres
    np.testing.assert_array_equal(resize_nearest(labels.repeat(4, 0).repeat(4, 1), (2, 3)), labels)
    assert resize_nearest(labels, (2, 3)) is labels
