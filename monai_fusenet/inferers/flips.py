"""An image has no left or right that a network should depend on."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, combinations
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import Tensor

__all__ = ["FlipAverageInferer"]


class FlipAverageInferer(Inferer):
    """Mean of a network's outputs over all mirror images of its input, each mirrored back: 4 in 2-D, 8 in 3-D.

    Differs from MONAI's `TestTimeAugmentation`, which draws at random and works on dictionaries.

    Shape:
        (B, C, *spatial) -> (B, K, *spatial), as the network's
    """

    def __call__(self, inputs: Tensor, network: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Returns the mean of the outputs."""
        images = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        axes = range(2, images.ndim)
        flips = chain.from_iterable(combinations(axes, count) for count in range(len(axes) + 1))
        outputs = [network(images.flip(flip), *args, **kwargs).flip(flip) for flip in flips]
        return torch.stack(outputs).mean(dim=0)
