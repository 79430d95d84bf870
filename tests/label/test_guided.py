"""Clicks and strokes that take part in a fit; no server."""

import numpy as np
import pytest
from field_tools import circle
from label_tools import dice
from PIL import Image

from monai_fusenet.label.cache import ClusterCache
from monai_fusenet.label.clustering import Clusterer
from monai_fusenet.label.guided import draw_points

SHAPE = (90, 120)
FIELD = circle(SHAPE, (45, 52), 42)
LEFT, RIGHT = circle(SHAPE, (40, 36), 13), circle(SHAPE, (52, 72), 13)
METHODS = {
    "FuseNet": "network_def#features: 16\nworking_size: [64, 64]\n",
    "feature clustering": """
working_size: [64, 64]
network_def: {_target_: monai_fusenet.networks.FeatureClusteringNet, in_channels: "@in_channels", features: 16}
loss_function: {_target_: monai_fusenet.losses.FeatureClusteringLoss, lambda_scribble: 5}
augmentation: {_target_: monai.transforms.Identityd, keys: image}
lr: 0.1
first_step: 1
""",
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Two dark objects in a round field of view."""
    grey = np.select([~FIELD, LEFT | RIGHT], [4, 70], 190) + np.random.default_rng(0).normal(0, 4, SHAPE)
    file = tmp_path_factory.mktemp("guided") / "a.png"
    Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).save(file)
    return file


@pytest.fixture(params=METHODS)
def clusterer(request, tmp_path):
    (tmp_path / "small.yaml").write_text(METHODS[request.param])
    return Clusterer(ClusterCache(tmp_path / "cache"), str(tmp_path / "small.yaml"))


def test_points_become_a_label_map():
    assert draw_points((2, 3), [(0, 1), (1, 2)], [(1, 0), (1, 2)]).tolist() == [[255, 0, 255], [1, 255, 0]]
    assert draw_points((2, 3), [], []).tolist() == [[255] * 3] * 2
    assert draw_points((1, 1, 2), np.array([[0, 0, 1]]), []).tolist() == [[[255, 0]]]


def test_what_is_clicked_is_the_object(path, clusterer):
    dark = draw_points(SHAPE, [(40, 36), (52, 72)], [(20, 55), (75, 50)])
    mask = clusterer.guided(path, dark)
    assert mask.shape == SHAPE
    assert mask.dtype == bool
    assert dice(mask, LEFT | RIGHT) > 0.85
    bright = draw_points(SHAPE, [(20, 55), (75, 50)], [(40, 36), (52, 72)])
    assert dice(clusterer.guided(path, bright), FIELD & ~LEFT & ~RIGHT) > 0.85


def test_the_object_alone(path, clusterer):
    mask = clusterer.guided(path, draw_points(SHAPE, np.argwhere(LEFT), []))
    assert mask[LEFT].mean() > 0.8
    assert not mask[~FIELD].any()


def test_a_stroke_outside_the_field(path, clusterer):
    message = "fit_scribbles: no click or stroke on the object lies within the field of view"
    with pytest.raises(ValueError, match=f"^{message}$"):
        clusterer.guided(path, draw_points(SHAPE, [(2, 117)], [(40, 36)]))
