"""Which clusters of a network are one."""

import pytest
import torch
from torch import nn

from monai_fusenet.networks import FuseNet
from monai_fusenet.utils.scores import is_one_cluster, merged

SIZES = [(5, 3), (3, 5, 4)]


class Wrapped(nn.parallel.DistributedDataParallel):
    """What ranks call a network by, without a process group."""

    def __init__(self, module):
        nn.Module.__init__(self)
        self.module = module


def draw_fusenet(spatial):
    return FuseNet(len(spatial), features=2, patch_grid=2)


@pytest.mark.parametrize("spatial", SIZES)
def test_a_network_merges_or_leaves_scores_as_they_are(spatial):
    scores = torch.randn(2, 4, *spatial)
    network = draw_fusenet(spatial)
    assert torch.equal(merged(network, scores), network.merge(scores))
    assert torch.equal(merged(Wrapped(network), scores), network.merge(scores))
    assert merged(nn.Identity(), scores) is scores


@pytest.mark.parametrize("spatial", SIZES)
@pytest.mark.parametrize(
    ("winners", "fusenet", "other"),
    [([1], True, True), ([0, 2], True, False), ([1, 3], True, False), ([0, 1], False, False), ([0, 3], False, False)],
)
def test_one_cluster_and_its_twin_are_one(spatial, winners, fusenet, other):
    scores = torch.randn(4, *spatial)
    pixels = scores.flatten(1)  # a view
    for index in range(pixels.shape[1]):
        pixels[winners[index % len(winners)], index] += 10
    assert is_one_cluster(draw_fusenet(spatial), scores) is fusenet
    assert is_one_cluster(nn.Identity(), scores) is other


def test_what_wins_decides_and_not_what_wins_once_merged():
    # 0 wins both pixels; in the second, 1 and its twin 3 together are more.
    scores = torch.tensor([[3.0, 3.0], [0.0, 2.0], [0.0, 0.0], [0.0, 2.0]]).view(4, 1, 2)
    assert is_one_cluster(draw_fusenet((1, 2)), scores)
