"""A patch should resemble its copy moved by a pixel more than any other patch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from monai_fusenet.utils.precision import at_least_float32

__all__ = ["IntraScaleConsistencyLoss", "patch_confusion"]


def patch_confusion(patch_attention: Tensor) -> Tensor:
    """Distance of each entry of a patch attention from the identity.

    Args:
        patch_attention: P, (B, n, n), rows sum to 1.

    Returns:
        `|P - I|`, (B, n, n), float32 at least.
    """
    attention = at_least_float32(patch_attention)
    return (attention - torch.eye(attention.shape[-1], dtype=attention.dtype, device=attention.device)).abs()


class IntraScaleConsistencyLoss(nn.Module):
    """Asks for patches that differ: mean `|P - I|` of the attention between patches and their moved copies.

    Rows sum to 1, so this is (2 / n) (1 - mean of the diagonal of P). It lies in [0, 2 / n] and is by far the smallest
    of the terms of MS-Former.

    Shape:
        patch attention (B, n, n), see `ShiftedPatchAttention` -> scalar. Computed in float32 at least.

    Raises:
        ValueError: when the input has another shape.

    Reference:
        Karimijafarbigloo et al. 2023, PMLR 227:680-694 (there a loss of spatial stability).
    """

    def forward(self, patch_attention: Tensor) -> Tensor:
        """The loss of a patch attention."""
        if patch_attention.ndim != 3 or patch_attention.shape[1] != patch_attention.shape[2]:
            raise ValueError(f"patch_attention must have the shape (B, n, n), got {tuple(patch_attention.shape)}")
        return patch_confusion(patch_attention).mean()
