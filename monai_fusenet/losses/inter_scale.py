"""Both scales of an image should agree."""

from __future__ import annotations

from torch import Tensor, nn

from monai_fusenet.utils.precision import at_least_float32

__all__ = ["InterScaleConsistencyLoss", "inter_scale_disagreement"]

EPS = 1e-12  # of a squared length


def inter_scale_disagreement(fine_context: Tensor, coarse_context: Tensor) -> Tensor:
    """One minus the cosine of the angle between the rows of two contexts.

    Args:
        fine_context: (B, d, e).
        coarse_context: (B, d, e).

    Returns:
        (B, d), float32 at least, values in [0, 2]: 0 where both point the same way.
    """
    fine, coarse = at_least_float32(fine_context), at_least_float32(coarse_context)
    lengths = (fine.square().sum(dim=-1) + EPS) * (coarse.square().sum(dim=-1) + EPS)
    return 1 - (fine * coarse).sum(dim=-1) / lengths.sqrt()


class InterScaleConsistencyLoss(nn.Module):
    """Asks the contexts of a fine and of a coarse view of an image to agree; mean over features.

    Shape:
        two contexts (B, d, e), see `efficient_attention` -> scalar in [0, 2]. Computed in float32 at least.

    Raises:
        ValueError: when the shapes differ.

    Reference:
        Karimijafarbigloo et al. 2023, "MS-Former: Multi-Scale Self-Guided Transformer for Medical Image Segmentation",
        PMLR 227:680-694.
    """

    def forward(self, fine_context: Tensor, coarse_context: Tensor) -> Tensor:
        """The loss of the contexts of two scales."""
        if fine_context.shape != coarse_context.shape or fine_context.ndim != 3:
            raise ValueError(
                "fine_context and coarse_context must have the same shape (B, d, e), "
                f"got {tuple(fine_context.shape)} and {tuple(coarse_context.shape)}"
            )
        return inter_scale_disagreement(fine_context, coarse_context).mean()
