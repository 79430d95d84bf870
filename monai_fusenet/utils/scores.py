"""Scores of clusters: count winners, merge twins, and upsample to the size of an image; needs only torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_fusenet.utils.distributed import bare
from monai_fusenet.utils.precision import at_least_float32

__all__ = ["count_clusters", "guided_upsampling", "is_one_cluster", "merge_twin_scores", "merged", "upsampled_argmax"]

RADIUS, SMOOTHNESS = 2, 1e-3  # of guided upsampling
MODES = {4: "bilinear", 5: "trilinear"}  # by number of axes
SLAB_VALUES = 2**22  # of a large image that are worked on together


def count_clusters(scores: Tensor) -> Tensor:
    """How many clusters win at least one pixel; stays on the device of the scores.

    Args:
        scores: (B, K, *spatial).

    Returns:
        (B,), integers in [1, K].
    """
    winners = scores.argmax(dim=1).flatten(1)
    present = torch.zeros(scores.shape[:2], dtype=torch.long, device=scores.device)
    return present.scatter_(1, winners, 1).sum(dim=1)


def merge_twin_scores(scores: Tensor) -> Tensor:
    """Adds the scores of clusters c and c + K/2, which FuseNet's residual makes near twins.

    Args:
        scores: (B, K, *spatial), K even.

    Returns:
        (B, K / 2, *spatial)

    Raises:
        ValueError: when K is odd.
    """
    if scores.shape[1] % 2:
        raise ValueError(f"twins come in pairs: the scores must have an even number of channels, got {scores.shape[1]}")
    first, second = scores.chunk(2, dim=1)
    return first + second


def merged(network: nn.Module, scores: Tensor) -> Tensor:
    """Merges the clusters in scores that belong together for a network.

    Args:
        network: with a method `merge(scores)` if its clusters come in twins, as those of a `FuseNet`; scores of any
            other network do not change.
        scores: (B, K, *spatial).

    Returns:
        (B, clusters that are left, *spatial)
    """
    merge = getattr(bare(network), "merge", None)
    return scores if merge is None else merge(scores)


def is_one_cluster(network: nn.Module, scores: Tensor) -> bool:
    """Whether all pixels of an image belong to one cluster, or to clusters that belong together for the network.

    Args:
        network: see `merged`.
        scores: (K, *spatial).
    """
    winners = scores.argmax(dim=0).unique()
    # An image of one pixel for each winner: merging the scores of all pixels could make others win.
    pixels = torch.zeros(len(scores), len(winners), dtype=scores.dtype, device=scores.device)
    pixels[winners, torch.arange(len(winners), device=scores.device)] = 1
    one_row = pixels.view(1, *pixels.shape, *[1] * (scores.ndim - 2))
    return len(merged(network, one_row).argmax(dim=1).unique()) == 1


def guided_upsampling(scores: Tensor, guide: Tensor, radius: int = RADIUS, smoothness: float = SMOOTHNESS) -> Tensor:
    """Scores at the size of an image, with edges where the image has them: the fast guided filter.

    In each window of the scores' own grid, every channel is fitted as a linear function of the guide's grey value;
    the coefficients are interpolated, and applied to the guide as it is. Memory and time are linear in the pixels.

    Args:
        scores: (B, K, *spatial), 2-D or 3-D.
        guide: (B, C, *size), values in [0, 1], no side smaller than that of the scores.
        radius: how far a window reaches from its centre, in pixels of the scores; less where a side is shorter than
            a window.
        smoothness: variance of the guide (its values squared) below which a window counts as flat: there the scores
            are averaged and interpolated.

    Returns:
        (B, K, *size), float32 at least

    Raises:
        ValueError: when a side of the guide is smaller than that of the scores.

    Reference:
        He and Sun 2015, "Fast Guided Filter", arXiv 1505.00996.
    """
    if any(new < old for new, old in zip(guide.shape[2:], scores.shape[2:], strict=True)):
        raise ValueError(
            f"the guide must be at least as large as the scores, got {tuple(guide.shape[2:])} and "
            f"{tuple(scores.shape[2:])}"
        )
    scores, grey = at_least_float32(scores), _grey_of(at_least_float32(guide))
    coefficients = _coefficients(scores, grey, radius, smoothness)
    slope, offset = (F.interpolate(part, size=grey.shape[2:], mode=MODES[part.ndim]) for part in coefficients)
    return slope * grey + offset


def _grey_of(image: Tensor) -> Tensor:
    """The mean of the channels of an image (B, C, *size), (B, 1, *size); of one channel, itself."""
    return image if image.shape[1] == 1 else image.mean(dim=1, keepdim=True)


def _coefficients(scores: Tensor, grey: Tensor, radius: int, smoothness: float) -> tuple[Tensor, Tensor]:
    """By what scores (B, K, *spatial) follow an image (B, 1, *size) in each window: slopes and offsets like scores."""
    mean = {4: F.avg_pool2d, 5: F.avg_pool3d}[scores.ndim]
    reach = [min(radius, (side - 1) // 2) for side in scores.shape[2:]]  # pooling wants windows that fit

    def smooth(values: Tensor) -> Tensor:
        return mean(values, [2 * n + 1 for n in reach], stride=1, padding=reach, count_include_pad=False)

    small = F.interpolate(grey, size=scores.shape[2:], mode="area")
    grey_mean, scores_mean = smooth(small), smooth(scores)
    variance = smooth(small * small) - grey_mean * grey_mean
    slope = (smooth(small * scores) - grey_mean * scores_mean) / (variance + smoothness)
    offset = scores_mean - slope * grey_mean
    return smooth(slope), smooth(offset)


def upsampled_argmax(
    scores: Tensor, size: Sequence[int], guide: Tensor | None = None, values_at_once: int = 2**25
) -> Tensor:
    """Argmax over channels of the scores at `size`: interpolated (bilinear or trilinear), or led by an image.

    Works through a few channels at a time, because all of them at the size of a large image would not fit into memory.
    For an image larger than `values_at_once`, it works through slabs of its first axis; the last bits of interpolated
    values may then differ. Only clusters that win a pixel of `scores` take part; others could win only by blurred
    remains.

    Args:
        scores: (1, K, *spatial).
        size: spatial size to reach.
        guide: image (1, C, *size), values in [0, 1], for `guided_upsampling`; `None`: plain interpolation. It is not
            used where a side is smaller than that of the scores.
        values_at_once: of a block of channels that are interpolated together; one channel at least.

    Returns:
        (1, *size), integers in [0, K), int64, or int16 of an image larger than `values_at_once`; ties go to the smaller
        one.
    """
    scores = at_least_float32(scores)
    winners = scores.argmax(dim=1)
    if tuple(size) == tuple(scores.shape[2:]):
        return winners
    present = winners.unique()
    larger = all(new >= old for new, old in zip(size, scores.shape[2:], strict=True))
    if math.prod(size) > values_at_once:
        grey = None if guide is None or not larger else _grey_of(guide.to(scores))
        return _argmax_by_slabs(scores[:, present], present.to(torch.int16), size, grey)
    best = torch.full((1, *size), -torch.inf, dtype=scores.dtype, device=scores.device)
    labels = torch.zeros((1, *size), dtype=torch.long, device=scores.device)
    for channels in present.split(max(1, values_at_once // math.prod(size))):
        if guide is not None and larger:
            block = guided_upsampling(scores[:, channels], guide.to(scores))
        else:
            block = F.interpolate(scores[:, channels], size=tuple(size), mode=MODES[scores.ndim])
        value, winner = block.max(dim=1)
        better = value > best
        best = torch.where(better, value, best)
        labels = torch.where(better, channels[winner], labels)
    return labels


def _argmax_by_slabs(scores: Tensor, names: Tensor, size: Sequence[int], grey: Tensor | None) -> Tensor:
    """The names (K,) of the strongest channels of scores (1, K, *spatial) at `size`, led by a grey image or not."""
    parts = (scores,) if grey is None else _coefficients(scores, grey, RADIUS, SMOOTHNESS)
    labels = names.new_empty((1, *size))
    rows = max(1, SLAB_VALUES // (len(names) * math.prod(size[1:])))
    for first in range(0, size[0], rows):
        last = min(first + rows, size[0])
        slabs = [_slab(part, size, first, last) for part in parts]
        if grey is not None:
            slabs[0].mul_(grey[:, :, first:last]).add_(slabs[1])
        labels[:, first:last] = names[slabs[0].argmax(dim=1)]
    return labels


def _slab(values: Tensor, size: Sequence[int], first: int, last: int) -> Tensor:
    """Some rows of values (1, K, *spatial) interpolated to `size` as `F.interpolate` does: (1, K, rows, *size[1:])."""
    side = values.shape[2]
    rows = torch.arange(first, last, dtype=values.dtype, device=values.device)
    place = ((rows + 0.5) * (side / size[0]) - 0.5).clamp(0, side - 1)
    lower = place.long()
    upper = (lower + 1).clamp(max=side - 1)
    near = values[0, :, int(lower[0]) : int(upper[-1]) + 1].transpose(0, 1)  # its rows as a batch
    if values.ndim == 5:
        planes = F.interpolate(near, size=tuple(size[1:]), mode="bilinear")
    else:
        planes = F.interpolate(near, size=size[1], mode="linear")
    planes = planes.transpose(0, 1)
    share = (place - lower).view(-1, *[1] * (values.ndim - 3))
    return torch.lerp(planes[:, lower - lower[0]], planes[:, upper - lower[0]], share).unsqueeze(0)
