"""Cross-view attention that turns two embeddings into scores for clusters."""

from __future__ import annotations

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn
from torch.nn import functional as F

from monai_fusenet.networks.layout import to_map, to_tokens

__all__ = ["FusionBlock", "MixFeedForward"]


class MixFeedForward(nn.Module):
    """Feed-forward with a look at the neighbours: W_b GELU(LN(DWConv3x3(h) + h)) with h = W_a z.

    Args:
        spatial_dims: 2 or 3.
        features: channels in and out.
        hidden: inner channels.

    Shape:
        tokens (B, N, features) with their grid -> (B, N, features)
    """

    def __init__(self, spatial_dims: int, features: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(features, hidden)
        self.depthwise = Conv[Conv.CONV, spatial_dims](hidden, hidden, kernel_size=3, padding=1, groups=hidden)
        self.norm = nn.LayerNorm(hidden)
        self.fc2 = nn.Linear(hidden, features)

    def forward(self, tokens: Tensor, spatial: list[int]) -> Tensor:
        """Mixes the channels of each token and those of its neighbours on the grid `spatial`."""
        hidden = self.fc1(tokens)
        neighbours = to_tokens(self.depthwise(to_map(hidden, spatial)))
        return self.fc2(F.gelu(self.norm(neighbours + hidden)))


class FusionBlock(nn.Module):
    """Fuses two views of one image in both directions and sums: F(a, b) + F(b, a), with shared weights.

    F(a, b) first lets a's pixels collect what b has to say, by efficient attention (softmax of a's channels against
    softmax of a's pixels, values from b; cost linear in the number of pixels), adds this to [a, b], and mixes the
    result once more with its neighbourhood. The residual [a, b] is not normalised: clusters c and c + features start
    as near twins.

    Args:
        spatial_dims: 2 or 3.
        features: channels of each view; the block puts out twice as many.

    Shape:
        two maps (B, features, *spatial) -> scores (B, 2 * features, *spatial)

    Reference:
        Kazerouni et al. 2023, arXiv 2311.13069, section 2.
    """

    def __init__(self, spatial_dims: int, features: int = 64) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(features)
        self.reprojection = nn.Linear(features, 2 * features)
        self.attention_norm = nn.LayerNorm(2 * features)
        self.norm2 = nn.LayerNorm(2 * features)
        self.feed_forward = MixFeedForward(spatial_dims, 2 * features, 4 * features)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Scores each pixel for 2 * features clusters; the order of the two views does not matter."""
        spatial = list(first.shape[2:])
        views = torch.stack([to_tokens(first), to_tokens(second)])  # (2, B, N, d)
        normalized = self.norm1(views)
        # Both directions as one batch: queries and keys of one view meet the values of the other.
        context = normalized.softmax(dim=2).transpose(2, 3) @ normalized.flip(0)
        attended = self.attention_norm(self.reprojection(normalized.softmax(dim=3) @ context))
        fused = (torch.cat([views, views.flip(0)], dim=3) + attended).flatten(0, 1)  # (2B, N, 2d)
        fused = fused + self.feed_forward(self.norm2(fused), spatial)
        return to_map(fused.unflatten(0, [2, first.shape[0]]).sum(0), spatial)
