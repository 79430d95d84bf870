"""The deformable convolution, its offsets, and the large depthwise convolutions."""

import math
import re

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F

from monai_fusenet.networks import DeformableConv, InceptionLargeKernelAttention, deform_conv
from monai_fusenet.networks.blocks.deformable import OffsetPrediction, _tap_by_tap
from monai_fusenet.networks.blocks.depthwise import DepthwiseConv, depthwise_conv

SIZES = [(5, 8), (11, 3), (3, 5, 4)]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
SPATIAL = pytest.mark.parametrize("spatial", SIZES, ids=str)


def draw(spatial, batch_size=2, channels=2, outputs=3, reach=1.5):
    """Image, weight, offset and modulation."""
    torch.manual_seed(0)
    dims = len(spatial)
    return [
        torch.randn(batch_size, channels, *spatial, dtype=torch.float64),
        torch.randn(outputs, channels, *[3] * dims, dtype=torch.float64),
        reach * torch.randn(batch_size, dims * 3**dims, *spatial, dtype=torch.float64),
        torch.rand(batch_size, 3**dims, *spatial, dtype=torch.float64),
    ]


def test_values_known_by_hand():
    image, weight = torch.arange(9.0).view(1, 1, 3, 3), torch.zeros(1, 1, 3, 3)
    weight[0, 0, 1, 1] = 1
    offset, modulation = torch.zeros(1, 18, 3, 3), torch.full((1, 9, 3, 3), 2.0)
    offset[:, 8], offset[:, 9] = 0.25, 0.5  # of the middle tap: down, then right
    expected = torch.tensor([[2.5, 4.5, 2.75], [8.5, 10.5, 5.75], [9.75, 11.25, 6.0]])
    torch.testing.assert_close(deform_conv(image, weight, offset, modulation)[0, 0], expected, rtol=0, atol=0)


@SPATIAL
def test_taps_in_their_places_are_an_ordinary_convolution(spatial):
    image, weight, offset, modulation = draw(spatial)
    convolve = {2: F.conv2d, 3: F.conv3d}[len(spatial)]
    result = deform_conv(image, weight, torch.zeros_like(offset), torch.ones_like(modulation))
    torch.testing.assert_close(result, convolve(image, weight, padding=1))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_whole_offsets_move_the_image(axis):
    image, weight, offset, modulation = draw((3, 5, 4))
    offset = torch.zeros_like(offset).unflatten(1, (27, 3))
    offset[:, :, axis] = 1
    moved = torch.cat(
        [image.narrow(2 + axis, 1, image.shape[2 + axis] - 1), 0 * image.narrow(2 + axis, 0, 1)], 2 + axis
    )
    inside = [slice(None)] * 2 + [slice(1, -1) if place == axis else slice(None) for place in range(3)]
    result = deform_conv(image, weight, offset.flatten(1, 2), torch.ones_like(modulation))
    torch.testing.assert_close(result[inside], F.conv3d(moved, weight, padding=1)[inside])


def test_far_away_nothing_is_seen():
    image, weight, offset, modulation = draw((5, 8))
    for far in (1e3, -1e3, 1e30, math.inf):
        assert deform_conv(image, weight, torch.full_like(offset, far), modulation).abs().max() == 0


