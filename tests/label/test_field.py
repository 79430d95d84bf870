"""Images with a field of view in the label app; no server."""

import numpy as np
import pytest
from field_tools import circle
from PIL import Image

from monai_fusenet.label.cache import ClusterCache
from monai_fusenet.label.clustering import Clusterer

FIELD = circle((120, 150), (60, 70), 55)
LESION = circle((120, 150), (52, 80), 18)
CORNERS = ~FIELD


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A dermoscopy in a circle, its clusters, and who made them."""
    folder = tmp_path_factory.mktemp("field")
    grey = np.select([CORNERS, LESION], [4, 70], 190) + np.random.default_rng(0).normal(0, 4, FIELD.shape)
    Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).save(folder / "a.png")
    (folder / "small.yaml").write_text("network_def#features: 16\nforeground#objects: 1\nforeground#polarity: dark\n")
    clusterer = Clusterer(ClusterCache(folder / "cache"), str(folder / "small.yaml"))
    return folder / "a.png", clusterer.clusters(folder / "a.png"), clusterer


def dice(mask, truth):
    return 2 * (mask & truth).sum() / (mask.sum() + truth.sum())


def test_outside_the_field_there_is_no_cluster(drawn):
    _, made, _ = drawn
    assert dice(made.clusters > 0, FIELD) > 0.99
    assert set(np.unique(made.clusters)) == set(range(made.clusters.max() + 1))


def test_the_mask_without_clicks_is_the_lesion_and_not_the_corners(drawn):
    path, made, clusterer = drawn
    mask = clusterer.mask(path, made.clusters)
    assert dice(mask, LESION) > 0.9
    assert not mask[made.clusters == 0].any()


def test_a_click_on_the_lesion_leaves_the_corners_out(drawn):
    _, made, _ = drawn
    mask = made.selector([(52, 80)], [])
    assert dice(mask, LESION) > 0.9
    assert not mask[CORNERS].any()


def test_a_click_outside_the_field_is_answered(drawn):
    _, made, _ = drawn
    mask = made.selector([(3, 3)], [(52, 80)])
    assert mask[3, 3]
    assert not mask[52, 80]
