"""Convolutions whose taps are moved by offsets, which are usually predicted from the features."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_fusenet.networks.blocks.layout import to_map, to_tokens
from monai_fusenet.utils.checks import check_network, check_sides
from monai_fusenet.utils.precision import at_least_float32, full_precision

__all__ = ["DeformableConv", "OffsetPrediction", "deform_conv"]

KERNEL = 3
# Values of all taps that are worked on together: a strip that fits into the caches of a CPU, or fills a GPU.
CPU_VALUES = 2**19
GPU_VALUES = 2**26


def deform_conv(image: Tensor, weight: Tensor, offset: Tensor, modulation: Tensor) -> Tensor:
    """Convolution with a 3x3 (3x3x3) kernel whose taps have their own shift and weight at every pixel.

    out[o, p] = sum over taps k and channels c of W[o, c, k] M[k, p] X[c, p + k + offset[k, p]], with X interpolated
    linearly between pixels. Pixels outside the image are 0. Time and memory are linear in the pixels. Autograd keeps
    only the arguments, whatever the number of taps: the samples are taken again in the backward pass. Where a tap lies
    exactly on a pixel, as all do at zero offsets, the gradient of its offset is the difference to the next pixel.

    Args:
        image: X, (B, C, *spatial), 2-D or 3-D.
        weight: W, (O, C, 3, 3) or (O, C, 3, 3, 3).
        offset: (B, taps * D, *spatial), in pixels: for each tap, in the row-major order of the kernel, the shift along
            each axis, in the order of the axes.
        modulation: M, (B, taps, *spatial).

    Returns:
        (B, O, *spatial), of the type of the image; computed in float32 at least.

    Raises:
        ValueError: when the shapes do not fit together.

    Reference:
        Zhu et al. 2019, "Deformable ConvNets v2", arXiv 1811.11168.
    """
    _check_shapes(image, weight, offset, modulation)
    if torch.jit.is_scripting() or _is_traced():
        result = _tap_by_tap(image, weight, offset, modulation)
    else:
        result = _in_strips(image, weight, offset, modulation)
    return result.to(image.dtype)


def _check_shapes(image: Tensor, weight: Tensor, offset: Tensor, modulation: Tensor) -> None:
    dims, spatial = image.dim() - 2, list(image.shape[2:])
    if dims != 2 and dims != 3:
        raise ValueError(f"images must have the shape (B, C, *spatial) in 2-D or 3-D, got {list(image.shape)}")
    expected = [weight.shape[0], image.shape[1]] + [3] * dims
    if list(weight.shape) != expected:
        raise ValueError(f"the weight must have the shape {expected}, got {list(weight.shape)}")
    taps = weight[0, 0].numel()
    expected = [image.shape[0], taps * dims] + spatial  # noqa: RUF005
    if list(offset.shape) != expected:
        raise ValueError(f"the offset must have the shape {expected}, got {list(offset.shape)}")
    expected = [image.shape[0], taps] + spatial  # noqa: RUF005
    if list(modulation.shape) != expected:
        raise ValueError(f"the modulation must have the shape {expected}, got {list(modulation.shape)}")


@torch.jit.unused
def _is_traced() -> bool:
    return torch.jit.is_tracing() or torch.compiler.is_compiling()


def _tap_by_tap(image: Tensor, weight: Tensor, offset: Tensor, modulation: Tensor) -> Tensor:
    """With one call of `grid_sample` for each tap, which scripts and exporters know; keeps the samples of all taps."""
    dims, spatial = image.dim() - 2, list(image.shape[2:])
    image, matrices = at_least_float32(image), at_least_float32(weight).flatten(2)
    taps = matrices.shape[2]
    shifts = at_least_float32(offset).unflatten(1, [taps, dims])
    result = torch.zeros([1], dtype=image.dtype, device=image.device)
    for tap in range(taps):
        places: list[Tensor] = []
        later = taps
        for axis in range(dims):
            later = later // 3  # taps of all axes behind this one
            shape = [1] * (1 + dims)
            shape[1 + axis] = spatial[axis]
            position = torch.arange(spatial[axis], dtype=image.dtype, device=image.device).view(shape)
            position = position + (tap // later % 3 - 1) + shifts[:, tap, axis]
            # In the units of grid_sample, to which -1 and 1 are the outer edges of the first and the last pixel.
            places.insert(0, (2 * position + 1) / spatial[axis] - 1)
        samples = F.grid_sample(image, torch.stack(places, dim=-1), "bilinear", "zeros", align_corners=False)
        samples = to_tokens(samples * modulation[:, tap : tap + 1].to(image.dtype))
        result = result + samples @ matrices[:, :, tap].t()
    return to_map(result, spatial)


@torch.jit.unused
def _in_strips(image: Tensor, weight: Tensor, offset: Tensor, modulation: Tensor) -> Tensor:
    spatial = list(image.shape[2:])
    tokens = [to_tokens(at_least_float32(part)).contiguous() for part in (image, offset, modulation)]
    # Rows by tap, then channel: the order in which the samples of a pixel lie.
    matrix = at_least_float32(weight).flatten(2).permute(2, 1, 0).flatten(0, 1)
    return to_map(_DeformConv.apply(tokens[0], matrix, *tokens[1:], spatial), spatial)


class _DeformConv(torch.autograd.Function):
    """Deformable convolution of tokens (B, N, C), strip by strip, with a matrix (taps * C, O); keeps its inputs."""

    @staticmethod
    def forward(image: Tensor, matrix: Tensor, offset: Tensor, modulation: Tensor, spatial: Sequence[int]) -> Tensor:
        flat, offset, modulation = image.flatten(0, 1), offset.flatten(0, 1), modulation.flatten(0, 1)
        result = flat.new_empty(len(flat), matrix.shape[1])
        with full_precision(image):
            for strip in _strips(flat, len(matrix)):
                seen, weights = _corners(strip, offset[strip], modulation[strip], spatial)
                samples = F.embedding_bag(seen, flat, mode="sum", per_sample_weights=weights)
                result[strip] = samples.view(-1, len(matrix)) @ matrix
        return result.view(*image.shape[:2], -1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.spatial = inputs[-1]
        ctx.save_for_backward(*inputs[:-1])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        image, matrix, offset, modulation = ctx.saved_tensors
        gradients = [torch.zeros_like(part) for part in ctx.saved_tensors]
        of_image, of_offset, of_modulation = (gradients[place].flatten(0, 1) for place in (0, 2, 3))
        of_matrix = gradients[1]
        flat, gradient = image.flatten(0, 1), gradient.flatten(0, 1)
        offset, modulation = offset.flatten(0, 1), modulation.flatten(0, 1)
        for strip in _strips(flat, len(matrix)):
            with torch.enable_grad():
                moved = [part[strip].detach().requires_grad_() for part in (offset, modulation)]
                seen, weights = _corners(strip, moved[0], moved[1], ctx.spatial)
                samples = F.embedding_bag(seen, flat, mode="sum", per_sample_weights=weights)
            of_result = gradient[strip]
            of_matrix.addmm_(samples.detach().view(-1, len(matrix)).t(), of_result)
            of_samples = (of_result @ matrix.t()).view_as(samples)
            of_offset[strip], of_modulation[strip] = torch.autograd.grad(samples, moved, of_samples)
            for pixels, share in zip(seen.unbind(1), weights.detach().unbind(1), strict=True):
                of_image.index_add_(0, pixels, of_samples * share.unsqueeze(1))
        return *gradients, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *inputs: Any) -> tuple[Tensor, int]:
        """One network after the other: each has a matrix of its own."""
        results = []
        for index in range(info.batch_size):
            own = (
                part if axis is None else part.select(axis, index).contiguous()
                for part, axis in zip(inputs[:-1], in_dims, strict=False)
            )
            results.append(_DeformConv.apply(*own, inputs[-1]))
        return torch.stack(results), 0


def _strips(flat: Tensor, values: int) -> Iterator[slice]:
    """The pixels of tokens (B * N, C), some at a time, each of which has so many values on its taps."""
    at_once = max(1, (CPU_VALUES if flat.device.type == "cpu" else GPU_VALUES) // values)
    for start in range(0, len(flat), at_once):
        yield slice(start, min(start + at_once, len(flat)))


def _corners(strip: slice, offset: Tensor, modulation: Tensor, spatial: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Which pixels the taps of some pixels see, and how much of each.

    Args:
        strip: n of the pixels of a batch, which are numbered from image to image.
        offset: (n, taps * D).
        modulation: (n, taps).
        spatial: of the images.

    Returns:
        numbers of the pixels seen, and their weights, both (n * taps, 2 ** D); the weight is 0 outside
    """
    dims, stride = len(spatial), math.prod(spatial)
    places = torch.arange(strip.start, strip.stop, device=offset.device).unsqueeze(1)
    taps = torch.arange(KERNEL**dims, device=offset.device)
    shifts = offset.view(len(places), -1, dims).unbind(2)
    # Corner by corner, as sums over an axis of two are slow; the first is the lower one along each axis.
    seen, weights = [places - places % stride], [modulation]
    for axis, side in enumerate(spatial):
        stride //= side
        centre = places // stride % side + taps // KERNEL ** (dims - 1 - axis) % KERNEL - 1
        # Further away than one pixel outside nothing is seen, and numbers could grow beyond any integer.
        position = (centre + shifts[axis]).clamp(-1, side)
        lower = position.detach().floor()
        share = position - lower
        within = ((lower >= 0) & (lower < side)).to(share), (lower < side - 1).to(share)
        pixel = lower.long()
        ends = [stride * pixel.clamp(0, side - 1), stride * (pixel + 1).clamp_(0, side - 1)]  # of NaN, too
        shares = [(1 - share) * within[0], share * within[1]]
        seen = [start + end for start in seen for end in ends]
        weights = [weight * part for weight in weights for part in shares]
    return torch.stack(seen, dim=2).flatten(0, 1), torch.stack(weights, dim=2).flatten(0, 1)


