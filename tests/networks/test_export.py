"""Scripted, traced and exported networks put out what the eager one does."""

import pytest
import torch

from monai_fusenet.networks import FuseNet

# Small image to trace with, another one to try.
SIZES = [((6, 9), (11, 7)), ((4, 5, 3), (3, 4, 7))]


def network_for(spatial, **options):
    torch.manual_seed(0)
    return FuseNet(len(spatial), features=4, patch_grid=2, **options).eval()


def draw_pair(spatial):
    torch.manual_seed(1)
    return torch.rand(2, 2, 3, *spatial).unbind()


def assert_equal_outputs(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("spatial", "other"), SIZES)
@pytest.mark.parametrize("shared_encoder", [True, False])
def test_script(spatial, other, shared_encoder):
    network = network_for(spatial, shared_encoder=shared_encoder)
    scripted = torch.jit.script(network)
    for size in (spatial, other):
        image, augmented = draw_pair(size)
        torch.testing.assert_close(scripted(image), network(image))
        assert_equal_outputs(scripted(image, augmented), network(image, augmented))


def test_script_of_the_published_patch_projection():
    network = network_for((6, 9), img_size=(6, 9))
    image, augmented = draw_pair((6, 9))
    assert_equal_outputs(torch.jit.script(network)(image, augmented), network(image, augmented))


def test_a_script_learns():
    network = network_for((6, 9), dropout=0.0).train()
    scripted = torch.jit.script(network)
    scripted(*draw_pair((6, 9)))[0].square().mean().backward()
    scripted_gradient = network.encoder.conv.weight.grad.clone()
    network.zero_grad()
    network(*draw_pair((6, 9))).scores.square().mean().backward()
    torch.testing.assert_close(scripted_gradient, network.encoder.conv.weight.grad)


def test_a_saved_script(tmp_path):
    network = network_for((6, 9))
    torch.jit.script(network).save(tmp_path / "network.ts")
    image, _ = draw_pair((11, 7))
    torch.testing.assert_close(torch.jit.load(tmp_path / "network.ts")(image), network(image))


@pytest.mark.parametrize("spatial", [size for size, _ in SIZES])
def test_trace(spatial):
    network = network_for(spatial)
    image, augmented = draw_pair(spatial)
    torch.testing.assert_close(torch.jit.trace(network, image)(1 - image), network(1 - image))
    traced = torch.jit.trace(network, (image, augmented))
    assert_equal_outputs(traced(augmented, image), network(augmented, image))


@pytest.mark.parametrize("spatial", [size for size, _ in SIZES])
def test_export_of_a_pair(spatial):
    network = network_for(spatial)
    image, augmented = draw_pair(spatial)
    exported = torch.export.export(network, (image, augmented)).module()
    assert_equal_outputs(exported(augmented, image), network(augmented, image))


def test_export_of_one_image():
    network = network_for((6, 9))
    image, _ = draw_pair((6, 9))
    exported = torch.export.export(network, (image,)).module()
    torch.testing.assert_close(exported(1 - image), network(1 - image))
