"""The published formulas written down one by one, without a thought for speed: what the fast path is measured against.

Both fusion directions run one after the other, the feed-forward's first Linear is evaluated twice, maps keep their
channels first, and every step brings its cluster map to the host, as the published code does. It serves measurements
only; `tests/test_transcription.py` holds it to the published figures, as the library is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["CLIP_TEMPERATURE", "TranscribedFuseNet", "transcribed_step", "transcribed_terms"]

CLIP_TEMPERATURE = 5.0


class _Encoder(nn.Module):
    def __init__(self, in_channels: int, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, features, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 1, groups=features)
        self.bn2 = nn.BatchNorm2d(features)

    def forward(self, image: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.bn1(F.relu(self.conv1(image)))))


class _Head(nn.Module):
    def __init__(self, features: int, dropout: float) -> None:
        super().__init__()
        self.projection = nn.Linear(features, features)
        self.fc = nn.Linear(features, features)
        self.dropout = nn.Dropout(dropout)
        self.layer_norm = nn.LayerNorm(features)

    def forward(self, features: Tensor) -> Tensor:
        projected = self.projection(features)
        return self.layer_norm(self.dropout(self.fc(F.gelu(projected))) + projected)


class _Attention(nn.Module):
    """Keys and queries are the two softmaxes of `first`, values are `second`; (B, N, d) -> (B, N, 2d)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.reprojection = nn.Conv2d(features, 2 * features, 1)
        self.norm = nn.LayerNorm(2 * features)

    def forward(self, first: Tensor, second: Tensor, height: int, width: int) -> Tensor:
        batch, _, features = first.shape
        values = second.transpose(1, 2)
        keys = first.transpose(1, 2).softmax(dim=2)
        queries = first.transpose(1, 2).softmax(dim=1)
        context = keys @ values.transpose(1, 2)
        attended = (context.transpose(1, 2) @ queries).reshape(batch, features, height, width)
        return self.norm(self.reprojection(attended).flatten(2).transpose(1, 2))