class OffsetPrediction(nn.Module):
    """Predicts the shift and the weight of each tap from the features.

    A 3x3 convolution that starts at zero: at first no tap is moved, and each has half its weight.

    Args:
        spatial_dims: 2 or 3.
        in_channels: of the features.

    Shape:
        (B, in_channels, *spatial) -> offset (B, taps * spatial_dims, *spatial), modulation (B, taps, *spatial) in
        (0, 1), both float32 at least

    Reference:
        Zhu et al. 2019, arXiv 1811.11168.
    """

    def __init__(self, spatial_dims: int, in_channels: int) -> None:
        super().__init__()
        self.taps = KERNEL**spatial_dims
        channels = self.taps * (spatial_dims + 1)
        self.weight = nn.Parameter(torch.empty(channels, in_channels, *[KERNEL] * spatial_dims))
        self.bias = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets weights and bias to zero, so that no tap is moved."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Offset and modulation of every tap at every pixel."""
        if features.dim() == 4:
            predicted = F.conv2d(features, self.weight, self.bias, padding=1)
        else:
            predicted = F.conv3d(features, self.weight, self.bias, padding=1)
        # Half precision could tell neither two pixels nor two taps apart at the far end of an image.
        predicted = at_least_float32(predicted)
        return predicted[:, : -self.taps], predicted[:, -self.taps :].sigmoid()


