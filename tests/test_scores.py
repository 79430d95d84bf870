"""Which clusters of a network are one."""

import pytest
import torch
from torch import nn

from monai_fusenet.networks import FuseNet
from monai_fusenet.utils import scores as module
from monai_fusenet.utils.scores import guided_upsampling, is_one_cluster, merged, upsampled_argmax

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


@pytest.mark.parametrize(("spatial", "size"), [((5, 6), (23, 17)), ((5, 4, 6), (13, 9, 8)), ((6, 5), (3, 19))])
@pytest.mark.parametrize("with_guide", [True, False])
def test_a_large_image_is_labelled_by_slabs_as_a_small_one_is_at_once(spatial, size, with_guide, monkeypatch):
    monkeypatch.setattr(module, "SLAB_VALUES", 200)  # some rows, not all of them
    torch.manual_seed(0)
    scores, guide = torch.randn(1, 5, *spatial, dtype=torch.float64), torch.rand(1, 3, *size, dtype=torch.float64)
    scores[:, 2] -= 100  # wins nowhere
    guide = guide if with_guide else None
    at_once = upsampled_argmax(scores, size, guide)
    by_slabs = upsampled_argmax(scores, size, guide, values_at_once=10)
    assert by_slabs.dtype == torch.int16
    assert torch.equal(by_slabs.long(), at_once)
    if with_guide and all(new >= old for new, old in zip(size, spatial, strict=True)):
        present = [0, 1, 3, 4]
        assert torch.equal(at_once, torch.tensor(present)[guided_upsampling(scores[:, present], guide).argmax(dim=1)])
