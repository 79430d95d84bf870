import subprocess
import sys

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_fusenet.clicks import ClickSelector
from monai_fusenet.transforms import KMeansClustersd, kmeans_clusters


def noise(shape):
    return np.random.default_rng(0).random(shape, dtype=np.float32)


@pytest.mark.parametrize("shape", [(1, 21, 17), (2, 21, 17), (3, 21, 17), (4, 21, 17), (5, 9, 8, 7), (3, 9, 8, 7)])
def test_the_transform_takes_any_channels_as_the_function_does(shape):
    image = noise(shape)
    loaded = MetaTensor(torch.from_numpy(image), affine=2 * torch.eye(4), meta={"file": "x"})
    clusters = KMeansClustersd(clusters=3)({"original": loaded})["clusters"]
    np.testing.assert_array_equal(clusters.numpy()[0], kmeans_clusters(image, 3))
    assert clusters.dtype == torch.uint8
    assert clusters.meta["file"] == "x"
    assert clusters.affine.tolist() == (2 * np.eye(4)).tolist()


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_clicks_take_any_channels(channels):
    image = noise((channels, 24, 31))
    image[:, 8:16, 10:20] /= 4
    mask = ClickSelector(np.ones((24, 31), np.uint8), image)([(12, 15)])
    assert mask[9:15, 11:19].mean() > 0.9
    assert mask.mean() < 0.3


def test_importing_transforms_and_clicks_loads_no_clustering():
    code = "import sys, monai_fusenet.transforms, monai_fusenet.clicks; sys.exit('sklearn.cluster' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
