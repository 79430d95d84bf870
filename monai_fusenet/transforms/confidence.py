"""How sure a network is of a mask that was made from its probability."""

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
    """Adds the confidence of a mask: its soft Dice with the probability that it was made from, a float in [0, 1].

    It is 1 if the network is certain of every pixel. Probability outside the mask, such as that of a smaller part that
    was left out, lowers it. An empty mask has no confidence: `None`.

    Args:
        keys: key of the mask (C, *spatial), or of a label map (1, *spatial); foreground above 0.
        probability_key: key of the probability, of the shape of the mask, in [0, 1]; or, with n classes, (n + 1,
            *spatial) with the background first; the confidence is then that of the foreground.
        confidence_key: where the number goes.
        power: exponent of the number; use one above 1 for a network that is too sure of itself.

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
