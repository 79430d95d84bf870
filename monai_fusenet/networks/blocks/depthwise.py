"""Large depthwise convolutions that cost about as much as small ones."""

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from monai_fusenet.networks.blocks.layout import channels_last

__all__ = ["DepthwiseConv", "depthwise_conv", "gradient_of_weight"]


class DepthwiseConv(nn.Module):
    """Convolves each channel with its own kernel (see `depthwise_conv`), with torch's initial values.

    Args:
        spatial_dims: 2 or 3.
        features: channels in and out.
        side: of the kernel, odd.
        dilation: distance of neighbouring taps.

    Shape:
        (B, features, *spatial) -> (B, features, *spatial)
    """

    def __init__(self, spatial_dims: int, features: int, side: int, dilation: int = 1) -> None:
        super().__init__()
        self.dilation = dilation
        self.weight = nn.Parameter(torch.empty(features, 1, *[side] * spatial_dims))
        self.bias = nn.Parameter(torch.empty(features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws weight and bias from U(-r, r) with r = 1 / sqrt(taps)."""
        reach = self.weight[0].numel() ** -0.5
        nn.init.uniform_(self.weight, -reach, reach)
        nn.init.uniform_(self.bias, -reach, reach)

    def forward(self, image: Tensor) -> Tensor:
        """Convolves each channel."""
        return depthwise_conv(image, self.weight, self.bias, self.dilation)


def depthwise_conv(image: Tensor, weight: Tensor, bias: Tensor, dilation: int = 1) -> Tensor:
    """Convolves each channel with a kernel of its own, padded with zeros to the same size.

    On a CPU torch's own kernels are fast for some shapes only. They are slow for gradients of kernels wider than 3 and
    of dilated kernels, which take up to fifty times as long as the convolution itself. A dilated convolution is
    therefore split into the `dilation ** spatial_dims` interleaved images that it sees. The gradient of a wide kernel
    in 2-D is split into windows of 3 x 3.

    Args:
        image: (B, C, *spatial), 2-D or 3-D.
        weight: (C, 1, *kernel), of odd sides.
        bias: (C,).
        dilation: distance of neighbouring taps.

    Returns:
        (B, C, *spatial)
    """
    padding = [dilation * (side // 2) for side in weight.shape[2:]]
    if torch.jit.is_scripting() or not _gains(image):
        if image.ndim == 4:
            return F.conv2d(image, weight, bias, padding=padding, dilation=dilation, groups=image.shape[1])
        return F.conv3d(image, weight, bias, padding=padding, dilation=dilation, groups=image.shape[1])
    return _convolved(image, weight, bias, dilation)


@torch.jit.unused
def _gains(image: Tensor) -> bool:
    """Whether the way around torch's slow kernels is open, and shorter."""
    plain = torch.jit.is_tracing() or torch.compiler.is_compiling() or torch.is_autocast_enabled(image.device.type)
    return not plain and image.device.type == "cpu" and image.dtype in (torch.float32, torch.float64)


@torch.jit.unused
def _convolved(image: Tensor, weight: Tensor, bias: Tensor, dilation: int) -> Tensor:
    return _Depthwise.apply(image, weight, bias, dilation)


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution whose gradients are depthwise convolutions that torch is fast at."""

    @staticmethod
    def forward(image: Tensor, weight: Tensor, bias: Tensor, dilation: int) -> Tensor:
        return _put_together(_conv(_taken_apart(image, dilation), weight, bias), image, dilation)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.dilation = inputs[-1]
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        image, weight = ctx.saved_tensors
        axes = list(range(2, image.ndim))
        parts, of_image, of_weight = _taken_apart(gradient, ctx.dilation), None, None
        if ctx.needs_input_grad[0]:
            of_image = _put_together(_conv(parts, weight.flip(axes)), image, ctx.dilation)
        if ctx.needs_input_grad[1]:
            of_weight = gradient_of_weight(_taken_apart(image, ctx.dilation), weight, parts)
        return of_image, of_weight, parts.sum([0, *axes]), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *inputs: Any) -> tuple[Tensor, int]:
        """The channels of all networks are channels of one convolution."""
        image, weight, bias = (
            value.unsqueeze(0).expand(info.batch_size, *value.shape) if axis is None else value.movedim(axis, 0)
            for value, axis in zip(inputs[:-1], in_dims, strict=False)
        )
        networks, _, channels = image.shape[:3]
        together = image.transpose(0, 1).flatten(1, 2)
        result = _Depthwise.apply(together, weight.flatten(0, 1), bias.flatten(), inputs[-1])
        return result.unflatten(1, (networks, channels)), 1


def _conv(image: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    conv = {4: F.conv2d, 5: F.conv3d}[image.ndim]
    return conv(image, weight, bias, padding=[side // 2 for side in weight.shape[2:]], groups=image.shape[1])


def _taken_apart(image: Tensor, dilation: int) -> Tensor:
    """Every `dilation`-th pixel along each axis as an image: (B, C, *spatial) -> (B * dilation ** D, C, *fewer)."""
    if dilation == 1:
        return channels_last(image)
    pixels = image.movedim(1, -1)
    sides = [-(-side // dilation) for side in image.shape[2:]]
    parts = pixels.new_zeros(len(image), dilation ** len(sides), *sides, image.shape[1])
    for part, own in zip(parts.unbind(1), _interleaved(pixels, dilation), strict=True):
        part[_corner(own)] = own
    return parts.flatten(0, 1).movedim(-1, 1)


def _put_together(parts: Tensor, like: Tensor, dilation: int) -> Tensor:
    """The inverse of `_taken_apart`, at the size of the image `like`."""
    if dilation == 1:
        return parts
    pixels = like.movedim(1, -1)
    result = torch.empty_like(pixels, memory_format=torch.contiguous_format)
    images = parts.movedim(1, -1).unflatten(0, (len(like), -1)).unbind(1)
    for part, own in zip(images, _interleaved(result, dilation), strict=True):
        own.copy_(part[_corner(own)])
    return result.movedim(-1, 1)


def _interleaved(pixels: Tensor, dilation: int) -> Iterator[Tensor]:
    """The images that a dilated convolution of (B, *spatial, C) sees, each a view of (B, *fewer, C)."""
    for starts in itertools.product(range(dilation), repeat=pixels.ndim - 2):
        yield pixels[(slice(None), *(slice(start, None, dilation) for start in starts))]


def _corner(pixels: Tensor) -> tuple[slice, ...]:
    """Where an image (B, *spatial, C) lies in one that has further pixels at the end of its axes."""
    return tuple(slice(side) for side in pixels.shape[:-1])


def gradient_of_weight(image: Tensor, weight: Tensor, gradient: Tensor, neighbours: bool = False) -> Tensor:
    """The gradient of the weights of a depthwise convolution that keeps the size.

    Args:
        image: (B, C, *spatial), what was convolved.
        weight: (C, 1, *kernel), of odd sides.
        gradient: of the output.
        neighbours: whether the image has half a kernel of extra rows at either end of its first axis, instead of zeros.
    """
    channels = image.shape[1]
    reach = [side // 2 for side in weight.shape[2:]]
    padding = [0 if neighbours else reach[0], *reach[1:]]
    if image.ndim == 5:  # slice by slice, for each tap along the first axis: a tenth of the time of conv3d_weight
        pixels, gradients = F.pad(image.movedim(1, -1), [0] * 6 + [padding[0]] * 2), _slices(gradient.movedim(1, -1))
        starts = range(weight.shape[2])
        taps = [_slices(pixels[:, start : start + gradient.shape[2]]) for start in starts]
        return torch.stack([gradient_of_weight(tap, weight[:, :, 0], gradients) for tap in taps], dim=2)
    if max(weight.shape[2:]) <= 3:
        return conv2d_weight(image, list(weight.shape), gradient, padding=padding, groups=channels)
    padded = F.pad(image, [padding[1], padding[1], padding[0], padding[0]])
    height, width = (side + 2 for side in gradient.shape[2:])
    result = torch.empty_like(weight)
    for column in _starts(weight.shape[3]):
        # Rows of one image lie side by side in memory, so that windows of rows need no copy.
        columns = channels_last(padded[:, :, :, column : column + width])
        for row in _starts(weight.shape[2]):
            window = columns[:, :, row : row + height]
            part = conv2d_weight(window, [channels, 1, 3, 3], gradient, groups=channels)
            result[:, :, row : row + 3, column : column + 3] = part
    return result


def _slices(pixels: Tensor) -> Tensor:
    """The slices of volumes (B, depth, height, width, C) as images (B * depth, C, height, width)."""
    return pixels.flatten(0, 1).movedim(-1, 1)


def _starts(side: int) -> list[int]:
    """Where windows of 3 begin that cover a kernel of an odd side of at least 3, overlapping by one where they must."""
    return sorted({*range(0, side - 2, 3), side - 3})
