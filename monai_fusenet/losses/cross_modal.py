"""The two views of an image should agree, patch by patch."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from monai_fusenet.utils.checks import check_number
from monai_fusenet.utils.precision import at_least_float32, full_precision

__all__ = ["CrossModalLoss", "CrossModalSimilarity", "cross_modal_similarity"]


class CrossModalSimilarity(NamedTuple):
    """Similarity of tokens across the views, and what it should be: both (B, patches, patches), float32 at least."""

    logits: Tensor
    targets: Tensor


def cross_modal_similarity(image_tokens: Tensor, augmented_tokens: Tensor, temperature: float) -> CrossModalSimilarity:
    """Compares every patch of one view with every patch of the other.

    logits = t_x t_y^T / tau; targets = row-softmax of tau (t_x t_x^T + t_y t_y^T) / 2.

    Args:
        image_tokens: t_x, (B, patches, features).
        augmented_tokens: t_y, (B, patches, features).
        temperature: tau, above 0.
    """
    image_tokens, augmented_tokens = at_least_float32(image_tokens), at_least_float32(augmented_tokens)
    with full_precision(image_tokens):
        logits = image_tokens @ augmented_tokens.mT / temperature
        within = image_tokens @ image_tokens.mT + augmented_tokens @ augmented_tokens.mT
    return CrossModalSimilarity(logits, (temperature * within / 2).softmax(dim=-1))


class CrossModalLoss(nn.Module):
    """CLIP's symmetric cross-entropy with the augmented view instead of the text, and soft targets.

    Args:
        temperature: tau, above 0.
        detach_targets: `True` keeps gradients out of the targets; the published code lets them through.

    Shape:
        two tensors (B, patches, features) of L2-normalised tokens -> scalar, at least 0. Each image is compared only
        with itself, so the loss of a batch is the mean over its images. Computed in float32 at least, whatever the type
        of the tokens, and under autocast too.

    Raises:
        ValueError: when the shapes differ, or the temperature is not above 0.

    Reference:
        Kazerouni et al. 2023, arXiv 2311.13069, section 2; after Radford et al. 2021, arXiv 2103.00020.
    """

    def __init__(self, temperature: float = 5.0, detach_targets: bool = False) -> None:
        super().__init__()
        check_number("temperature", temperature)
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        self.temperature = temperature
        self.detach_targets = detach_targets

    def forward(self, image_tokens: Tensor, augmented_tokens: Tensor) -> Tensor:
        """The loss of the tokens of two views."""
        if image_tokens.shape != augmented_tokens.shape or image_tokens.ndim != 3:
            raise ValueError(
                "image_tokens and augmented_tokens must have the same shape (B, patches, features), "
                f"got {tuple(image_tokens.shape)} and {tuple(augmented_tokens.shape)}"
            )
        logits, targets = cross_modal_similarity(image_tokens, augmented_tokens, self.temperature)
        if self.detach_targets:
            targets = targets.detach()
        to_augmented = -(targets * logits.log_softmax(dim=2)).sum(dim=2)
        to_image = -(targets.mT * logits.mT.log_softmax(dim=2)).sum(dim=2)
        return (to_augmented + to_image).mean() / 2
