"""What to do when memory does not suffice: one image after the other, and each at a smaller size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from monai_fusenet.inferers.record import FitRecord
from monai_fusenet.utils.errors import failure_reason, is_out_of_memory
from monai_fusenet.utils.memory import release_memory

__all__ = ["within_memory"]

LEAST_SIDE = {2: 32, 3: 8}  # pixels of the shortest side, below which want of memory makes no image or volume smaller

Scored = tuple[Tensor, list[FitRecord]]


def within_memory(
    make_scores: Callable[[Tensor, float], Scored],
    images: Tensor,
    last_size: Callable[[Sequence[int], float], Sequence[int]],
    most: float = math.inf,
    wanted: tuple[int, ...] | None = None,
) -> Scored:
    """Scores at the largest size for which memory suffices, and a record of each image.

    Args:
        make_scores: called with images and the largest length of their shortest side; returns scores and records.
        images: (B, C, *spatial).
        last_size: called with a spatial size and the same largest length; returns the size at which scores would be
            made.
        most: the first largest length to try.
        wanted: the size for which memory did not suffice before.

    Raises:
        MemoryError: when memory does not suffice even for the smallest size, or a smaller size fails for another
            reason.
    """
    size = tuple(last_size(images.shape[2:], most))
    try:
        scores, records = make_scores(images, most)
        return scores, [replace(record, wanted_size=wanted) for record in records]
    except Exception as error:
        if not is_out_of_memory(error):
            if wanted is None:
                raise
            # A network that takes images of one size only, perhaps.
            reason = f"it does not suffice for {_by(wanted)}, and at {_by(size)}: {failure_reason(error)}"
            raise MemoryError(reason) from error
    # From here on, and not where the error was caught, nothing refers to what the attempt has left.
    _free_memory()
    if len(images) > 1:
        parts = [within_memory(make_scores, image, last_size, most, wanted) for image in images.split(1)]
        return torch.cat([scores for scores, _ in parts]), [record for _, records in parts for record in records]
    wanted, most = wanted or size, round(min(size) / 2**0.5)
    if most < LEAST_SIDE[len(size)]:
        raise MemoryError(f"it suffices for no size from {_by(wanted)} down to {_by(size)}")
    return within_memory(make_scores, images, last_size, most, wanted)


def _by(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))


def _free_memory() -> None:
    release_memory()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
