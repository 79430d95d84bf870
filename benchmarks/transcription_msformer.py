"""The published formulas of MS-Former written down one by one: what the fast path is measured against.

Maps keep their channels first, the feed-forward's first Linear is evaluated twice, layers that only reshape are made
anew in every pass, and every step brings its cluster map to the host, as the published code does. It serves
measurements only; `tests/test_transcription_msformer.py` holds it to the published figures, as the library is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["TranscribedMSFormer", "transcribed_step", "transcribed_terms"]

PATCHES = 8  # along each axis


class _PatchEmbed(nn.Module):
    def __init__(self, stride: int, in_channels: int, features: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, features, 3, stride=stride, padding=1)
        self.norm = nn.BatchNorm2d(features)

    def forward(self, image: Tensor) -> Tensor:
        return self.norm(self.proj(image))


class _Attention(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.keys = nn.Conv2d(features, features, 1)
        self.queries = nn.Conv2d(features, features, 1)
        self.values = nn.Conv2d(features, features, 1)
        self.reprojection = nn.Conv2d(features, features, 1)

    def forward(self, tokens: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        maps = nn.Unflatten(2, (height, width))(tokens.transpose(1, 2).contiguous())
        flatten = nn.Flatten(2)
        keys = flatten(self.keys(maps)).softmax(dim=2)
        queries = flatten(self.queries(maps)).softmax(dim=1)
        values = flatten(self.values(maps))
        context = keys @ values.transpose(1, 2)
        attended = nn.Unflatten(2, (height, width))(context.transpose(1, 2) @ queries)
        return flatten(self.reprojection(attended)).transpose(1, 2), context


class _DepthwiseConv(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(features, features, 3, padding=1, groups=features)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        maps = nn.Unflatten(2, (height, width))(tokens.transpose(1, 2).contiguous())
        return nn.Flatten(2)(self.dwconv(maps)).transpose(1, 2)


class _MixFeedForward(nn.Module):
    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(features, hidden)
        self.dwconv = _DepthwiseConv(hidden)
        self.norm1 = nn.LayerNorm(hidden)
        self.fc2 = nn.Linear(hidden, features)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        neighbours = self.dwconv(self.fc1(tokens), height, width)
        return self.fc2(nn.GELU()(self.norm1(neighbours + self.fc1(tokens))))


class _Block(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(features)
        self.attn = _Attention(features)
        self.norm2 = nn.LayerNorm(features)
        self.mlp = _MixFeedForward(features, 4 * features)

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        _, _, height, width = maps.shape
        tokens = nn.Flatten(2)(maps).transpose(1, 2)
        attended, context = self.attn(self.norm1(tokens), height, width)
        tokens = tokens + attended
        tokens = tokens + self.mlp(self.norm2(tokens), height, width)
        # Contiguous: torch 2.13 on the CPU gives wrong gradients of batch norm on the view, without a word.
        return nn.Unflatten(2, (height, width))(tokens.transpose(1, 2).contiguous()), context


class _Patches(nn.Module):
    """A grid of patches, each flattened by row, column and channel; (B, C, H, W) -> (B, 64, C H W / 64)."""

    def forward(self, maps: Tensor) -> Tensor:
        batch, channels, height, width = maps.shape
        grid = maps.reshape(batch, channels, PATCHES, height // PATCHES, PATCHES, width // PATCHES)
        return grid.permute(0, 2, 4, 3, 5, 1).reshape(batch, PATCHES**2, -1)


class TranscribedMSFormer(nn.Module):
    """The published network under the authors' parameter names; an image (B, 3, side, side) in.

    Args:
        side: height and width of all images, a multiple of 8 and one more.
        features: width of every description, and number of clusters.
    """

    def __init__(self, side: int = 257, features: int = 100) -> None:
        super().__init__()
        self.patch_embed_s = _PatchEmbed(1, 3, features)
        self.patch_embed_l = _PatchEmbed(2, 3, features)
        self.block_s = nn.ModuleList([_Block(features) for _ in range(2)])
        self.block_l = nn.ModuleList([_Block(features) for _ in range(2)])
        self.bn2_s = nn.ModuleList([nn.BatchNorm2d(features) for _ in range(2)])
        self.bn2_l = nn.ModuleList([nn.BatchNorm2d(features) for _ in range(2)])
        self.linear_up = nn.Linear(features, 4 * features, bias=False)
        self.linear_down = nn.Linear(2 * features, features, bias=False)
        self.to_patch_embedding = nn.Sequential(_Patches(), nn.Linear(features * (side // PATCHES) ** 2, features))
        self.bn3 = nn.BatchNorm2d(features)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Scores (B, features, side, side), context of the fine and of the coarse branch, patch attention (64, 64)."""
        batch, _, height, width = image.shape
        fine, coarse = self.patch_embed_s(image), self.patch_embed_l(image)
        for block, norm in zip(self.block_s, self.bn2_s, strict=True):
            fine, fine_context = block(fine)
            fine = norm(fine)
        for block, norm in zip(self.block_l, self.bn2_l, strict=True):
            coarse, coarse_context = block(coarse)
            coarse = norm(coarse)
        rows, columns = height // 2 + 1, width // 2 + 1
        raised = self.linear_up(coarse.permute(0, 2, 3, 1)).reshape(batch, rows, columns, 2, 2, -1)
        raised = raised.permute(0, 1, 3, 2, 4, 5).reshape(batch, 2 * rows, 2 * columns, -1)[:, :-1, :-1]
        both = torch.cat([raised, fine.permute(0, 2, 3, 1)], dim=3)
        scores = self.linear_down(both).permute(0, 3, 1, 2).contiguous()
        normalized = self.bn3(scores)
        queries = self.to_patch_embedding(normalized[:, :, 1:, 1:])
        keys = self.to_patch_embedding(normalized[:, :, :-1, :-1])
        attention = (queries @ keys.transpose(1, 2) * (PATCHES**2) ** -0.5).softmax(dim=-1)
        return scores, fine_context, coarse_context, attention


def transcribed_terms(output: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor, int]:
    """Weighted self-labelling, inter-scale and intra-scale loss, and how many clusters win a pixel."""
    scores, fine_context, coarse_context, attention = output
    flat = scores.permute(0, 2, 3, 1).reshape(-1, scores.shape[1])
    target = flat.argmax(dim=1)
    clusters = len(target.cpu().unique())
    self_labeling = nn.CrossEntropyLoss()(flat, target)
    fine, coarse = fine_context.flatten(0, 1), coarse_context.flatten(0, 1)
    inter = nn.CosineEmbeddingLoss()(fine, coarse, torch.ones(len(fine), dtype=fine.dtype))
    identity = torch.eye(attention.shape[-1], dtype=attention.dtype)
    intra = F.l1_loss(attention, identity.expand_as(attention))
    return self_labeling, 2 * inter, 1.2 * intra, clusters


def transcribed_step(
    network: TranscribedMSFormer, optimizer: torch.optim.Optimizer, image: Tensor
) -> tuple[float, float, float, float, int]:
    """One step of the published loop; returns weighted terms, total and number of clusters before the update."""
    optimizer.zero_grad()
    self_labeling, inter, intra, clusters = transcribed_terms(network(image))
    total = self_labeling + inter + intra
    total.backward()
    optimizer.step()
    return self_labeling.item(), inter.item(), intra.item(), total.item(), clusters
