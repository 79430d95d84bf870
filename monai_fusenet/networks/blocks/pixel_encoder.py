"""The description of each pixel by its neighbourhood."""

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from monai_fusenet.networks.blocks.layout import channels_last, to_map, to_tokens

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
        """Draws weight and bias from U(-1, 1), torch's initial values for a convolution with a single input."""
        nn.init.uniform_(self.weight, -1.0, 1.0)
        nn.init.uniform_(self.bias, -1.0, 1.0)

    def forward(self, tokens: Tensor) -> Tensor:
        """Scales and shifts the last axis."""
        return tokens * self.weight + self.bias


class PixelEncoder(nn.Module):
    """Describes every pixel by its neighbourhood and keeps the image size.

    3x3 convolution, ReLU, batch norm, affine map per channel, batch norm. In training mode the statistics are those of
    the given tensor. So two views must be encoded one after the other, not as one batch.

    Args:
        spatial_dims: 2 or 3.
        in_channels: image channels.
        features: channels of the description.
        use_checkpoint: keep only the image for the backward pass, and compute the rest again there.

    Shape:
        (B, in_channels, *spatial) -> (B, features, *spatial)

    Reference:
        Kazerouni et al. 2023, arXiv 2311.13069, section 2.
    """

    def __init__(self, spatial_dims: int, in_channels: int, features: int = 64, use_checkpoint: bool = False) -> None:
        super().__init__()
        self.use_checkpoint = use_checkpoint
        self.conv = Conv[Conv.CONV, spatial_dims](in_channels, features, kernel_size=3, padding=1)
        self.norm1 = nn.BatchNorm1d(features)
        self.affine = ChannelAffine(features)
        self.norm2 = nn.BatchNorm1d(features)

    def forward(self, image: Tensor) -> Tensor:
        """Describes each pixel of `image`."""
        pixels = channels_last(image)
        if not torch.jit.is_scripting() and self._can_fold(pixels):
            tokens = self._folded(pixels)
        else:
            tokens = to_tokens(F.relu(self.conv(pixels)))
            # Batch norm on (B * N, C), not on a transposed view of a map: there torch 2.13 on the CPU computes wrong
            # gradients, without a word, when B is 1.
            tokens = self.norm2(self.affine(self.norm1(tokens.flatten(0, 1)))).view_as(tokens)
        return to_map(tokens, list(image.shape[2:]))

    @torch.jit.unused
    def _can_fold(self, pixels: Tensor) -> bool:
        """Whether both norms are torch's own and see this tensor; half precision has no room for the scale."""
        kind = pixels.device.type
        mixed = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if mixed else pixels.dtype
        norms = (self.norm1, self.norm2)
        plain = all(type(norm) is nn.BatchNorm1d and norm.training and norm.momentum is not None for norm in norms)
        return plain and dtype != torch.float16 and self.conv.weight.dtype in (torch.float32, torch.float64)

    @torch.jit.unused
    def _folded(self, pixels: Tensor) -> Tensor:
        """Batch norm, affine map and batch norm as a single batch norm, for a third of the work.

        With v the variance of a channel, g the product of both gains and e1, e2 the constants of both norms, the
        three together divide by sqrt((g^2 + e2) v + e1 e2). So does one norm of s x, where s^2 = (g^2 + e2) / e1; and
        the ReLU lets the factor s of each channel pass, so that the convolution can bring it.
        """
        gain = self.norm1.weight * self.affine.weight
        total = gain.square() + self.norm2.eps
        scale = (total / self.norm1.eps).sqrt()
        # What both biases add, the second norm takes away; named for whoever wants a gradient of every weight.
        shift = self.affine.weight * self.norm1.bias + self.affine.bias
        weight, bias = self.norm2.weight * gain / total.sqrt(), self.norm2.bias + (shift - shift)
        parts = (pixels, scale, weight, bias)
        if self.use_checkpoint and torch.is_grad_enabled():
            tokens, mean, variance = checkpoint(
                self._normalize_once, *parts, use_reentrant=False, preserve_rng_state=False
            )
        else:
            tokens, mean, variance = self._normalize_once(*parts)
        with torch.no_grad():
            count = tokens.shape[0] * tokens.shape[1]
            variance = variance / scale.square()
            _remember(self.norm1, mean / scale, variance)
            _remember(self.norm2, shift, gain.square() * variance / (variance * (count - 1) / count + self.norm1.eps))
        return tokens

    def _normalize_once(
        self, pixels: Tensor, scale: Tensor, weight: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, N, features), and mean and unbiased variance of each channel before the norm."""
        scaled = self.conv.weight * scale.view([-1] + [1] * (pixels.ndim - 1))
        # self.conv(pixels), with the scale in its weights.
        tokens = to_tokens(self.conv._conv_forward(pixels, scaled, self.conv.bias * scale).relu_())
        mean, variance = torch.zeros_like(scale).detach(), torch.zeros_like(scale).detach()
        normalized = F.batch_norm(
            tokens.flatten(0, 1), mean, variance, weight, bias, training=True, momentum=1.0, eps=self.norm2.eps
        )
        return normalized.view_as(tokens), mean, variance


def _remember(norm: nn.BatchNorm1d, mean: Tensor, variance: Tensor) -> None:
    """Updates the running statistics of a norm, as it would itself."""
    if norm.running_mean is not None and norm.running_var is not None:
        norm.running_mean.lerp_(mean.to(norm.running_mean), norm.momentum or 0.0)
        norm.running_var.lerp_(variance.to(norm.running_var), norm.momentum or 0.0)
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
