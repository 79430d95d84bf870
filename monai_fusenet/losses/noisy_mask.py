"""A loss for masks that nobody has checked: sure pixels count most, and an outlier costs little."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn.modules.loss import _Loss

from monai_fusenet.losses.edge_refinement import EdgeRefinementLoss
from monai_fusenet.utils.checks import check_number
from monai_fusenet.utils.precision import at_least_float32

__all__ = ["NoisyMaskLoss", "NoisyMaskTerms", "generalised_cross_entropy", "soft_dice_distance"]

EPSILON = 1e-6


def generalised_cross_entropy(probability: Tensor, target: Tensor, exponent: float = 0.7) -> Tensor:
    """`(1 - p ** q) / q` of the probability p of the right answer; cross-entropy for q near 0, `|p - 1|` for q = 1.

    Args:
        probability: of the foreground, any shape, values in [0, 1].
        target: of the same shape, values in [0, 1]; a value between 0 and 1 is the probability of the foreground.
        exponent: q, above 0 and at most 1.

    Returns:
        the loss of each pixel, of the same shape, float32 at least, values in [0, 1 / q].

    Reference:
        Zhang and Sabuncu 2018, arXiv 1805.07836.
    """
    target = at_least_float32(target)
    p = at_least_float32(probability).clamp(EPSILON, 1 - EPSILON)  # the gradient of p ** q is infinite at 0
    return (target * (1 - p**exponent) + (1 - target) * (1 - (1 - p) ** exponent)) / exponent


def _cross_entropy_of_classes(probability: Tensor, target: Tensor, exponent: float) -> Tensor:
    """As `generalised_cross_entropy`, of several classes: (B, K, *spatial) -> (B, 1, *spatial)."""
    p = probability.clamp(EPSILON, 1 - EPSILON)
    return (target * (1 - p**exponent)).sum(dim=1, keepdim=True) / exponent


def soft_dice_distance(probability: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """1 - 2 sum(w p t) / sum(w (p^2 + t^2)) over all pixels of each image; 0 where p = t.

    Args:
        probability: (B, 1, *spatial), values in [0, 1].
        target: of the same shape, values in [0, 1].
        weight: of the same shape, not negative.

    Returns:
        (B,), float32 at least, values in [0, 1]; 0 for an image where both are empty.
    """
    probability, target, weight = (at_least_float32(values) for values in (probability, target, weight))
    overlap = (weight * probability * target).flatten(1).sum(1)
    total = (weight * (probability**2 + target**2)).flatten(1).sum(1)
    return 1 - (2 * overlap + EPSILON) / (total + EPSILON)


def _dice_of_classes(probability: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """The mean of `soft_dice_distance` over all classes but the first, each where it is the likeliest of some pixel."""
    likeliest = (target == target.amax(dim=1, keepdim=True)) & (target > 0)  # all are 0 where nothing is known
    present = likeliest.flatten(2).any(dim=2)[:, 1:].flatten()
    one, other = (values[:, 1:].flatten(0, 1).unsqueeze(1) for values in (probability, target))
    distances = soft_dice_distance(one, other, weight.repeat_interleave(target.shape[1] - 1, dim=0))
    return (distances * present).sum() / present.sum().clamp(min=1)


class NoisyMaskTerms(NamedTuple):
    """The weighted terms of a `NoisyMaskLoss`, and their sum."""

    total: Tensor
    cross_entropy: Tensor
    dice: Tensor
    edge: Tensor


class NoisyMaskLoss(_Loss):
    """Generalised cross-entropy and soft Dice against uncertain masks, with the edge term as a regulariser.

    The target is the mean of several masks, or a probability. The weight of a pixel is how sure the target is of it,
    `|2 t - 1|`: 0 where the masks are evenly divided. With K classes, background included, the weight is (K max t - 1)
    / (K - 1), which is the same for K = 2. The Dice distance is then the mean over the foreground classes that an image
    shows, and the edge term uses the foreground as a whole.

    Args:
        exponent: see `generalised_cross_entropy`.
        lambda_dice: weight of the Dice distance.
        lambda_edge: weight of the edge term.
        edge_factor: see `EdgeRefinementLoss`.

    Shape:
        input (B, 1, *spatial), logits of the foreground, or (B, K, *spatial), logits of classes with the background
        first, 2-D or 3-D; target of the same shape, values in [0, 1], of any type. With K classes its values sum to 1,
        or to 0 where nothing is known. Computed in float32 at least, whatever the types of both, and under autocast
        too. The values are not checked, because a GPU would have to wait for the check. Masks of 0 and 255 must be
        divided by 255 first. A NaN makes the loss NaN.

    Raises:
        ValueError: for an exponent or a weight out of range, or when input and target have other shapes.
    """

    def __init__(
        self, exponent: float = 0.7, lambda_dice: float = 1.0, lambda_edge: float = 0.05, edge_factor: int = 4
    ) -> None:
        super().__init__()
        check_number("exponent", exponent, EPSILON, 1)
        check_number("lambda_dice", lambda_dice, 0)
        check_number("lambda_edge", lambda_edge, 0)
        self.exponent = exponent
        self.lambda_dice = lambda_dice
        self.lambda_edge = lambda_edge
        self.edge = EdgeRefinementLoss(factor=edge_factor)

    def terms(self, input: Tensor, target: Tensor) -> NoisyMaskTerms:
        """The weighted terms of logits `input`, each a mean over the batch."""
        if input.shape != target.shape or input.ndim not in (4, 5) or input.shape[1] < 1:
            raise ValueError(
                "logits and target must both have the shape (B, K, *spatial) in 2-D or 3-D, "
                f"got {tuple(input.shape)} and {tuple(target.shape)}"
            )
        input, target = at_least_float32(input), at_least_float32(target)
        foreground, classes = input, input.shape[1]
        if classes == 1:
            probability, weight = input.sigmoid(), (2 * target - 1).abs()
            pixels = generalised_cross_entropy(probability, target, self.exponent)
            distance = soft_dice_distance(probability, target, weight).mean()
        else:
            foreground = input[:, 1:].logsumexp(dim=1, keepdim=True) - input[:, :1]
            probability = input.softmax(dim=1)
            weight = ((classes * target.amax(dim=1, keepdim=True) - 1) / (classes - 1)).clamp(min=0)
            pixels = _cross_entropy_of_classes(probability, target, self.exponent)
            distance = _dice_of_classes(probability, target, weight)
        cross_entropy = (weight * pixels).sum() / weight.sum().clamp(min=EPSILON)
        dice = self.lambda_dice * distance
        edge = self.lambda_edge * self.edge(foreground)
        return NoisyMaskTerms(cross_entropy + dice + edge, cross_entropy, dice, edge)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of logits `input`."""
        return self.terms(input, target).total
