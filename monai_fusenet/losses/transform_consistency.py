"""A pixel should keep its cluster wherever a transform moves it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from monai_fusenet.utils.precision import at_least_float32
from monai_fusenet.utils.strips import rows_at_once

__all__ = ["TransformConsistencyLoss", "equivariance", "label_cross_entropy", "published_consistency"]

MODES = ("equivariant", "published")


def label_cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each pixel's scores against a given label; log(K) when all scores tie.

    Args:
        scores: (B, K, *spatial), finite values.
        labels: (B, *spatial), whole numbers in [0, K).

    Returns:
        (B, *spatial), float32 at least
    """
    pixels = at_least_float32(scores).movedim(1, -1)
    flat = pixels.flatten(0, -2)
    rows = rows_at_once(flat, axis=0)
    parts = zip(flat.split(rows), labels.reshape(-1, 1).split(rows), strict=True)
    losses = [part.logsumexp(dim=1) - part.gather(1, own).squeeze(1) for part, own in parts]
    return torch.cat(losses).view(pixels.shape[:-1])


def equivariance(scores: Tensor, auxiliary_scores: Tensor, correspondence: Tensor) -> Tensor:
    """Cross-entropy of the scores of a second view against the labels that its pixels have in the image.

    Args:
        scores: of the image, (B, K, *spatial); their labels have no gradient.
        auxiliary_scores: of the second view, of the same shape.
        correspondence: (B, 1, *spatial), whole numbers: for each pixel of the second view the number of the pixel of
            the image that it came from, in row-major order, or -1 where it came from outside. Values are not checked,
            because a GPU would have to wait for the check.

    Returns:
        (B,), for each image the mean over the pixels that came from inside; 0 where there are none
    """
    where = correspondence.flatten(1)
    inside = where >= 0
    labels = _labels(scores).flatten(1).gather(1, where.clamp(min=0).long())
    losses = label_cross_entropy(auxiliary_scores, labels).flatten(1)
    return (losses * inside).sum(dim=1) / inside.sum(dim=1).clamp(min=1)


def published_consistency(scores: Tensor, auxiliary_scores: Tensor) -> Tensor:
    """The number that the published code prints: both maps are turned by 90 degrees, with zeros from outside.

    The turn is about the centre and keeps the grid. The middle square is turned alike in both maps, so the turn
    cancels. The loss of its pixels is the cross-entropy of the auxiliary scores against the labels of the other map. A
    pixel that is zero in both maps has loss log(K).

    Args:
        scores: (B, K, height, width), both sides even or both odd. Otherwise all samples of the turn fall between two
            pixels, and rounding decides. The labels have no gradient.
        auxiliary_scores: of the same shape.

    Returns:
        (B,), the mean over the pixels of each image

    Raises:
        ValueError: for maps of another shape.
    """
    if scores.ndim != 4 or (scores.shape[2] - scores.shape[3]) % 2:
        raise ValueError(
            "the published turn is of maps (B, K, height, width) whose sides are both even or both odd, "
            f"got {tuple(scores.shape)}"
        )
    height, width = scores.shape[2:]
    side = min(height, width)
    rows, columns = (slice((whole - side) // 2, (whole + side) // 2) for whole in (height, width))
    labels = _labels(scores)[:, rows, columns]
    losses = label_cross_entropy(auxiliary_scores[:, :, rows, columns], labels).flatten(1)
    outside = height * width - side**2
    return (losses.sum(dim=1) + outside * math.log(scores.shape[1])) / (height * width)


def _labels(scores: Tensor) -> Tensor:
    """The strongest cluster of each pixel: (B, K, *spatial) -> (B, *spatial)."""
    return scores.detach().movedim(1, -1).argmax(dim=-1)


class TransformConsistencyLoss(nn.Module):
    """Asks the auxiliary head to give each pixel of a second view the cluster that it has in the image.

    Differs from the published code, which never transforms the image. There, prediction and target are both turned by
    the same permutation of pixels, which cancels. On a square image the term is then the cross-entropy of the auxiliary
    head against the labels of the main head, and no transform is tested. Here, by default, the auxiliary head sees a
    transformed image (see `RandQuarterTurnViewd`), and pixels from outside do not count.

    Args:
        mode: "equivariant" (see `equivariance`), or "published", the number that the published code prints (see
            `published_consistency`), in 2-D only.

    Shape:
        scores and auxiliary_scores, both (B, K, *spatial); correspondence (B, 1, *spatial) for "equivariant", see
        `equivariance` -> scalar, a mean over images, computed in float32 at least. Its gradient reaches only the
        auxiliary scores.

    Raises:
        ValueError: for an unknown mode, when the shapes do not fit together, or without a correspondence.

    Reference:
        Karimijafarbigloo et al. 2023, "Self-supervised Semantic Segmentation: Consistency over Transformation",
        arXiv 2309.00143.
    """

    def __init__(self, mode: str = "equivariant") -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f'mode must be "equivariant" or "published", got "{mode}"')
        self.mode = mode

    def forward(self, scores: Tensor, auxiliary_scores: Tensor, correspondence: Tensor | None = None) -> Tensor:
        """The loss of the scores of both heads."""
        if scores.shape != auxiliary_scores.shape or scores.ndim not in (4, 5):
            raise ValueError(
                "scores and auxiliary_scores must have the same shape (B, K, *spatial) in 2-D or 3-D, "
                f"got {tuple(scores.shape)} and {tuple(auxiliary_scores.shape)}"
            )
        if self.mode == "published":
            return published_consistency(scores, auxiliary_scores).mean()
        if correspondence is None:
            raise ValueError(
                "the batch has no correspondence: the second view must be a geometric one, such as that of "
                'RandQuarterTurnViewd, or mode "published"'
            )
        expected = (scores.shape[0], 1, *scores.shape[2:])
        if tuple(correspondence.shape) != expected or correspondence.is_floating_point():
            raise ValueError(
                f"the correspondence must be whole numbers of shape {expected}, "
                f"got {correspondence.dtype} of {tuple(correspondence.shape)}"
            )
        return equivariance(scores, auxiliary_scores, correspondence).mean()
