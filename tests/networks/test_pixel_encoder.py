import pytest
import torch
from torch import nn

from monai_fusenet.networks import ChannelAffine, PixelEncoder

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
BATCH_NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
# A side of one pixel too, in both.
SIZES = [(2, (5, 8)), (2, (1, 7)), (3, (3, 5, 4)), (3, (1, 5, 3))]


@pytest.mark.parametrize(("spatial_dims", "spatial"), SIZES)
@pytest.mark.parametrize("in_channels", [1, 3])
def test_keeps_the_image_size(spatial_dims, spatial, in_channels):
    encoder = PixelEncoder(spatial_dims, in_channels, features=4)
    assert encoder(torch.rand(2, in_channels, *spatial)).shape == (2, 4, *spatial)


def published_layers(encoder, spatial_dims):
    """The same weights in the layers of the paper: the affine map is a depthwise 1x1 convolution."""
    norm1, norm2 = BATCH_NORM[spatial_dims](4), BATCH_NORM[spatial_dims](4)
    affine = CONV[spatial_dims](4, 4, kernel_size=1, groups=4)
    conv = CONV[spatial_dims](2, 4, kernel_size=3, padding=1)
    conv.load_state_dict(encoder.conv.state_dict())
    norm1.load_state_dict(encoder.norm1.state_dict())
    norm2.load_state_dict(encoder.norm2.state_dict())
    affine.weight.data = encoder.affine.weight.detach().reshape(affine.weight.shape).clone()
    affine.bias.data = encoder.affine.bias.detach().clone()
    return nn.Sequential(conv, nn.ReLU(), norm1, affine, norm2).double()


@pytest.mark.parametrize(("spatial_dims", "spatial"), SIZES)
@pytest.mark.parametrize("batch_size", [1, 2])
def test_equals_the_published_layers(spatial_dims, spatial, batch_size):
    torch.manual_seed(0)
    encoder = PixelEncoder(spatial_dims, 2, features=4).double()
    slow = published_layers(encoder, spatial_dims)
    image = torch.rand(batch_size, 2, *spatial, dtype=torch.float64)
    torch.testing.assert_close(encoder(image), slow(image), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(encoder.norm2.running_var, slow[4].running_var, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(encoder.eval()(image), slow.eval()(image), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_gradients_equal_those_of_the_published_layers(batch_size):
    torch.manual_seed(0)
    encoder = PixelEncoder(2, 2, features=4).double()
    slow = published_layers(encoder, 2)
    image = torch.rand(batch_size, 2, 5, 8, dtype=torch.float64)
    weights = torch.rand(batch_size, 4, 5, 8, dtype=torch.float64)
    (encoder(image) * weights).sum().backward()
    # Batch norm on a contiguous map, which torch gets right for one image, too.
    (slow(image) * weights).sum().backward()
    for own, published in zip(encoder.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(own.grad, published.grad.reshape(own.shape), rtol=1e-8, atol=1e-10)


def test_statistics_are_those_of_the_tensor_at_hand():
    encoder = PixelEncoder(2, 1, features=4)
    dark, bright = torch.rand(1, 1, 5, 8), 1 + torch.rand(1, 1, 5, 8)
    apart = torch.cat([encoder(dark), encoder(bright)])
    assert not torch.allclose(apart, encoder(torch.cat([dark, bright])), atol=0.1)


def test_affine_scales_and_shifts_each_channel():
    affine = ChannelAffine(2)
    affine.weight.data = torch.tensor([2.0, -1.0])
    affine.bias.data = torch.tensor([0.5, 3.0])
    assert affine(torch.tensor([[1.0, 1.0], [0.0, 4.0]])).tolist() == [[2.5, 2.0], [0.5, -1.0]]


def test_affine_starts_like_a_depthwise_convolution():
    torch.manual_seed(3)
    affine = ChannelAffine(50)
    torch.manual_seed(3)
    conv = nn.Conv2d(50, 50, kernel_size=1, groups=50)
    torch.testing.assert_close(affine.weight, conv.weight.flatten(), rtol=0, atol=0)
    torch.testing.assert_close(affine.bias, conv.bias, rtol=0, atol=0)


def test_norms_that_are_frozen_keep_their_statistics():
    encoder = PixelEncoder(2, 1, features=4)
    encoder.norm1.eval()
    encoder.norm2.eval()
    image = torch.rand(1, 1, 5, 8)
    assert torch.equal(encoder(image), encoder.eval()(image))
    assert encoder.norm1.running_mean.tolist() == [0.0] * 4


def test_norms_of_another_kind_are_called():
    encoder = PixelEncoder(2, 1, features=4)
    calls = []

    class Counting(nn.BatchNorm1d):
        def forward(self, tokens):
            calls.append(tokens.shape)
            return super().forward(tokens)

    encoder.norm1 = Counting(4)
    encoder(torch.rand(2, 1, 5, 8))
    assert calls == [(80, 4)]


def test_float16_has_no_room_for_a_scale():
    torch.manual_seed(0)
    encoder = PixelEncoder(2, 3, features=64)
    with torch.autocast("cpu", torch.float16):
        described = encoder(255 * torch.rand(1, 3, 16, 17))
    assert described.isfinite().all()


def test_shapes_without_values():
    encoder = PixelEncoder(2, in_channels=3, features=4).to("meta")
    assert encoder(torch.empty(2, 3, 5, 7, device="meta")).shape == (2, 4, 5, 7)
