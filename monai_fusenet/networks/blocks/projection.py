"""From pixel descriptions to the two embeddings that the losses see: per pixel and per patch."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from monai_fusenet.networks.blocks.layout import to_map, to_tokens
from monai_fusenet.utils.checks import check_sides
from monai_fusenet.utils.precision import at_least_float32

__all__ = ["PatchGrid", "PatchTokens", "ProjectionHead", "ShiftedPatchAttention"]


class ProjectionHead(nn.Module):
    """Projects each pixel on its own: u = W1 f, then LayerNorm(Dropout(W2 GELU(u)) + u).

    Args:
        features: channels in and out.
        dropout: probability of dropping a value of the inner branch, in [0, 1).
        use_checkpoint: keep only the input for the backward pass, and compute the rest again there.

    Shape:
        (B, features, *spatial) -> (B, features, *spatial), 2-D or 3-D

    Reference:
        Kazerouni et al. 2023, arXiv 2311.13069, section 2.
    """

    def __init__(self, features: int = 64, dropout: float = 0.1, use_checkpoint: bool = False) -> None:
        super().__init__()
        self.use_checkpoint = use_checkpoint
        self.projection = nn.Linear(features, features)
        self.fc = nn.Linear(features, features)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(features)

    def forward(self, features: Tensor) -> Tensor:
        """Projects the description of each pixel."""
        tokens = to_tokens(features)
        if self.use_checkpoint and torch.is_grad_enabled() and not torch.jit.is_scripting():
            projected = checkpoint(self._project, tokens, use_reentrant=False)
        else:
            projected = self._project(tokens)
        return to_map(projected, list(features.shape[2:]))

    def _project(self, tokens: Tensor) -> Tensor:
        projected = self.projection(tokens)
        # Mixed precision is for products: embeddings are of the type of the weights, under autocast, too.
        return self.norm((self.dropout(self.fc(F.gelu(projected))) + projected).to(self.norm.weight.dtype))


def pooling_windows(side: int, patches: int, device: torch.device) -> Tensor:
    """Weights of adaptive average pooling along one axis: (patches, side), float64, each row sums to 1."""
    # Made where they are used: a copy from the host would wait for the device.
    start = torch.arange(patches, device=device) * side // patches
    end = -(-(torch.arange(patches, device=device) + 1) * side // patches)
    position = torch.arange(side, device=device)
    inside = (position >= start.unsqueeze(1)) & (position < end.unsqueeze(1))
    return inside.double() / inside.sum(dim=1, keepdim=True)


class PatchGrid(nn.Module):
    """The common part of all cuts of a map into patches: a batch norm, and a linear map of a patch to its token.

    Args:
        spatial_dims: 2 or 3.
        features: channels in and out.
        patch_grid: patches along each axis.
        img_size: spatial size of all images, for the published projection; `None`: any size.
        shift: how many pixels smaller than the image the map is that is cut into patches.
    """

    # TorchScript reads the types of lists that may be empty here (and would not, were annotations kept as strings).
    img_size: list[int]
    patched_size: list[int]
    patch_size: list[int]

    def __init__(
        self, spatial_dims: int, features: int, patch_grid: int, img_size: int | Sequence[int] | None, shift: int = 0
    ) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        self.patch_grid = patch_grid
        self.img_size = [] if img_size is None else check_sides("img_size", img_size, spatial_dims)
        if self.img_size and min(self.img_size) < patch_grid:
            raise ValueError(
                f"img_size must be at least patch_grid = {patch_grid} along each axis, got {self.img_size}"
            )
        self.patched_size = [max(1, side - shift) for side in self.img_size]
        self.patch_size = [-(-side // patch_grid) for side in self.patched_size]
        self.norm = nn.BatchNorm1d(features)
        self.projection = nn.Linear(features * math.prod(self.patch_size), features)

    def normalized(self, features: Tensor) -> Tensor:
        """Checks the size of a map and applies batch norm: (B, C, *spatial) -> (B, *spatial, C)."""
        spatial = list(features.shape[2:])
        if min(spatial) < self.patch_grid:
            raise ValueError(f"images must have at least {self.patch_grid} pixels along each axis, got {spatial}")
        if len(self.img_size) > 0 and spatial != self.img_size:
            raise ValueError(f"this network takes images of img_size = {self.img_size} only, got {spatial}")
        tokens = to_tokens(features)
        return self.norm(tokens.flatten(0, 1)).view_as(tokens).unflatten(1, spatial)

    def patches(self, pixels: Tensor) -> Tensor:
        """Cuts (B, *spatial, C) into patches: (B, patches, inputs of the linear map)."""
        if len(self.img_size) > 0:
            return self._cut(pixels)
        # One product for each axis; torch's adaptive pooling moves the channels to the front and back.
        for axis in range(self.spatial_dims, 0, -1):
            windows = pooling_windows(pixels.shape[axis], self.patch_grid, pixels.device).to(pixels)
            columns = pixels.flatten(axis + 1).flatten(0, axis - 1)
            shape = list(pixels.shape)
            shape[axis] = self.patch_grid
            pixels = (windows @ columns).view(shape)
        return pixels.flatten(1, self.spatial_dims)

    def _cut(self, pixels: Tensor) -> Tensor:
        padding = [0, 0]  # channels; F.pad counts from the last axis
        for axis in range(self.spatial_dims - 1, -1, -1):
            padding += [0, self.patch_grid * self.patch_size[axis] - self.patched_size[axis]]
        padded = F.pad(pixels, padding) if max(padding) > 0 else pixels
        shape = [pixels.shape[0]]
        grid_axes = [0]
        patch_axes: list[int] = []
        for axis in range(self.spatial_dims):
            shape += [self.patch_grid, self.patch_size[axis]]
            grid_axes.append(1 + 2 * axis)
            patch_axes.append(2 + 2 * axis)
        shape.append(pixels.shape[-1])
        patches = padded.reshape(shape).permute(grid_axes + patch_axes + [1 + 2 * self.spatial_dims])
        return patches.flatten(self.spatial_dims + 1).flatten(1, self.spatial_dims)


class PatchTokens(PatchGrid):
    """Summarises an embedding as a grid of patches, with one L2-normalised token for each patch.

    Batch norm, a cut into `patch_grid` patches per axis, a linear map to `features` channels, L2 normalisation.

    Without `img_size` each patch is averaged first. The linear map then has `features` x `features` weights, and any
    image size fits. Where the grid does not divide a side, neighbouring patches share a row of pixels. This differs
    from the published code, which flattens each patch (row, column, channel). `img_size` selects the published form:
    the number of weights grows with the area of a patch, and only this image size fits. Sides that the grid does not
    divide are then padded with zeros at the end.

    Args:
        spatial_dims: 2 or 3.
        features: channels in and out.
        patch_grid: patches along each axis.
        img_size: spatial size of all images, for the published projection; `None`: any size.

    Shape:
        (B, features, *spatial) -> (B, patch_grid ** spatial_dims, features)

    Raises:
        ValueError: when a side is shorter than `patch_grid`, or the spatial size is not `img_size`.

    Reference:
        Kazerouni et al. 2023, arXiv 2311.13069, section 2.
    """

    def __init__(
        self, spatial_dims: int, features: int = 64, patch_grid: int = 8, img_size: int | Sequence[int] | None = None
    ) -> None:
        super().__init__(spatial_dims, features, patch_grid, img_size)

    def forward(self, embedding: Tensor) -> Tensor:
        """Cuts `embedding` into patches and describes each by a unit vector."""
        patches = self.patches(self.normalized(embedding))
        # float16 has no room for the smallest length that is divided by.
        return F.normalize(at_least_float32(self.projection(patches)), dim=-1).to(self.projection.weight.dtype)


class ShiftedPatchAttention(PatchGrid):
    """Compares the patches of an image with those of the same image moved by one pixel.

    The steps: batch norm of the whole map; two windows of it, one without the first and one without the last pixel
    along each axis; both cut into `patch_grid` patches per axis; one linear map for the patches of both, which gives
    queries Q and keys R; P = row-softmax(scale Q R^T). An axis of one pixel is not moved.

    Without `img_size` each patch is averaged first, so that any image size fits, see `PatchTokens`. This differs from
    the published code, which flattens each patch (row, column, channel). `img_size` selects the published form: the
    number of weights grows with the area of a patch, and only this image size fits.

    Args:
        spatial_dims: 2 or 3.
        features: channels in and out.
        patch_grid: patches along each axis.
        img_size: spatial size of all images, for the published projection; `None`: any size.
        scale: factor of the products of queries and keys; the published value is 1/8 for any width.

    Shape:
        (B, features, *spatial) -> (B, patches, patches), rows sum to 1, patches = patch_grid ** spatial_dims

    Raises:
        ValueError: when a side is shorter than `patch_grid`, or the spatial size is not `img_size`.

    Reference:
        Karimijafarbigloo et al. 2023, PMLR 227:680-694.
    """

    def __init__(
        self,
        spatial_dims: int,
        features: int = 100,
        patch_grid: int = 8,
        img_size: int | Sequence[int] | None = None,
        scale: float = 0.125,
    ) -> None:
        super().__init__(spatial_dims, features, patch_grid, img_size, shift=1)
        self.scale = scale

    def tokens(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys, each (B, patches, features)."""
        first = self.normalized(features)
        second = first
        for axis in range(1, self.spatial_dims + 1):
            side = features.shape[axis + 1]
            first = first.narrow(axis, min(1, side - 1), max(1, side - 1))
            second = second.narrow(axis, 0, max(1, side - 1))
        queries, keys = self.projection(torch.stack([self.patches(first), self.patches(second)])).unbind(0)
        return queries, keys

    def forward(self, features: Tensor) -> Tensor:
        """How much each patch of one window resembles each patch of the other."""
        queries, keys = self.tokens(features)
        similarity = at_least_float32(queries) @ at_least_float32(keys).transpose(1, 2)
        return (self.scale * similarity).softmax(dim=-1).to(self.projection.weight.dtype)
