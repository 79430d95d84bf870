"""The record of a fit, beside its scores."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

__all__ = ["FitRecord"]


@dataclass
class FitRecord:
    """The record of a fit, beside its scores.

    Attributes:
        steps: optimisation steps made, in all fits.
        clusters: clusters that win a pixel in the returned scores (before any are merged).
        seconds: wall-clock time, of all fits.
        augmented: the second view at the last resolution, (C, *spatial); `None` without a fit, or without a second
            view.
        refits: how often the image was fitted again because all of it had become one cluster.
        size: spatial size at which the scores were made, before they were brought to the size of the image.
        wanted_size: the size for which memory did not suffice; `None` if it sufficed.
    """

    steps: int
    clusters: int
    seconds: float
    augmented: Tensor | None = field(repr=False)
    refits: int = 0
    size: tuple[int, ...] = ()
    wanted_size: tuple[int, ...] | None = None
