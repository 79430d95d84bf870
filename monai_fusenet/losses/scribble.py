"""The scribble loss: pixels that somebody has drawn as a class should belong to its cluster."""

from __future__ import annotations

from torch import Tensor
from torch.nn.modules.loss import _Loss

from monai_fusenet.utils.checks import check_whole
from monai_fusenet.utils.precision import at_least_float32

__all__ = ["NO_SCRIBBLE", "ScribbleLoss", "check_scribble", "scribble_loss", "scribbled_classes"]

NO_SCRIBBLE = 255


def scribbled_classes(scribble: Tensor, ignore_index: int = NO_SCRIBBLE) -> list[int]:
    """The classes that a label map contains, ascending.

    Args:
        scribble: label map of any shape.
        ignore_index: the value of pixels without scribble.

    Raises:
        ValueError: unless they are 0, 1 and so on, without a gap.
    """
    if not isinstance(scribble, Tensor):
        raise TypeError(f"scribbles must be a tensor of whole numbers, got {type(scribble).__name__}")
    values = scribble.unique().tolist()
    classes = [value for value in values if value != ignore_index]
    if classes != list(range(len(classes))):
        raise ValueError(
            f"scribbles must be of the classes 0, 1, 2, ... without a gap, and {ignore_index} elsewhere, "
            f"got {classes[:9]}"
        )
    return [int(value) for value in classes]


def check_scribble(scribble: Tensor, scores: Tensor, ignore_index: int = NO_SCRIBBLE) -> None:
    """Raises `ValueError` unless a label map (B, 1, *spatial) fits scores (B, K, *spatial); see `ScribbleLoss`."""
    if scribble.shape != (len(scores), 1, *scores.shape[2:]):
        raise ValueError(
            f"scribbles must have the shape (B, 1, *spatial) of the scores, {(len(scores), 1, *scores.shape[2:])}, "
            f"got {tuple(scribble.shape)}"
        )
    most = max(len(scribbled_classes(one, ignore_index)) for one in scribble)
    if most > scores.shape[1]:
        raise ValueError(f"there are scribbles of {most} classes, but only {scores.shape[1]} clusters")


def scribble_loss(scores: Tensor, scribble: Tensor, ignore_index: int = NO_SCRIBBLE) -> Tensor:
    """Cross-entropy of scribbled pixels against the clusters of their classes, averaged over these pixels.

    Args:
        scores: (B, K, *spatial), any real values.
        scribble: (B, 1, *spatial), integers: class c asks for cluster c; pixels of `ignore_index` ask for nothing.
        ignore_index: the value of pixels without scribble.

    Returns:
        (B,), float32 at least: the loss of each image; 0 for one without scribbles.
    """
    classes = scribble[:, 0].long()
    drawn = classes != ignore_index
    pixels = at_least_float32(scores.movedim(1, -1)[drawn])
    costs = pixels.logsumexp(dim=1) - pixels.gather(1, classes[drawn].unsqueeze(1)).squeeze(1)
    total = costs.new_zeros(len(scores)).index_add(0, drawn.nonzero()[:, 0], costs)
    return total / drawn.flatten(1).sum(dim=1).clamp(min=1)


class ScribbleLoss(_Loss):
    """Asks scribbled pixels to belong to the cluster with the number of their class.

    Args:
        ignore_index: the value of pixels without scribble; it cannot be a class.

    Shape:
        input (B, K, *spatial), any real scores; target (B, 1, *spatial), whole numbers 0 to n - 1, n at most K, or
        `ignore_index`. The result is the mean over images; an image without scribbles has loss 0. Computed in float32
        at least.

    Raises:
        ValueError: when the target has another shape, its classes have a gap, or there are more classes than clusters.

    Reference:
        Kim, Kanezaki, Tanaka 2020, arXiv 2007.09990, section 3 (scribbles).
    """

    def __init__(self, ignore_index: int = NO_SCRIBBLE) -> None:
        super().__init__()
        check_whole("ignore_index", ignore_index, -(2**31))
        self.ignore_index = ignore_index

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of scores `input` with scribbles `target`."""
        check_scribble(target, input, self.ignore_index)
        return scribble_loss(input, target, self.ignore_index).mean()