class DeformableConv(nn.Module):
    """Convolution without bias whose taps have their own shift and weight at every pixel (see `deform_conv`).

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels in.
        out_channels: channels out.
        offsets: "predicted" (default): offsets and modulation are predicted from the features (see `OffsetPrediction`),
            for images of any size. The weights start as those of an ordinary convolution. "free": both are parameters,
            one for each pixel and tap, and the modulation is used as it is. They start uniform in [0, 1), as the
            weights do. This is the published form, in 2-D only. The gradient of each such parameter comes from a single
            pixel of a mean over all pixels, so it is tiny: in a published fit, the layer stays about the random filter
            that it starts as.
        img_size: spatial size of all images, for free offsets; `None` for predicted ones.

    Shape:
        (B, in_channels, *spatial) -> (B, out_channels, *spatial)

    Raises:
        ValueError: for unknown `offsets`, for free ones in 3-D or without `img_size`, for predicted ones with it, and
            for images of a size other than `img_size`.

    Reference:
        Karimijafarbigloo et al. 2023, "S3-Net", arXiv 2309.00143; after Zhu et al. 2019, arXiv 1811.11168.
    """

    # TorchScript reads the type of a list that may be empty here.
    img_size: list[int]

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        offsets: str = "predicted",
        img_size: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        check_network(spatial_dims, in_channels=in_channels, out_channels=out_channels)
        if offsets not in ("predicted", "free"):
            raise ValueError(f'offsets must be "predicted" or "free", got "{offsets}"')
        if offsets == "free" and spatial_dims != 2:
            raise ValueError(f"free offsets are for 2-D only, got spatial_dims = {spatial_dims}")
        if (offsets == "free") != (img_size is not None):
            raise ValueError(
                "free offsets need an img_size, and predicted ones take none, "
                f"got {offsets} ones with img_size = {img_size}"
            )
        self.img_size = [] if img_size is None else check_sides("img_size", img_size, spatial_dims)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, *[KERNEL] * spatial_dims))
        self.prediction = OffsetPrediction(spatial_dims, in_channels) if offsets == "predicted" else None
        taps = KERNEL**spatial_dims
        self.offset = nn.Parameter(torch.empty(1, taps * spatial_dims, *self.img_size)) if self.img_size else None
        self.modulation = nn.Parameter(torch.empty(1, taps, *self.img_size)) if self.img_size else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the weights, and free offsets and modulation. Predicted ones are reset by their own module."""
        if self.offset is None or self.modulation is None:
            nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))  # torch's initial values for a convolution
            return
        for parameter in (self.weight, self.offset, self.modulation):
            nn.init.uniform_(parameter)

    def forward(self, features: Tensor) -> Tensor:
        """Convolves the features with the moved taps."""
        if self.prediction is not None:
            offset, modulation = self.prediction(features)
            return deform_conv(features, self.weight, offset, modulation)
        spatial = list(features.shape[2:])
        if spatial != self.img_size:
            raise ValueError(f"this network takes images of img_size = {self.img_size} only, got {spatial}")
        offset, modulation = self.offset, self.modulation
        assert offset is not None
        assert modulation is not None
        batch = features.shape[0]
        return deform_conv(
            features, self.weight, offset.expand(batch, -1, -1, -1), modulation.expand(batch, -1, -1, -1)
        )
