"""Neighbours should be alike: each difference between two of them raises the loss."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from monai.utils import LossReduction, look_up_option
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.loss import _Loss

from monai_fusenet.losses.self_labeling import reduce_loss, with_background
from monai_fusenet.utils.checks import check_scores
from monai_fusenet.utils.precision import at_least_float32, full_precision
from monai_fusenet.utils.strips import rows_at_once

__all__ = ["SpatialContinuityLoss", "grey_values", "published_continuity", "spatial_continuity"]

COLOURS = 100  # of which the published code paints its labels
GREY_WEIGHTS = (3735, 19235, 9798)  # of blue, green and red, in 32768ths


def spatial_continuity(maps: Tensor) -> Tensor:
    """Mean absolute difference of neighbours, summed over the axes.

    c = sum over the axes of mean `|x[i + 1] - x[i]|`, where the mean is over all neighbours along that axis and over
    all channels. An axis of a single pixel has no neighbours and adds nothing.

    Differs from the published code, which compares the differences with a map of zeros that it keeps in memory.

    Args:
        maps: (B, K, *spatial), finite values.

    Returns:
        (B,), float32 at least: the value of each image.
    """
    return _NeighbourDifferences.apply(at_least_float32(maps))


class _NeighbourDifferences(torch.autograd.Function):
    """Keeps its input, which is there anyway, where autograd would keep the signs of all differences as floats."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        ctx.save_for_backward(maps)
        costs = maps.new_zeros(len(maps))
        for before, after, share in _neighbours(maps):
            costs += share * (after - before).abs_().flatten(1).sum(dim=1)
        return costs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (maps,) = ctx.saved_tensors
        gradient = gradient.view([-1] + [1] * (maps.ndim - 1))
        total = torch.zeros_like(maps)
        pairs = zip(_neighbours(maps), _neighbours(total), strict=True)
        for (before, after, share), (total_before, total_after, _) in pairs:
            signs = (after - before).sign_().mul_(share * gradient)
            total_after += signs
            total_before -= signs
        return total


