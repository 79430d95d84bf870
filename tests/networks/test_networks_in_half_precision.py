"""Networks that are cast as a whole, and networks under autocast: they run, learn, and see what float32 sees."""

import copy

import pytest
import torch
from torch import nn

from monai_fusenet import networks
from monai_fusenet.losses import FeatureClusteringLoss, FuseNetLoss
from monai_fusenet.networks import (
    FeatureClusteringNet,
    FuseNet,
    FusionBlock,
    PatchTokens,
    ProjectionHead,
    SlicewiseNetwork,
)

HALF = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
SPATIAL = pytest.mark.parametrize("spatial", [(13, 9), (5, 9, 7)], ids=str)
OPTIONS = pytest.mark.parametrize("option", ["default", "img_size", "two encoders", "checkpoint"])
WORST = {torch.float16: 0.02, torch.bfloat16: 0.1}  # of the largest value, after a dozen roundings


def fusenet(spatial, option="default"):
    torch.manual_seed(0)
    return FuseNet(
        len(spatial),
        features=8,
        patch_grid=3,
        dropout=0.0,
        img_size=spatial if option == "img_size" else None,
        shared_encoder=option != "two encoders",
        use_checkpoint=option == "checkpoint",
    )


def draw_pair(spatial, channels=3):
    torch.manual_seed(1)
    return torch.rand(2, 2, channels, *spatial).unbind()


def assert_near(actual, expected, share):
    torch.testing.assert_close(actual.float(), expected, rtol=0, atol=share * expected.abs().max().item())


@DEVICES
@HALF
@SPATIAL
@OPTIONS
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_network_cast_as_a_whole(training, option, spatial, dtype, device):
    network = fusenet(spatial, option).train(training).to(device)
    half = copy.deepcopy(network).to(dtype)
    pair = [view.to(device, dtype) for view in draw_pair(spatial)]
    output, expected = half(*pair), network(*(view.float() for view in pair))
    for actual, right in zip(output, expected, strict=True):
        assert actual.dtype == dtype
        assert_near(actual, right, WORST[dtype])
    assert_near(half(pair[0]), network(pair[0].float()), WORST[dtype])
    FuseNetLoss(edge_factor=2)(output).backward()
    gradients = {name: parameter.grad for name, parameter in half.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.isfinite().all()] == []
    assert {gradient.dtype for gradient in gradients.values()} == {dtype}


@DEVICES
@HALF
@SPATIAL
@OPTIONS
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_network_under_autocast(training, option, spatial, dtype, device):
    network = fusenet(spatial, option).train(training).to(device)
    pair = [view.to(device) for view in draw_pair(spatial)]
    expected = copy.deepcopy(network)(*pair)
    with torch.autocast(device, dtype):
        output = network(*pair)
    for actual, right in zip(output, expected, strict=True):
        assert_near(actual, right, WORST[dtype])
    assert {part.dtype for part in output} == {torch.float32}
    FuseNetLoss(edge_factor=2)(output).backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


@DEVICES
@HALF
@pytest.mark.parametrize("whole", [True, False], ids=["cast as a whole", "autocast"])
def test_attention_over_a_large_image_does_not_overflow(whole, dtype, device):
    torch.manual_seed(0)
    block = FusionBlock(2, features=2).to(device)
    # Every pixel is alike, so that all weigh 1 and their sum, 270 400, is more than float16 can count.
    first, second = torch.tensor([[1.0, 2.0], [3.0, -1.0]], device=device).view(2, 1, 2, 1, 1).expand(2, 1, 2, 520, 520)
    with torch.no_grad():
        expected = block(first, second)
        if whole:
            scores = block.to(dtype)(first.to(dtype), second.to(dtype))
        else:
            with torch.autocast(device, dtype):
                scores = block(first, second)
    assert_near(scores, expected, WORST[dtype])


@HALF
@SPATIAL
def test_a_script_of_a_network_cast_as_a_whole(spatial, dtype):
    half = fusenet(spatial).eval().to(dtype)
    pair = [view.to(dtype) for view in draw_pair(spatial)]
    for actual, right in zip(torch.jit.script(half)(*pair), half(*pair), strict=True):
        assert_near(actual, right.float(), WORST[dtype])


@HALF
def test_slices_of_a_volume(dtype):
    torch.manual_seed(0)
    network = SlicewiseNetwork(FuseNet(2, in_channels=3, features=4, patch_grid=2), neighbours=1).eval()
    volumes = [view.to(dtype) for view in draw_pair((9, 7, 4), channels=1)]
    half = copy.deepcopy(network).to(dtype)
    assert half(volumes[0]).dtype == dtype
    for actual, right in zip(half(*volumes), network(*(view.float() for view in volumes)), strict=True):
        assert_near(actual, right, WORST[dtype])


