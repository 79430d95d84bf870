"""S3-Net's published formulas written down one by one, without a thought for speed (see `benchmarks/transcription.py`).

One call of `grid_sample` for each tap of the deformable convolution, maps keep their channels first, and labels are
painted in colours on the host in every step. It serves measurements only; `tests/test_transcribed_s3net.py` holds it
to the published figures, as the library is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["TranscribedS3Net", "transcribed_step", "transcribed_terms"]

GREY_WEIGHTS = torch.tensor([3735, 19235, 9798])  # of blue, green and red, in 32768ths


class _SpatialGating(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(features, features, 5, padding=2, groups=features)
        self.spatial_convs = nn.ModuleList(
            nn.Conv2d(features, features, side, padding=padding, dilation=dilation, groups=features)
            for side, dilation, padding in ((3, 1, 1), (5, 2, 4), (7, 3, 9))
        )
        self.conv1 = nn.Conv2d(3 * features, features, 1)

    def forward(self, u: Tensor) -> Tensor:
        a = self.conv0(u)
        return u * self.conv1(torch.cat([conv(a) for conv in self.spatial_convs], dim=1))


class _Attention(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.proj_1x1_1 = nn.Conv2d(features, features, 1)
        self.spatial_gating = _SpatialGating(features)
        self.proj_1x1_2 = nn.Conv2d(features, features, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.proj_1x1_2(self.spatial_gating(F.gelu(self.proj_1x1_1(x))))


class _DeformableConv(nn.Module):
    def __init__(self, features: int, height: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(features, features, 3, 3))
        self.offset = nn.Parameter(torch.rand(1, 18, height, width))
        self.mask = nn.Parameter(torch.rand(1, 9, height, width))

    def forward(self, x: Tensor) -> Tensor:
        return transcribed_deform_conv(x, self.weight, self.offset, self.mask)


def transcribed_deform_conv(x: Tensor, weight: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
    """Modulated deformable 3x3 convolution: one bilinear sample of the map, and one 1x1 convolution, for each tap."""
    height, width = x.shape[2:]
    rows = torch.arange(height, dtype=x.dtype).view(-1, 1)
    columns = torch.arange(width, dtype=x.dtype).view(1, -1)
    result = torch.zeros((), dtype=x.dtype)
    for tap in range(9):
        y = rows + tap // 3 - 1 + offset[:, 2 * tap]
        z = columns + tap % 3 - 1 + offset[:, 2 * tap + 1]
        grid = torch.stack([(2 * z + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
        grid = grid.expand(len(x), -1, -1, -1)
        sample = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        result = result + F.conv2d(mask[:, tap : tap + 1] * sample, weight[:, :, tap // 3, tap % 3, None, None])
    return result


class TranscribedS3Net(nn.Module):
    """The published network under the authors' parameter names; images (1, 3, height, width) in.

    Args:
        height: of all images.
        width: of all images.
        features: width of every description, and number of clusters.
    """

    def __init__(self, height: int = 256, width: int = 256, features: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, features, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(features)
        self.conv2 = nn.ModuleList(_Attention(features) for _ in range(2))
        self.bn2 = nn.ModuleList(nn.BatchNorm2d(features) for _ in range(2))
        self.convdeform = _DeformableConv(features, height, width)
        self.bn3 = nn.BatchNorm2d(features)
        self.conv3 = nn.Conv2d(features, features, 1)
        self.bn4 = nn.BatchNorm2d(features)
        self.conv_aux = nn.Conv2d(features, features, 1)
        self.bn_aux = nn.BatchNorm2d(features)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Scores, and those of the auxiliary head after the transform, both (1, features, height, width)."""
        x = self.bn1(self.conv1(image))
        for attention, norm in zip(self.conv2, self.bn2, strict=True):
            x = norm(attention(x))
        auxiliary = self.bn_aux(self.conv_aux(x))
        scores = self.bn4(self.conv3(self.bn3(self.convdeform(x))))
        return scores, transcribed_transform(auxiliary)


def transcribed_transform(maps: Tensor) -> Tensor:
    """A quarter turn about the centre, of the middle square; zeros elsewhere."""
    height, width = maps.shape[2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    turned = torch.zeros_like(maps)
    middle = maps[:, :, top : top + side, left : left + side]
    turned[:, :, top : top + side, left : left + side] = middle.rot90(-1, (-2, -1))
    return turned


def transcribed_spatial_term(labels: Tensor, colours: Tensor) -> Tensor:
    """Differences of Sobel derivatives of a picture in which each label (height, width) has a colour (B, G, R)."""
    grey = (colours @ GREY_WEIGHTS + 2**14) // 2**15
    picture = torch.zeros(labels.shape, dtype=torch.float64)
    for label in labels.unique().tolist():
        picture[labels == label] = float(grey[label % len(grey)]) / 255
    padded = F.pad(picture[None, None], (1, 1, 1, 1), mode="reflect")
    slope, smooth = torch.tensor([-1.0, 0, 1]).double(), torch.tensor([1.0, 2, 1]).double()
    kernels = torch.stack([torch.outer(smooth, slope), torch.outer(slope, smooth), torch.outer(slope, slope)])
    x, y, xy = F.conv2d(padded, kernels.unsqueeze(1))[0]
    return (y - x).abs().mean() + (xy - x).abs().mean() + (xy - y).abs().mean()


def transcribed_terms(output: tuple[Tensor, Tensor], colours: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
    """Weighted self-labelling, affine and spatial loss, and how many clusters win a pixel."""
    scores, turned = output
    # Channels last, then flat: from other views torch 2.13 on the CPU makes wrong gradients of batch norm.
    flat = scores.permute(0, 2, 3, 1).reshape(-1, scores.shape[1])
    labels = flat.argmax(dim=1)
    clusters = len(labels.cpu().unique())
    self_labeling = F.cross_entropy(flat, labels)
    target = transcribed_transform(scores).argmax(dim=1)
    affine = F.cross_entropy(turned, target)
    spatial = transcribed_spatial_term(labels.view(scores.shape[2:]).cpu(), colours)
    return 3.5 * self_labeling, 0.2 * affine, 4 * spatial, clusters


def transcribed_step(
    network: TranscribedS3Net, optimizer: torch.optim.Optimizer, image: Tensor, colours: Tensor
) -> tuple[float, float, float, float, int]:
    """One step of the published loop; returns the weighted terms, their sum and the number of clusters before it."""
    optimizer.zero_grad()
    self_labeling, affine, spatial, clusters = transcribed_terms(network(image), colours)
    total = self_labeling + affine + spatial
    total.backward()
    optimizer.step()
    return self_labeling.item(), affine.item(), spatial.item(), total.item(), clusters
