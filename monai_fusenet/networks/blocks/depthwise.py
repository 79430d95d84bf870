"""Large depthwise convolutions at the price of small ones."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight, conv3d_weight

from monai_fusenet.networks.blocks.layout import channels_last

__all__ = ["DepthwiseConv", "depthwise_conv"]


class DepthwiseConv(nn.Module):
    """A convolution of each channel with a kernel of its own (see `depthwise_conv`), with torch's initial values.

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
        """Draws both from U(-r, r) with r = 1 / sqrt(taps)."""
        reach = self.weight[0].numel() ** -0.5
        nn.init.uniform_(self.weight, -reach, reach)
        nn.init.uniform_(self.bias, -reach, reach)

    def forward(self, image: Tensor) -> Tensor:
        """Convolves each channel."""
        return depthwise_conv(image, self.weight, self.bias, self.dilation)


def depthwise_conv(image: Tensor, weight: Tensor, bias: Tensor, dilation: int = 1) -> Tensor:
    """Convolves each channel with a kernel of its own, padded with zeros to the same size.

    On a CPU torch's own kernels are fast for some shapes only: not for gradients of kernels wider than 3, and not for
    those of dilated kernels, which take up to fifty times as long as the convolution itself. A dilated convolution is
    therefore taken apart into the `dilation ** spatial_dims` interleaved images that it sees, and the gradient of a
    wide kernel in 2-D into windows of 3 x 3.

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
    if dilation == 1:
        return _convolved(image, weight, bias)
    return _put_together(_convolved(_taken_apart(image, dilation), weight, bias), image, dilation)


@torch.jit.unused
def _gains(image: Tensor) -> bool:
    """Whether the way around torch's slow kernels is open, and shorter."""
    plain = torch.jit.is_tracing() or torch.compiler.is_compiling() or torch.is_autocast_enabled(image.device.type)
    return not plain and image.device.type == "cpu" and image.dtype in (torch.float32, torch.float64)


@torch.jit.unused
def _convolved(image: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return _Depthwise.apply(channels_last(image), weight, bias)


@torch.jit.unused
def _taken_apart(image: Tensor, dilation: int) -> Tensor:
    """Every `dilation`-th pixel along each axis as an image: (B, C, *spatial) -> (B * dilation ** D, C, *fewer)."""
    dims, pixels = image.ndim - 2, image.movedim(1, -1)
    missing = [-side % dilation for side in image.shape[2:]]
    pixels = F.pad(pixels, [0, 0, *(width for last in reversed(missing) for width in (0, last))])
    for axis in range(dims):
        pixels = pixels.unflatten(1 + 2 * axis, (-1, dilation))
    axes = range(1, 1 + 2 * dims)
    return pixels.permute(0, *axes[1::2], *axes[::2], -1).flatten(0, dims).movedim(-1, 1)


@torch.jit.unused
def _put_together(parts: Tensor, like: Tensor, dilation: int) -> Tensor:
    """The inverse of `_taken_apart`, at the size of the image `like`."""
    dims = like.ndim - 2
    pixels = parts.movedim(1, -1).unflatten(0, (like.shape[0], *[dilation] * dims))
    order = [axis for pair in zip(range(1 + dims, 1 + 2 * dims), range(1, 1 + dims), strict=True) for axis in pair]
    pixels = pixels.permute(0, *order, -1)
    for axis in range(dims):
        pixels = pixels.flatten(1 + axis, 2 + axis)
    for axis, side in enumerate(like.shape[2:]):
        pixels = pixels.narrow(1 + axis, 0, side)
    return pixels.movedim(-1, 1)


def _conv(image: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    conv = {4: F.conv2d, 5: F.conv3d}[image.ndim]
    return conv(image, weight, bias, padding=[side // 2 for side in weight.shape[2:]], groups=image.shape[1])


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution whose gradients are depthwise convolutions that torch is fast at."""

    @staticmethod
    def forward(image: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return _conv(image, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor]:
        image, weight = ctx.saved_tensors
        gradient = channels_last(gradient)
        axes = list(range(2, image.ndim))
        of_image = _conv(gradient, weight.flip(axes)) if ctx.needs_input_grad[0] else None
        of_weight = _gradient_of_weight(image, weight, gradient) if ctx.needs_input_grad[1] else None
        return of_image, of_weight, gradient.sum([0, *axes])

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *inputs: Tensor) -> tuple[Tensor, int]:
        """The channels of all networks are channels of one convolution."""
        image, weight, bias = (
            value.unsqueeze(0).expand(info.batch_size, *value.shape) if axis is None else value.movedim(axis, 0)
            for value, axis in zip(inputs, in_dims, strict=True)
        )
        networks, _, channels = image.shape[:3]
        together = channels_last(image.transpose(0, 1).flatten(1, 2))
        result = _Depthwise.apply(together, weight.flatten(0, 1), bias.flatten())
        return result.unflatten(1, (networks, channels)), 1


def _gradient_of_weight(image: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
    channels = image.shape[1]
    reach = [side // 2 for side in weight.shape[2:]]
    if image.ndim == 5:
        return conv3d_weight(image, list(weight.shape), gradient, padding=reach, groups=channels)
    if max(weight.shape[2:]) <= 3:
        return conv2d_weight(image, list(weight.shape), gradient, padding=reach, groups=channels)
    padded = F.pad(image, [reach[1], reach[1], reach[0], reach[0]])
    height, width = (side + 2 for side in image.shape[2:])
    result = torch.empty_like(weight)
    for row in _starts(weight.shape[2]):
        for column in _starts(weight.shape[3]):
            window = channels_last(padded[:, :, row : row + height, column : column + width])
            part = conv2d_weight(window, [channels, 1, 3, 3], gradient, groups=channels)
            result[:, :, row : row + 3, column : column + 3] = part
    return result


def _starts(side: int) -> list[int]:
    """Where windows of 3 begin that cover a kernel of an odd side of at least 3, overlapping by one where they must."""
    return sorted({*range(0, side - 2, 3), side - 3})