@HALF
def test_a_patch_without_length_has_a_token(dtype):
    tokens = PatchTokens(2, features=4, patch_grid=2).to(dtype).eval()
    nn.init.zeros_(tokens.projection.weight)
    nn.init.zeros_(tokens.projection.bias)
    assert tokens(torch.rand(1, 4, 5, 7).to(dtype)).abs().max() == 0


@HALF
def test_blocks_cast_alone(dtype):
    features = torch.rand(2, 8, 6, 5).to(dtype)
    assert ProjectionHead(8).to(dtype)(features).dtype == dtype
    assert PatchTokens(2, 8, patch_grid=2).to(dtype)(features).dtype == dtype
    assert FusionBlock(2, 8).to(dtype)(features, features).dtype == dtype


NO_NETWORKS = {name for name in networks.__all__ if name.endswith("Output") or name[0].islower()}
TRIED = {
    "FuseNet": lambda: (fusenet((13, 9)), draw_pair((13, 9))),
    "SlicewiseNetwork": lambda: (SlicewiseNetwork(FuseNet(2, 3, 4, patch_grid=2)), [torch.rand(1, 1, 5, 6, 3)]),
    "FeatureClusteringNet": lambda: (FeatureClusteringNet(3, 2, 4), [torch.rand(1, 2, 5, 3, 2)]),
    "S3Net": lambda: (networks.S3Net(2, 2, 4), [torch.rand(1, 2, 5, 6)]),
    "DeformableConv": lambda: (networks.DeformableConv(3, 2, 4), [torch.rand(1, 2, 5, 3, 2)]),
    "PixelNorm": lambda: (networks.PixelNorm(3), [torch.rand(1, 3, 5, 6)]),
    "InceptionLargeKernelAttention": lambda: (
        networks.InceptionLargeKernelAttention(2, 3),
        [torch.rand(1, 3, 5, 6)],
    ),
    "ConvReLUNorm": lambda: (networks.ConvReLUNorm(2, 3, 4), [torch.rand(1, 3, 5, 6)]),
    "FusionBlock": lambda: (FusionBlock(3, 4), torch.rand(2, 1, 4, 5, 3, 2).unbind()),
    "PatchTokens": lambda: (PatchTokens(3, 4, patch_grid=2), [torch.rand(1, 4, 5, 3, 2)]),
    "PixelEncoder": lambda: (networks.PixelEncoder(3, 2, 4), [torch.rand(1, 2, 5, 3, 2)]),
    "ProjectionHead": lambda: (ProjectionHead(4), [torch.rand(1, 4, 5, 3, 2)]),
    "ChannelAffine": lambda: (networks.ChannelAffine(4), [torch.rand(2, 7, 4)]),
    "EfficientTransformerBlock": lambda: (networks.EfficientTransformerBlock(3, 4), [torch.rand(1, 4, 5, 3, 2)]),
    "MSFormer": lambda: (networks.MSFormer(3, 2, 4, patch_grid=2), torch.rand(2, 1, 2, 5, 3, 2).unbind()),
    "PatchExpanding": lambda: (networks.PatchExpanding(3, 4), [torch.rand(1, 4, 5, 3, 2)]),
    "ShiftedPatchAttention": lambda: (networks.ShiftedPatchAttention(3, 4, 2), [torch.rand(1, 4, 5, 3, 2)]),
    "MixFeedForward": lambda: (networks.MixFeedForward(2, 4, 8), [torch.rand(2, 15, 4), [5, 3]]),
}


@DEVICES
@HALF
@pytest.mark.parametrize("name", sorted({*networks.__all__} - NO_NETWORKS))
def test_every_public_network_learns_in_half_precision(name, dtype, device):
    torch.manual_seed(0)
    network, inputs = TRIED[name]()
    inputs = [part.to(device, dtype) if isinstance(part, torch.Tensor) else part for part in inputs]
    output = network.to(device, dtype).train()(*inputs)
    parts = [output] if isinstance(output, torch.Tensor) else list(output)
    assert {part.dtype for part in parts} == {dtype}
    sum(part.float().square().mean() for part in parts).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
    assert any(p.grad is not None and p.grad.any() for p in network.parameters())


@DEVICES
@HALF
@SPATIAL
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("whole", [True, False], ids=["cast as a whole", "autocast"])
def test_feature_clustering(whole, training, spatial, dtype, device):
    torch.manual_seed(0)
    network, image = FeatureClusteringNet(len(spatial), features=8).train(training).to(device), draw_pair(spatial)[0]
    expected = copy.deepcopy(network)(image.to(device))
    if whole:
        scores = network.to(dtype)(image.to(device, dtype))
    else:
        with torch.autocast(device, dtype):
            scores = network(image.to(device))
    assert scores.dtype == (dtype if whole else torch.float32)
    assert_near(scores, expected, WORST[dtype])
    FeatureClusteringLoss()((scores,)).backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
