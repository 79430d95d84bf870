"""Scripted, traced and exported networks put out what the eager one does."""

import pytest
import torch
from monai.networks.nets import BasicUNet
from monai.utils import version_geq

from monai_fusenet.networks import FeatureClusteringNet, FuseNet

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


def test_a_script_merges_twins():
    scores = torch.tensor([0.0, 1, 2, 3, 4, 5, 6, 7]).view(1, 8, 1, 1)
    assert torch.jit.script(network_for((6, 9))).merge(scores).flatten().tolist() == [0 + 4, 1 + 5, 2 + 6, 3 + 7]


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


@pytest.mark.parametrize(("spatial", "other"), SIZES)
def test_script_and_trace_of_feature_clustering(spatial, other):
    torch.manual_seed(0)
    network = FeatureClusteringNet(len(spatial), features=4).eval()
    image = draw_pair(spatial)[0]
    scripted, traced = torch.jit.script(network), torch.jit.trace(network, image)
    for size in (spatial, other):
        image = draw_pair(size)[0]
        torch.testing.assert_close(scripted(image), network(image))
        torch.testing.assert_close(traced(image), network(image))
        torch.testing.assert_close(scripted(image, image).scores, network(image))


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


# Sizes that are not known when the network is exported, see docs/export.md.

needs_exporters = pytest.mark.skipif(not version_geq(torch.__version__, "2.9.0"), reason="exporters of torch 2.9")
NETWORKS = {
    "2-D": (lambda: network_for((9, 12)), (9, 12), [(11, 7), (16, 16)]),
    "3-D": (lambda: network_for((5, 6, 7)), (5, 6, 7), [(8, 9, 6)]),
    "feature clustering": (lambda: FeatureClusteringNet(features=4).eval(), (6, 9), [(11, 7), (1, 16)]),
    "feature clustering, 3-D": (lambda: FeatureClusteringNet(3, features=4).eval(), (5, 6, 7), [(8, 9, 6)]),
    "as published": (lambda: network_for((6, 9), img_size=(6, 9)), (6, 9), [(6, 9)]),
    "distilled": (lambda: BasicUNet(2, 3, 1, features=(4,) * 6, norm="instance").eval(), (48, 64), [(96, 32)]),
}


def export_arguments(name):
    """A network, a batch of two images, and what may change: the batch, and the sides unless the network fixes them."""
    make, spatial, _ = NETWORKS[name]
    torch.manual_seed(0)
    axes = [0] if name == "as published" else [0, *range(2, 2 + len(spatial))]
    return make(), (torch.rand(2, 3, *spatial),), (dict.fromkeys(axes, torch.export.Dim.DYNAMIC),)


def assert_exported(name, network, exported):
    _, spatial, others = NETWORKS[name]
    for batch, size in ((1, spatial), *((3, other) for other in others)):
        image = torch.rand(batch, 3, *size)
        expected = network(image).detach()
        actual = torch.as_tensor(exported(image)).detach()
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@needs_exporters
@pytest.mark.parametrize("name", NETWORKS)
def test_sizes_that_are_not_known(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    network, inputs, axes = export_arguments(name)
    program = torch.export.export(network, inputs, dynamic_shapes=axes)
    torch.export.save(program, tmp_path / "network.pt2")
    assert_exported(name, network, torch.export.load(tmp_path / "network.pt2").module())
    options = {"optimize": False, "external_data": False, "input_names": ["image"], "output_names": ["scores"]}
    torch.onnx.export(program, (), tmp_path / "network.onnx", dynamo=True, verbose=False, **options)
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx")
    assert_exported(name, network, lambda image: session.run(None, {"image": image.numpy()})[0])