def _neighbours(maps: Tensor) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Views of neighbours along each axis, some rows at a time, and the share of each of them in the mean."""
    rows = rows_at_once(maps, axis=2)
    for axis in range(2, maps.ndim):
        count = math.prod(maps.shape[1:]) // maps.shape[axis] * (maps.shape[axis] - 1)
        # Along the first axis each strip needs the first row of the next one.
        reach = 1 if axis == 2 else 0
        for start in range(0, maps.shape[2] - reach, rows):
            strip = maps[:, :, start : start + rows + reach]
            pairs = strip.shape[axis] - 1
            if pairs > 0:
                yield strip.narrow(axis, 0, pairs), strip.narrow(axis, 1, pairs), 1 / count


def grey_values(colours: Tensor) -> Tensor:
    """The 8-bit grey value of each 8-bit colour.

    Args:
        colours: (n, 3), whole numbers in [0, 255]: blue, green, red.

    Returns:
        (n,), whole numbers in [0, 255]
    """
    return (colours.long() * torch.tensor(GREY_WEIGHTS, device=colours.device)).sum(1).add(2**14) // 2**15


@torch.no_grad()
def published_continuity(scores: Tensor, greys: Tensor) -> Tensor:
    """Differences of the derivatives of a grey picture of the labels: `mean |y - x| + mean |xy - x| + mean |xy - y|`.

    x, y and xy are Sobel's first and mixed derivatives, of 3 x 3 pixels, with reflected borders whose edge pixel is
    not repeated.

    Args:
        scores: (B, K, height, width), no side shorter than 2; label c of a pixel has the grey value c (modulo n).
        greys: (n,), values in [0, 1].

    Returns:
        (B, 3), the three means of each image, of the type of the scores, but float32 at least. They have no gradient.
    """
    picture = greys.to(at_least_float32(scores))[scores.movedim(1, -1).argmax(dim=-1) % len(greys)]
    padded = F.pad(picture.unsqueeze(1), (1, 1, 1, 1), mode="reflect")
    slope, smooth = padded.new_tensor([-1, 0, 1]), padded.new_tensor([1, 2, 1])
    kernels = torch.stack([torch.outer(smooth, slope), torch.outer(slope, smooth), torch.outer(slope, slope)])
    with full_precision(padded):
        x, y, xy = F.conv2d(padded, kernels.unsqueeze(1)).unbind(1)
    return torch.stack([(one - other).abs().flatten(1).mean(1) for one, other in ((y, x), (xy, x), (xy, y))], dim=1)


class SpatialContinuityLoss(_Loss):
    """Asks neighbours to have similar scores; also works as a regulariser beside a supervised loss.

    Differs from S3-Net's published code. There the spatial term is computed from painted labels: it has no gradient,
    changes only the printed loss, and its value depends on the random colours. `mode="published"` gives this term.

    Args:
        on: what is compared: "scores" as they are (published; meant for normalised scores), or "probabilities", their
            softmax, where the loss cannot be lowered by scaling the scores down.
        reduction: "mean" over images, "sum", or "none" for one value per image.
        mode: "soft" (differentiable, see `spatial_continuity`), or "published" (S3-Net's printed number, in 2-D, see
            `published_continuity`), which trains nothing.
        greys: for "published", grey values in [0, 255] that labels are painted with; `None`: those of 100 fixed random
            colours.

    Attributes:
        greys: those values, divided by 255.

    Shape:
        input (B, K, *spatial), 2-D or 3-D, finite scores or logits. With K = 1, probabilities are those of a foreground
        against its background. Target is ignored. Computed in float32 at least, whatever the type of the input, and
        under autocast too.

    Raises:
        ValueError: for an unknown `on`, mode or reduction, for grey values out of range, or an input that is not 2-D or
            3-D, or not 2-D for "published".

    Reference:
        Kim, Kanezaki, Tanaka 2020, "Unsupervised Learning of Image Segmentation Based on Differentiable Feature
        Clustering", arXiv 2007.09990. Karimijafarbigloo et al. 2023, arXiv 2309.00143 (the published mode).
    """

    greys: Tensor

    def __init__(
        self,
        on: str = "scores",
        reduction: LossReduction | str = LossReduction.MEAN,
        mode: str = "soft",
        greys: Sequence[int] | None = None,
    ) -> None:
        super().__init__(reduction=look_up_option(reduction, LossReduction).value)
        if mode not in ("soft", "published"):
            raise ValueError(f'mode must be "soft" or "published", got "{mode}"')
        if on not in ("scores", "probabilities"):
            raise ValueError(f'on must be "scores" or "probabilities", got "{on}"')
        self.on = on
        self.mode = mode
        if greys is None:
            generator = torch.Generator().manual_seed(0)
            table = grey_values(torch.randint(0, 255, (COLOURS, 3), generator=generator))
        else:
            table = torch.as_tensor(greys)
            if table.ndim != 1 or len(table) == 0 or not ((table >= 0) & (table <= 255)).all():
                raise ValueError(f"greys must be a list of values from 0 to 255, got {greys}")
        self.register_buffer("greys", table.double() / 255, persistent=False)

    def forward(self, input: Tensor, target: Tensor | None = None) -> Tensor:
        """The loss of scores or logits `input`."""
        check_scores(input)
        if self.mode == "published":
            if input.ndim != 4 or min(input.shape[2:]) < 2:
                raise ValueError(
                    'mode "published" takes scores (B, K, height, width), no side shorter than 2, '
                    f"got {tuple(input.shape)}"
                )
            return reduce_loss(published_continuity(input, self.greys).sum(dim=1), self.reduction)
        if self.on == "probabilities":
            input = with_background(input)
            input = at_least_float32(input).softmax(dim=1)
        return reduce_loss(spatial_continuity(input), self.reduction)
