"""An inferer that averages over mirror images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, combinations
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor

from monai_fusenet.utils.arrays import plain

__all__ = ["FlipAverageInferer"]


class FlipAverageInferer(Inferer):
    """Mean of a network's outputs over all mirror images of its input, each mirrored back: 4 in 2-D, 8 in 3-D.

    Differs from MONAI's `TestTimeAugmentation`, which draws at random and works on dictionaries. Like every `Inferer`
    it accepts further arguments of a call, but it does not pass them to the network, because they would not be
    mirrored. (MONAI Deploy passes everything that the preprocessing returns.)

    Args:
        axes: spatial axes along which an image may be mirrored, counted from 0; `None`: all.

    Shape:
        (B, C, *spatial) -> (B, K, *spatial), as the network

    Raises:
        ValueError: when the images have no such axis.
    """

    def __init__(self, axes: Sequence[int] | None = None) -> None:
        self.axes = axes

    def __call__(self, inputs: Tensor, network: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Returns the mean of the outputs."""
        images = plain(inputs)
        spatial = range(images.ndim - 2)
        if not set(spatial).issuperset(self.axes or ()):
            raise ValueError(f"flip axes must be among {list(spatial)}, got {list(self.axes or ())}")
        axes = [2 + axis for axis in (spatial if self.axes is None else self.axes)]
        flips = chain.from_iterable(combinations(axes, count) for count in range(len(axes) + 1))
        # a network of convolutions takes three quarters of the time where the channels of a pixel lie side by side
        layout = torch.channels_last if images.ndim == 4 else torch.contiguous_format
        outputs = [network(images.flip(flip).contiguous(memory_format=layout)).flip(flip) for flip in flips]
        return torch.stack(outputs).mean(dim=0)