def by_hand(image, weight, offset, modulation):
    """The formula, pixel by pixel, tap by tap and corner by corner."""
    result = torch.zeros(len(image), len(weight), *image.shape[2:], dtype=image.dtype)
    height, width = image.shape[2:]
    for place in range(len(image) * height * width * 9):
        b, row, column, tap = (int(n) for n in torch.unravel_index(torch.tensor(place), (len(image), height, width, 9)))
        y = row + tap // 3 - 1 + offset[b, 2 * tap, row, column]
        x = column + tap % 3 - 1 + offset[b, 2 * tap + 1, row, column]
        for r in range(height):
            for c in range(width):
                share = (1 - (y - r).abs()).clamp(min=0) * (1 - (x - c).abs()).clamp(min=0)
                seen = share * modulation[b, tap, row, column] * image[b, :, r, c]
                result[b, :, row, column] += weight[:, :, tap // 3, tap % 3] @ seen
    return result


def test_the_formula_pixel_by_pixel():
    arguments = draw((3, 4))
    torch.testing.assert_close(deform_conv(*arguments), by_hand(*arguments))


@SPATIAL
def test_what_scripts_compute_is_the_same(spatial):
    arguments = draw(spatial)
    torch.testing.assert_close(deform_conv(*arguments), _tap_by_tap(*arguments))


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("spatial", [(3, 4), (2, 3, 2)])
def test_gradients(batch_size, spatial):
    arguments = draw(spatial, batch_size, channels=1, outputs=2)
    assert gradcheck(deform_conv, [part.requires_grad_() for part in arguments], fast_mode=len(spatial) == 3)


@SPATIAL
def test_networks_at_once(spatial):
    arguments = draw(spatial)
    two = [torch.stack([part, part.flip(0)]).requires_grad_() for part in arguments]
    result = torch.vmap(deform_conv)(*two)
    result.square().sum().backward()
    for index in range(2):
        alone = [part[index].detach().requires_grad_() for part in two]
        expected = deform_conv(*alone)
        expected.square().sum().backward()
        torch.testing.assert_close(result[index], expected)
        for one, other in zip(two, alone, strict=True):
            torch.testing.assert_close(one.grad[index], other.grad)


def test_autograd_keeps_the_arguments_alone():
    arguments, kept = [part.requires_grad_() for part in draw((40, 50), channels=8)], []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one.numel()), lambda one: one):
        deform_conv(*arguments)
    assert sum(kept) <= sum(part.numel() for part in arguments)


@DEVICES
def test_strips_do_not_matter(device, monkeypatch):
    arguments = [part.to(device).requires_grad_() for part in draw((7, 9))]
    expected = torch.autograd.grad(deform_conv(*arguments).square().sum(), arguments)
    for name in ("CPU_VALUES", "GPU_VALUES"):
        monkeypatch.setattr(f"monai_fusenet.networks.blocks.deformable.{name}", 60)
    torch.testing.assert_close(torch.autograd.grad(deform_conv(*arguments).square().sum(), arguments), expected)


@pytest.mark.parametrize(
    ("place", "shape", "message"),
    [
        (0, (2, 2, 5), "images must have the shape (B, C, *spatial) in 2-D or 3-D, got [2, 2, 5]"),
        (1, (3, 2, 3, 5), "the weight must have the shape [3, 2, 3, 3], got [3, 2, 3, 5]"),
        (2, (2, 9, 5, 8), "the offset must have the shape [2, 18, 5, 8], got [2, 9, 5, 8]"),
        (3, (1, 9, 5, 8), "the modulation must have the shape [2, 9, 5, 8], got [1, 9, 5, 8]"),
    ],
)
def test_shapes_that_do_not_fit(place, shape, message):
    arguments = draw((5, 8))
    arguments[place] = torch.zeros(shape, dtype=torch.float64)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        deform_conv(*arguments)


# Modules.


@SPATIAL
def test_predicted_offsets_start_with_every_tap_in_its_place(spatial):
    torch.manual_seed(0)
    layer, features = DeformableConv(len(spatial), 4, 3), torch.rand(2, 4, *spatial)
    convolve = {2: F.conv2d, 3: F.conv3d}[len(spatial)]
    torch.testing.assert_close(layer(features), convolve(features, layer.weight, padding=1) / 2)
    reach = (4 * 3 ** len(spatial)) ** -0.5  # torch's for a convolution
    assert 0.9 * reach < layer.weight.abs().max() <= reach


def test_predicted_offsets_follow_the_features():
    prediction = OffsetPrediction(2, 1)
    torch.nn.init.constant_(prediction.weight[:18, :, 1, 1], 0.5)
    offset, modulation = prediction(torch.arange(6.0).view(1, 1, 2, 3))
    assert torch.equal(offset, (torch.arange(6.0) / 2).view(1, 1, 2, 3).expand(1, 18, 2, 3))
    assert torch.equal(modulation, torch.full((1, 9, 2, 3), 0.5))


def test_free_offsets_have_the_published_initial_values():
    torch.manual_seed(0)
    layer = DeformableConv(2, 8, 8, offsets="free", img_size=(20, 30))
    assert [tuple(parameter.shape) for parameter in layer.parameters()] == [
        (8, 8, 3, 3),
        (1, 18, 20, 30),
        (1, 9, 20, 30),
    ]
    for parameter in layer.parameters():
        assert 0 <= parameter.min() < 0.02
        assert 0.98 < parameter.max() < 1
        assert parameter.mean().item() == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize("options", [{}, {"offsets": "free", "img_size": (5, 8)}])
