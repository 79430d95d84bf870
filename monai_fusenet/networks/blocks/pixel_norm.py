"""Batch norm of maps whose gradients are right on every device."""

from torch import Tensor, nn

from monai_fusenet.networks.blocks.layout import to_map, to_tokens

__all__ = ["PixelNorm"]


class PixelNorm(nn.Module):
    """Batch norm of each channel over the pixels of a batch; its values are of the type of its weights.

    It sees pixels one by one, (B * N, C). From a map of one image whose gradient arrives in an unusual layout, torch
    2.13 computes wrong gradients on the CPU, without a word; networks that end in a norm cannot choose that layout.

    Args:
        features: channels.

    Shape:
        (B, features, *spatial) -> (B, features, *spatial)
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(features)

    def forward(self, maps: Tensor) -> Tensor:
        """Normalises each channel."""
        tokens = to_tokens(maps)
        # Mixed precision is for products: what is normalised, and what comes of it, is of the type of the weights.
        pixels = tokens.flatten(0, 1).to(self.norm.weight.dtype)
        return to_map(self.norm(pixels).view_as(tokens), list(maps.shape[2:]))
