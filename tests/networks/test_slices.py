"""A 2-D network on the slices of a volume."""

from typing import NamedTuple

import pytest
import torch
from toy_method import ToyOutput, draw_toy_network

from monai_fusenet.networks import FuseNet, SlicewiseNetwork


def draw_network(neighbours, channels=2, **options):
    torch.manual_seed(0)
    network = FuseNet(2, (2 * neighbours + 1) * channels, features=4, patch_grid=2, dropout=0.0, **options)
    return SlicewiseNetwork(network, neighbours)


def draw_volume(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("neighbours", "seen"), [(0, [3]), (1, [2, 3, 4]), (2, [1, 2, 3, 4, 5])])
def test_a_slice_is_seen_beside_its_neighbours(neighbours, seen):
    network, volume = draw_network(neighbours).eval(), draw_volume(1, 2, 9, 7, 8)
    beside = torch.cat([volume[..., index] for index in seen], dim=1)
    torch.testing.assert_close(network(volume)[..., 3], network.network(beside))


def test_the_first_and_the_last_slice_are_their_own_neighbours():
    network, volume = draw_network(1).eval(), draw_volume(2, 2, 9, 7, 3)
    first = torch.cat([volume[..., 0], volume[..., 0], volume[..., 1]], dim=1)
    last = torch.cat([volume[..., 1], volume[..., 2], volume[..., 2]], dim=1)
    torch.testing.assert_close(network(volume)[..., 0], network.network(first))
    torch.testing.assert_close(network(volume)[..., 2], network.network(last))


def test_slices_share_batch_statistics():
    """So that a cluster means the same in all of them."""
    network, volume = draw_network(0).train(), draw_volume(1, 2, 9, 7, 3)
    volume[..., 1] *= 0.1
    together = network(volume)[..., 1]
    assert not torch.allclose(together, network.network(volume[..., 1]))
    batch = volume[0].movedim(3, 0)
    torch.testing.assert_close(together[0], network.network(batch)[1])


def test_a_pair_of_volumes():
    network, (one, other) = draw_network(1).eval(), draw_volume(2, 2, 2, 9, 7, 3).unbind()
    scores, image_tokens, augmented_tokens = network(one, other)
    assert scores.shape == (2, 8, 9, 7, 3)
    assert image_tokens.shape == augmented_tokens.shape == (2 * 3, 4, 4)
    middle = network.network(*(volume[1, ..., [0, 1, 2]].movedim(-1, 0).flatten(0, 1)[None] for volume in (one, other)))
    torch.testing.assert_close(scores[1, ..., 1], middle.scores[0])
    torch.testing.assert_close(image_tokens[3 + 1], middle.image_tokens[0])


def test_an_output_keeps_its_type():
    network, (one, other) = SlicewiseNetwork(draw_toy_network(in_channels=6)), draw_volume(2, 2, 2, 9, 7, 3).unbind()
    output = network(one, other)
    assert type(output) is ToyOutput
    assert output.augmented_scores.shape == (2, 5, 9, 7, 3)
    torch.testing.assert_close(output.scores, network(one))


def test_clusters_are_merged_as_by_the_2d_network():
    scores = draw_volume(2, 8, 9, 7, 3)
    network = draw_network(1)
    torch.testing.assert_close(network.merge(scores), scores[:, :4] + scores[:, 4:])
    torch.testing.assert_close(torch.jit.script(network).merge(scores), scores[:, :4] + scores[:, 4:])
    assert SlicewiseNetwork(draw_toy_network()).merge(scores) is scores


def test_script_and_export():
    network, volume = draw_network(1).eval(), draw_volume(1, 2, 9, 7, 4)
    scripted = torch.jit.script(network)
    torch.testing.assert_close(scripted(volume), network(volume))
    torch.testing.assert_close(scripted(volume, volume).scores, network(volume, volume).scores)
    torch.testing.assert_close(torch.export.export(network, (volume,)).module()(volume), network(volume))
    exported = torch.export.export(network, (volume, 0.5 * volume)).module()
    torch.testing.assert_close(exported(volume, 1 - volume), network(volume, 1 - volume))
    torch.testing.assert_close(torch.jit.trace(network, volume)(1 - volume), network(1 - volume))


@pytest.mark.parametrize("neighbours", [-1, 0.5, True])
def test_neighbours_that_are_none(neighbours):
    with pytest.raises(ValueError, match=r"^neighbours must be a whole number of at least 0, got"):
        SlicewiseNetwork(torch.nn.Identity(), neighbours)


class TwoMaps(NamedTuple):
    scores: torch.Tensor
    others: torch.Tensor
    context: torch.Tensor


def test_every_map_becomes_one_of_the_volume():
    class Network(torch.nn.Module):
        def forward(self, image, augmented):
            return TwoMaps(image, 2 * augmented, image.mean(dim=3))

    volume, other = torch.rand(2, 2, 3, 5, 7, 4).unbind()
    output = SlicewiseNetwork(Network(), neighbours=0)(volume, other)
    torch.testing.assert_close(output.scores, volume)
    torch.testing.assert_close(output.others, 2 * other)
    assert output.context.shape == (8, 3, 5)
