import pytest

from monai_fusenet.inferers.schedule import sizes_to_fit


@pytest.mark.parametrize(
    ("resolutions", "spatial", "most", "sizes"),
    [
        (None, (41, 29), float("inf"), [[41, 29]]),
        ([12, 24], (24, 36), float("inf"), [[12, 18], [24, 36]]),
        ([9, 17, 64, 128], (17, 23), float("inf"), [[9, 12], [17, 23]]),  # no larger than the image, and once only
        ([0.5, 1.0], (9, 12, 7), float("inf"), [[4, 6, 4], [9, 12, 7]]),
        (None, (64, 80), 45, [[45, 56]]),
        ([32, 64], (64, 80), 45, [[32, 40], [45, 56]]),
        ([48, 64], (64, 80), 45, [[45, 56]]),
        ([0.01], (3, 200), float("inf"), [[1, 2]]),  # a pixel at least
    ],
)
def test_sizes(resolutions, spatial, most, sizes):
    assert sizes_to_fit(resolutions, spatial, most) == sizes
