"""What a pixel looks like from its neighbourhood."""

from __future__ import annotations

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn
from torch.nn import functional as F

from monai_fusenet.networks.layout import channels_last, to_map, to_tokens

__all__ = ["ChannelAffine", "PixelEncoder"]


class ChannelAffine(nn.Module):
    """One weight and one bias per channel: the arithmetic and the initial values of a depthwise 1x1 convolution.

    Args:
        features: channels.

    Shape:
        (..., features) -> (..., features)
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(features))
        self.bias = nn.Parameter(torch.empty(features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws both from U(-1, 1), torch's initial values for a convolution that sees a single number."""
        nn.init.uniform_(self.weight, -1.0, 1.0)
        nn.init.uniform_(self.bias, -1.0, 1.0)

    def forward(self, tokens: Tensor) -> Tensor:
        """Scales and shifts the last axis."""
        return tokens * self.weight + self.bias


class PixelEncoder(nn.Module):
    """Describes every pixel by its neighbourhood and keeps the image size.

    3x3 convolution, ReLU, batch norm, affine map per channel, batch norm. In training mode the statistics are those
    of the tensor at hand, so two views must be encoded one after the other, not as one batch.

    Args:
        spatial_dims: 2 or 3.
        in_channels: image channels.
        features: channels of the description.

    Shape:
        (B, in_channels, *spatial) -> (B, features, *spatial)

    Reference:
        Kazerouni et al. 2023, arXiv 2311.13069, section 2.
    """

    def __init__(self, spatial_dims: int, in_channels: int, features: int = 64) -> None:
        super().__init__()
        self.conv = Conv[Conv.CONV, spatial_dims](in_channels, features, kernel_size=3, padding=1)
        self.norm1 = nn.BatchNorm1d(features)
        self.affine = ChannelAffine(features)
        self.norm2 = nn.BatchNorm1d(features)

    def forward(self, image: Tensor) -> Tensor:
        """Describes each pixel of `image`."""
        tokens = to_tokens(F.relu(self.conv(channels_last(image))))
        # Batch norm on (B * N, C), not on a transposed view of a map: there torch 2.13 on the CPU computes wrong
        # gradients, without a word, when B is 1.
        pixels = self.norm2(self.affine(self.norm1(tokens.flatten(0, 1))))
        return to_map(pixels.view_as(tokens), list(image.shape[2:]))
