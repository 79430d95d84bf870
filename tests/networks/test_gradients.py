"""Gradients of every component against finite differences, and every parameter learns.

With one image and with two: torch 2.13 on the CPU computes wrong gradients of batch norm on a transposed view, without
a word, when the batch is one image.
"""

import math

import pytest
import torch
from torch.autograd import gradcheck
from torch.func import functional_call

from monai_fusenet.losses import FeatureClusteringLoss, FuseNetLoss
from monai_fusenet.networks import (
    ChannelAffine,
    FeatureClusteringNet,
    FuseNet,
    FusionBlock,
    MixFeedForward,
    PatchTokens,
    PixelEncoder,
    ProjectionHead,
)

BATCH_SIZES = pytest.mark.parametrize("batch_size", [1, 2])


def check(module, *inputs, fast_mode=False):
    """Compares the gradients of all inputs and parameters with finite differences, in training mode."""
    torch.manual_seed(0)
    names = [name for name, _ in module.named_parameters()]
    parameters = [torch.randn_like(parameter, dtype=torch.float64) for parameter in module.parameters()]
    module.double()

    def call(*tensors):
        views, values = tensors[: len(inputs)], tensors[len(inputs) :]
        return functional_call(module, dict(zip(names, values, strict=True)), views)

    everything = [tensor.detach().requires_grad_() for tensor in (*inputs, *parameters)]
    assert gradcheck(call, everything, fast_mode=fast_mode)


def draw(*shape):
    torch.manual_seed(1)
    return torch.randn(*shape, dtype=torch.float64)


@BATCH_SIZES
def test_channel_affine(batch_size):
    check(ChannelAffine(3), draw(batch_size, 5, 3))


@BATCH_SIZES
@pytest.mark.parametrize("spatial", [(3, 4), (2, 3, 2)])
def test_pixel_encoder(batch_size, spatial):
    check(PixelEncoder(len(spatial), in_channels=2, features=2), draw(batch_size, 2, *spatial))


@BATCH_SIZES
@pytest.mark.parametrize("spatial", [(3, 4), (2, 3, 2)])
def test_projection_head(batch_size, spatial):
    check(ProjectionHead(3, dropout=0.0), draw(batch_size, 3, *spatial))


@BATCH_SIZES
@pytest.mark.parametrize("spatial", [(4, 5), (2, 3, 4)])
def test_size_free_patch_tokens(batch_size, spatial):
    check(PatchTokens(len(spatial), features=3, patch_grid=2), draw(batch_size, 3, *spatial))


@BATCH_SIZES
@pytest.mark.parametrize("spatial", [(4, 5), (2, 3, 4)])
def test_published_patch_tokens(batch_size, spatial):
    check(PatchTokens(len(spatial), features=2, patch_grid=2, img_size=spatial), draw(batch_size, 2, *spatial))


@BATCH_SIZES
@pytest.mark.parametrize("spatial", [(3, 4), (2, 3, 2)])
def test_feed_forward(batch_size, spatial):
    class OnGrid(MixFeedForward):
        def forward(self, tokens):
            return super().forward(tokens, list(spatial))

    check(OnGrid(len(spatial), features=2, hidden=3), draw(batch_size, math.prod(spatial), 2))


@BATCH_SIZES
@pytest.mark.parametrize("spatial", [(3, 4), (2, 3, 2)])
def test_fusion_block(batch_size, spatial):
    check(FusionBlock(len(spatial), features=2), *draw(2, batch_size, 2, *spatial), fast_mode=True)


@BATCH_SIZES
@pytest.mark.parametrize("spatial", [(3, 4), (2, 3, 2)])
@pytest.mark.parametrize("shared_encoder", [True, False])
@pytest.mark.parametrize("fixed", [False, True], ids=["any size", "img_size"])
def test_whole_network(batch_size, spatial, shared_encoder, fixed):
    network = FuseNet(
        len(spatial),
        in_channels=2,
        features=2,
        img_size=spatial if fixed else None,
        patch_grid=2,
        dropout=0.0,
        shared_encoder=shared_encoder,
    )
    check(network, *draw(2, batch_size, 2, *spatial), fast_mode=True)


@BATCH_SIZES
@pytest.mark.parametrize("spatial", [(3, 4), (2, 3, 2)])
def test_whole_network_on_one_image(batch_size, spatial):
    class WithoutTokens(FuseNet):  # the patch projections have no part in the scores
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            del self.image_patches, self.augmented_patches

    network = WithoutTokens(len(spatial), in_channels=2, features=2, patch_grid=2, dropout=0.0)
    check(network, draw(batch_size, 2, *spatial), fast_mode=True)


@BATCH_SIZES
@pytest.mark.parametrize("spatial", [(9, 7), (5, 4, 6)])
@pytest.mark.parametrize("shared_encoder", [True, False])
@pytest.mark.parametrize("fixed", [False, True], ids=["any size", "img_size"])
def test_every_parameter_learns(batch_size, spatial, shared_encoder, fixed):
    torch.manual_seed(0)
    network = FuseNet(
        len(spatial),
        features=4,
        img_size=spatial if fixed else None,
        patch_grid=2,
        shared_encoder=shared_encoder,
    )
    FuseNetLoss(edge_factor=2)(network(*torch.rand(2, batch_size, 3, *spatial))).backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    # A shift before a batch norm has no effect: its gradient is zero by mathematics, noise in fact.
    no_effect = ("affine.bias", "norm1.bias")
    idle = [name for name, gradient in gradients.items() if not gradient.abs().max() > 1e-9]
    assert [name for name in idle if "encoder" not in name or not name.endswith(no_effect)] == []


@BATCH_SIZES
@pytest.mark.parametrize("spatial", [(3, 4), (2, 3, 2)])
@pytest.mark.parametrize("layers", [1, 2])
def test_feature_clustering(batch_size, spatial, layers):
    check(FeatureClusteringNet(len(spatial), 2, features=2, layers=layers), draw(batch_size, 2, *spatial))


@BATCH_SIZES
@pytest.mark.parametrize("spatial", [(9, 7), (5, 4, 6)])
def test_every_parameter_of_feature_clustering_learns(batch_size, spatial):
    torch.manual_seed(0)
    network, image = FeatureClusteringNet(len(spatial), features=4), torch.rand(batch_size, 3, *spatial)
    FeatureClusteringLoss()(network(image, image)).backward()
    idle = [name for name, parameter in network.named_parameters() if not parameter.grad.abs().max() > 1e-6]
    # Shifts of all pixels alike, which the last batch norm takes away again.
    assert idle == ["blocks.1.norm.norm.bias", "projection.bias"]
