import pytest

from monai_fusenet.engines.stopping import ends


@pytest.mark.parametrize(
    ("step", "clusters", "last"),
    [(1, 1, False), (5, 3, False), (6, 4, False), (6, 3, True), (6, 3.5, False), (50, 0, True)],
)
def test_ends_late_enough_and_at_few_clusters(step, clusters, last):
    assert ends(step, clusters, first_step=6, min_clusters=3) is last


def test_the_first_step_may_be_the_last():
    assert ends(1, 2, first_step=1, min_clusters=2)
    assert not ends(1, 2, first_step=1, min_clusters=1)