def test_fresh_weights(options):
    layer = DeformableConv(2, 3, 3, **options)
    before = {name: parameter.clone() for name, parameter in layer.named_parameters()}
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(7)
    torch.manual_seed(0)
    for module in layer.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    for name, parameter in layer.named_parameters():
        assert parameter.max() < 1, name
        assert name.startswith("prediction") == torch.equal(parameter, before[name])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 2, 2), "spatial_dims must be 2 or 3, got 1"),
        ((2, 0, 2), "in_channels must be a whole number of at least 1, got 0"),
        ((2, 2, 1.5), "out_channels must be a whole number of at least 1, got 1.5"),
        ((2, 2, 2, "given"), 'offsets must be "predicted" or "free", got "given"'),
        ((3, 2, 2, "free", 8), "free offsets are for 2-D only, got spatial_dims = 3"),
        (
            (2, 2, 2, "free"),
            "free offsets need an img_size, and predicted ones take none, got free ones with img_size = None",
        ),
        (
            (2, 2, 2, "predicted", 8),
            "free offsets need an img_size, and predicted ones take none, got predicted ones with img_size = 8",
        ),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        DeformableConv(*arguments)


# Large depthwise convolutions.

KERNELS = pytest.mark.parametrize(("side", "dilation"), [(3, 1), (5, 1), (5, 2), (7, 3)])


def plain(image, weight, bias, dilation):
    convolve = {4: F.conv2d, 5: F.conv3d}[image.ndim]
    padding = dilation * (weight.shape[2] // 2)
    return convolve(image, weight, bias, padding=padding, dilation=dilation, groups=image.shape[1])


@SPATIAL
@KERNELS
@pytest.mark.parametrize("networks", [None, 3])
def test_depthwise_convolutions_are_those_of_torch(spatial, side, dilation, networks):
    torch.manual_seed(0)
    lead = () if networks is None else (networks,)
    shapes = [(2, 4, *spatial), (4, 1, *[side] * len(spatial)), (4,)]
    inputs = [torch.randn(*lead, *shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    if networks is None:
        result, expected = depthwise_conv(*inputs, dilation), plain(*inputs, dilation)
    else:
        result = torch.vmap(lambda *parts: depthwise_conv(*parts, dilation))(*inputs)
        expected = torch.stack([plain(*parts, dilation) for parts in zip(*inputs, strict=True)])
    torch.testing.assert_close(result, expected)
    gradient = torch.randn_like(expected)
    actual = torch.autograd.grad(result, inputs, gradient)
    torch.testing.assert_close(actual, torch.autograd.grad(expected, inputs, gradient))


def test_depthwise_convolutions_start_as_those_of_torch():
    torch.manual_seed(0)
    layer, torchs = DepthwiseConv(2, 64, 5), torch.nn.Conv2d(64, 64, 5, groups=64)
    for own, other in zip(layer.parameters(), torchs.parameters(), strict=True):
        assert own.shape == other.shape
        assert own.abs().max().item() == pytest.approx(other.abs().max().item(), rel=0.05)


@SPATIAL
def test_attention_by_its_formula(spatial):
    torch.manual_seed(0)
    layer = InceptionLargeKernelAttention(len(spatial), features=20).double()
    image = torch.randn(2, 20, *spatial, dtype=torch.float64)

    def pixelwise(linear, maps):
        return linear(maps.movedim(1, -1)).movedim(-1, 1)

    u = F.gelu(pixelwise(layer.projection, image))
    a = plain(u, layer.first.weight, layer.first.bias, 1)
    scales = [plain(a, scale.weight, scale.bias, n) for n, scale in enumerate(layer.scales, start=1)]
    expected = image + pixelwise(layer.output, u * pixelwise(layer.gate, torch.cat(scales, dim=1)))
    torch.testing.assert_close(layer(image), expected)
    inputs = list(layer.parameters())
    actual = torch.autograd.grad(layer(image).square().sum(), inputs)
    torch.testing.assert_close(actual, torch.autograd.grad(expected.square().sum(), inputs))


@pytest.mark.parametrize("spatial", [(3, 4), (2, 3, 2)])
def test_gradients_of_attention(spatial):
    layer = InceptionLargeKernelAttention(len(spatial), features=2).double()
    assert gradcheck(layer, torch.randn(1, 2, *spatial, dtype=torch.float64, requires_grad=True))
