"""Batch norm of maps, with correct gradients on every device."""

from torch import Tensor, nn

from monai_fusenet.networks.blocks.layout import to_map, to_tokens

__all__ = ["PixelNorm"]


class PixelNorm(nn.Module):
    """Batch norm of each channel over the pixels of a batch; its values are of the type of its weights.

    It works on pixels, (B * N, C). Applied to the map of a single image, torch 2.13 computes wrong gradients on the CPU
    when the gradient arrives in an unusual layout, and gives no warning. A network that ends in a norm cannot choose
    that layout.

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