class _DepthwiseConv(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(features, features, 3, padding=1, groups=features)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        batch, _, features = tokens.shape
        maps = tokens.transpose(1, 2).reshape(batch, features, height, width)
        return self.dwconv(maps).flatten(2).transpose(1, 2)


class _MixFeedForward(nn.Module):
    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(features, hidden)
        self.dwconv = _DepthwiseConv(hidden)
        self.norm1 = nn.LayerNorm(hidden)
        self.fc2 = nn.Linear(hidden, features)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        neighbours = self.dwconv(self.fc1(tokens), height, width)
        return self.fc2(F.gelu(self.norm1(neighbours + self.fc1(tokens))))


class _Fusion(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(features)
        self.attn = _Attention(features)
        self.norm2 = nn.LayerNorm(2 * features)
        self.mlp = _MixFeedForward(2 * features, 4 * features)

    def forward(self, first: Tensor, second: Tensor, height: int, width: int) -> Tensor:
        attended = self.attn(self.norm1(first), self.norm1(second), height, width)
        fused = torch.cat([first, second], dim=2) + attended
        return fused + self.mlp(self.norm2(fused), height, width)


class _Patches(nn.Module):
    """An 8 x 8 grid of patches, each flattened by row, column and channel; (B, C, H, W) -> (B, 64, C H W / 64)."""

    def forward(self, maps: Tensor) -> Tensor:
        batch, channels, height, width = maps.shape
        grid = maps.reshape(batch, channels, 8, height // 8, 8, width // 8)
        return grid.permute(0, 2, 4, 3, 5, 1).reshape(batch, 64, -1)


class TranscribedFuseNet(nn.Module):
    """The published network under the authors' parameter names; two images (B, 3, side, side) in.

    Args:
        side: height and width of all images, a multiple of 8.
        features: width of every description.
        dropout: of both projection heads.
    """

    def __init__(self, side: int = 256, features: int = 64, dropout: float = 0.1) -> None:
        super().__init__()
        self.img_enc = _Encoder(3, features)
        self.aug_enc = _Encoder(3, features)  # built and never used, as published
        self.image_projection = _Head(features, dropout)
        self.aug_projection = _Head(features, dropout)
        self.bn1 = nn.BatchNorm2d(features)
        self.bn2 = nn.BatchNorm2d(features)
        patch = features * (side // 8) ** 2
        self.to_patch_embedding_img = nn.Sequential(_Patches(), nn.Linear(patch, features))
        self.to_patch_embedding_aug = nn.Sequential(_Patches(), nn.Linear(patch, features))
        self.cross_attn = _Fusion(features)

    def forward(self, image: Tensor, augmented: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores (B, 2 * features, side, side) and the unit tokens (B, 64, features) of each view."""
        batch, _, height, width = image.shape
        image_tokens = self.image_projection(self.img_enc(image).flatten(2).transpose(1, 2))
        augmented_tokens = self.aug_projection(self.img_enc(augmented).flatten(2).transpose(1, 2))
        # Contiguous: torch 2.13 on the CPU gives wrong gradients of batch norm on the view, without a word.
        image_map = image_tokens.transpose(1, 2).contiguous().reshape(batch, -1, height, width)
        augmented_map = augmented_tokens.transpose(1, 2).contiguous().reshape(batch, -1, height, width)
        image_patches = F.normalize(self.to_patch_embedding_img(self.bn1(image_map)), dim=-1)
        augmented_patches = F.normalize(self.to_patch_embedding_aug(self.bn2(augmented_map)), dim=-1)
        forth = self.cross_attn(3 * image_tokens, 0.8 * augmented_tokens, height, width)
        back = self.cross_attn(0.8 * augmented_tokens, 3 * image_tokens, height, width)
        scores = (forth + back).transpose(1, 2).reshape(batch, -1, height, width)
        return scores, image_patches, augmented_patches


def transcribed_terms(output: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor, int]:
    """Weighted self-labelling, edge and cross-modal loss, and how many clusters win a pixel."""
    scores, image_tokens, augmented_tokens = output
    side = scores.shape[-1]
    flat = scores.permute(0, 2, 3, 1).reshape(-1, scores.shape[1])
    target = flat.argmax(dim=1)
    clusters = len(target.cpu().unique())
    self_labeling = F.cross_entropy(flat, target)

    small = F.interpolate(scores, size=side // 16, mode="bilinear", antialias=True)
    large = F.interpolate(small, size=side, mode="bilinear", antialias=True)
    edge = (scores.argmax(dim=1) - large.argmax(dim=1)).abs().to(scores.dtype).mean()

    logits = image_tokens @ augmented_tokens.mT / CLIP_TEMPERATURE
    within = (image_tokens @ image_tokens.mT + augmented_tokens @ augmented_tokens.mT) / 2
    targets = (CLIP_TEMPERATURE * within).softmax(dim=-1)
    forth = -(targets * logits.log_softmax(dim=-1)).sum(dim=-1)
    back = -(targets.mT * logits.mT.log_softmax(dim=-1)).sum(dim=-1)
    cross_modal = ((forth + back) / 2).mean()
    return 2.5 * self_labeling, 0.5 * edge, 0.5 * cross_modal, clusters


def transcribed_step(
    network: TranscribedFuseNet, optimizer: torch.optim.Optimizer, image: Tensor, augmented: Tensor
) -> tuple[float, float, float, int]:
    """One step of the published loop; returns the weighted terms and the number of clusters before the update."""
    optimizer.zero_grad()
    self_labeling, edge, cross_modal, clusters = transcribed_terms(network(image, augmented))
    (self_labeling + edge + cross_modal).backward()
    optimizer.step()
    return self_labeling.item(), edge.item(), cross_modal.item(), clusters
