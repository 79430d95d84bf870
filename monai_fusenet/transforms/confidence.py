"""How sure a network is of the mask that was cut from its probability."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

from monai_fusenet.utils.arrays import plain, tensor_of
from monai_fusenet.utils.checks import check_number
from monai_fusenet.utils.precision import at_least_float32

__all__ = ["MaskConfidenced"]


class MaskConfidenced(MapTransform):
    """Puts the soft Dice of a mask with the probability that it was cut from beside it: a float in [0, 1].

    1 where the network is certain of every pixel. The probability of what the mask leaves out, such as a smaller part,
    lowers it. `None` for an empty mask, of which nothing can be said.

    Args:
        keys: key of the mask (C, *spatial), or of a label map (1, *spatial); foreground above 0.
        probability_key: key of the probability, of the shape of the mask, in [0, 1]; or, of n classes,
            (n + 1, *spatial), the first of which is background: then how sure the foreground is.
        confidence_key: where the number goes.
        power: that the number is raised to: of a network that is surer than it is right, one above 1.

    Raises:
        ValueError: for a negative power, and when mask and probability differ in shape.
    """

    def __init__(
        self,
        keys: KeysCollection = "pred",
        probability_key: str = "probability",
        confidence_key: str = "confidence",
        power: float = 1.0,
    ) -> None:
        super().__init__(keys)
        check_number("power", power, 0)
        self.power = power
        self.probability_key = probability_key
        self.confidence_key = confidence_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns the sample with its confidence."""
        sample = dict(data)
        probability = at_least_float32(plain(tensor_of(sample[self.probability_key])))
        for key in self.key_iterator(sample):
            mask = plain(tensor_of(sample[key])) > 0
            if len(mask) == 1 and len(probability) > 1:
                probability = 1 - probability[:1]
            if mask.shape != probability.shape:
                raise ValueError(
                    f"mask and probability must have the same shape, got {tuple(mask.shape)} and "
                    f"{tuple(probability.shape)}"
                )
            inside, total = float(probability[mask].sum()), float(probability.sum()) + int(mask.sum())
            sample[self.confidence_key] = (2 * inside / total) ** self.power if mask.any() else None
        return sample
