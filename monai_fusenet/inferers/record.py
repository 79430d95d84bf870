"""What a fit leaves beside its scores."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["FitRecord"]


@dataclass
class FitRecord:
    """What a fit leaves beside its scores.

    Attributes:
        steps: optimisation steps made, in all fits.
        clusters: clusters that win a pixel in the scores put out (before any are merged).
        seconds: wall-clock time, of all fits.
        augmented: the second view at the last resolution, (C, *spatial); `None` without a fit, or without such a view.
        refits: how often the image was fitted again because all of it had become one cluster.
        size: spatial size at which the scores were made, before they were brought to that of the image.
        wanted_size: the size that memory did not suffice for; `None` where it did.
    """

    steps: int
    clusters: int
    seconds: float
    augmented: Tensor | None
    refits: int = 0
    size: tuple[int, ...] = ()
    wanted_size: tuple[int, ...] | None = None
