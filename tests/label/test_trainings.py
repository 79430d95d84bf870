"""The trainings and their weights, called directly: no server."""

import numpy as np
import pytest
import torch
from label_tools import SMALL, draw_studies

from monai_fusenet.label.cache import ClusterCache
from monai_fusenet.label.clustering import Clusterer, bundle_configs, read_configs


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return draw_studies(tmp_path_factory.mktemp("images"))


@pytest.fixture
def preset(tmp_path):
    (tmp_path / "small.yaml").write_text(SMALL)
    return str(tmp_path / "small.yaml")


@pytest.fixture
def weights_2d(tmp_path, preset):
    """The `model.pt` of a training on pictures."""
    network = read_configs(bundle_configs("inference", preset, 2, "adapt")).get_parsed_content("network_def")
    torch.save({"network": network.state_dict()}, tmp_path / "fusenet_clusters.pt")
    return tmp_path / "fusenet_clusters.pt"


def test_weights_of_pictures_do_not_fit_a_volume(images, tmp_path, preset, weights_2d):
    clusterer = Clusterer(ClusterCache(tmp_path / "cache"), preset, weights_2d)
    message = "weights do not fit volume.nii.gz: they are for images of another number of axes or channels; run the"
    with pytest.raises(ValueError, match=message):
        clusterer.clusters(images / "volume.nii.gz", adapt=True)
    assert np.any(clusterer.clusters(images / "a.png", adapt=True).clusters)


def test_damaged_weights_are_told(images, tmp_path, preset, weights_2d):
    weights_2d.write_bytes(b"no weights")
    clusterer = Clusterer(ClusterCache(tmp_path / "cache"), preset, weights_2d)
    with pytest.raises(ValueError, match=r"^checkpoint .* holds no weights that torch can read"):
        clusterer.clusters(images / "a.png", adapt=True)
