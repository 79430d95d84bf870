"""Attention by convolutions alone: a gate that has seen a wide neighbourhood at several scales."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_fusenet.networks.blocks.depthwise import DepthwiseConv, depthwise_conv
from monai_fusenet.networks.blocks.layout import to_map, to_tokens

__all__ = ["InceptionLargeKernelAttention"]

DILATIONS = {3: 1, 5: 2, 7: 3}  # of the kernels that look at different scales
FIRST = 5  # side of the kernel before them
CPU_CHANNELS = 16  # whose maps are made together on a CPU: as many as its vectors hold


class InceptionLargeKernelAttention(nn.Module):
    """Weights the channels of each pixel by a gate with large kernels: x + P2 (u * gate) with u = GELU(P1 x).

    gate = P3 [a1, a2, a3]: three depthwise convolutions of a, with kernels of side 3, 5 and 7 and dilations 1, 2 and
    3, where a is a depthwise convolution of u with a kernel of side 5. P1 to P3 are linear maps of each pixel.

    The four kernels have 620 taps per channel in 3-D, and 108 in 2-D. On one core, a step of a block of 32 channels
    takes 0.34 s for 32 x 32 x 32 voxels, and 0.14 s for as many pixels in 2-D.

    Args:
        spatial_dims: 2 or 3.
        features: channels in and out.

    Shape:
        (B, features, *spatial) -> (B, features, *spatial)

    Reference:
        Karimijafarbigloo et al. 2023, "Self-supervised Semantic Segmentation: Consistency over Transformation",
        arXiv 2309.00143.
    """

    def __init__(self, spatial_dims: int, features: int = 64) -> None:
        super().__init__()
        self.projection = nn.Linear(features, features)
        self.first = DepthwiseConv(spatial_dims, features, FIRST)
        self.scales = nn.ModuleList(
            [DepthwiseConv(spatial_dims, features, side, dilation) for side, dilation in DILATIONS.items()]
        )
        self.gate = nn.Linear(len(DILATIONS) * features, features)
        self.output = nn.Linear(features, features)

    def forward(self, features: Tensor) -> Tensor:
        """Adds to each pixel what the gate lets through."""
        tokens, spatial = to_tokens(features), list(features.shape[2:])
        projected = F.gelu(self.projection(tokens))
        if torch.jit.is_scripting() or not self._in_parts(features):
            gate = self._all_scales(projected, spatial)
        else:
            gate = self._part_by_part(projected, spatial)
        return to_map(tokens + self.output(projected * gate), spatial)

    def _all_scales(self, projected: Tensor, spatial: list[int]) -> Tensor:
        seen = self.first(to_map(projected, spatial))
        scales: list[Tensor] = []
        for scale in self.scales:
            scales.append(to_tokens(scale(seen)))
        return self.gate(torch.cat(scales, dim=2))

    @torch.jit.unused
    def _in_parts(self, features: Tensor) -> bool:
        plain = torch.jit.is_tracing() or torch.compiler.is_compiling()
        mixed = torch.is_autocast_enabled(features.device.type) or features.dtype not in (torch.float32, torch.float64)
        return not plain and not mixed

    @torch.jit.unused
    def _part_by_part(self, projected: Tensor, spatial: list[int]) -> Tensor:
        """Some channels at a time, whose maps at all scales are not kept: they are cheap to make once more."""
        kernels = [*self.first.parameters(), *self.scales.parameters()]  # weight and bias of each
        return _Gate.apply(spatial, projected, self.gate.weight, self.gate.bias, *kernels)


def _see(tokens: Tensor, spatial: list[int], kernels: Sequence[Tensor]) -> Tensor:
    """What some channels see at all scales: tokens (B, N, c) -> (B * N, scales * c)."""
    seen = depthwise_conv(to_map(tokens, spatial), kernels[0], kernels[1])
    pairs = zip(kernels[2::2], kernels[3::2], DILATIONS.values(), strict=True)
    scales = [to_tokens(depthwise_conv(seen, weight, bias, dilation)) for weight, bias, dilation in pairs]
    return torch.cat(scales, dim=2).flatten(0, 1)


def _parts(tokens: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Some channels at a time of tokens (B, N, C), and of all else that has C rows."""
    at_once = CPU_CHANNELS if tokens.device.type == "cpu" else tokens.shape[2]
    return zip(tokens.split(at_once, dim=2), *(part.split(at_once) for part in others), strict=True)


class _Gate(torch.autograd.Function):
    """The linear map of what all channels see at all scales; keeps its arguments, and makes the rest once more."""

    @staticmethod
    def forward(spatial: list[int], tokens: Tensor, weight: Tensor, bias: Tensor, *kernels: Tensor) -> Tensor:
        gate = bias.repeat(tokens.shape[0] * tokens.shape[1], 1)
        for part, matrix, *own in _parts(tokens, _by_channel(weight), *kernels):
            gate.addmm_(_see(part, spatial, own), matrix.transpose(0, 1).flatten(0, 1))
        return gate.view(*tokens.shape[:2], -1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.spatial = inputs[0]
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        tokens, weight, _, *kernels = ctx.saved_tensors
        gradient = gradient.flatten(0, 1)
        of_tokens, of_weight = torch.empty_like(tokens), torch.empty_like(weight)
        of_kernels = [torch.empty_like(kernel) for kernel in kernels]
        parts = _parts(tokens, _by_channel(weight), *kernels)
        results = _parts(of_tokens, _by_channel(of_weight), *of_kernels)
        for (part, matrix, *own), (of_part, of_matrix, *of_own) in zip(parts, results, strict=True):
            leaves = [value.detach().requires_grad_() for value in (part, *own)]
            with torch.enable_grad():
                seen = _see(leaves[0], ctx.spatial, leaves[1:])
            of_matrix.copy_((seen.detach().t() @ gradient).unflatten(0, (-1, part.shape[2])).transpose(0, 1))
            found = torch.autograd.grad(seen, leaves, gradient @ matrix.transpose(0, 1).flatten(0, 1).t())
            for result, value in zip((of_part, *of_own), found, strict=True):
                result.copy_(value)
        return None, of_tokens, of_weight, gradient.sum(0), *of_kernels

    @staticmethod
    def vmap(info: Any, in_dims: tuple, spatial: list[int], *tensors: Tensor) -> tuple[Tensor, int]:
        """One network after the other."""
        results = []
        for index in range(info.batch_size):
            own = (
                tensor if axis is None else tensor.select(axis, index)
                for tensor, axis in zip(tensors, in_dims[1:], strict=True)
            )
            results.append(_Gate.apply(spatial, *own))
        return torch.stack(results), 0


def _by_channel(weight: Tensor) -> Tensor:
    """A view of a gate's weight, whose columns are the channels of one scale after another: (C, scales, features)."""
    return weight.t().unflatten(0, (len(DILATIONS), -1)).transpose(0, 1)
