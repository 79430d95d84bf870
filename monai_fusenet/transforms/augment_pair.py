"""Two views of one image."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import Compose, CopyItemsd, MapTransform, Randomizable

from monai_fusenet.transforms.color_jitter import RandColorJitterd, RandFixedKernelBlurd

__all__ = ["AugmentPaird"]


class AugmentPaird(Randomizable, MapTransform):
    """Adds an augmented view beside the image and leaves the image untouched.

    A sample that already brings `augmented_key` (a second phase, sequence or modality) keeps it as it is.

    Args:
        keys: key of the image, values in [0, 1].
        augmented_key: key of the second view.
        transform: dictionary transform that makes the copy under `augmented_key` differ; `None`: the published one,
            brightness and hue, then blur. Its draws follow this transform's random state.

    Raises:
        KeyError: when the sample lacks the image.

    Reference:
        Kazerouni et al. 2023, arXiv 2311.13069, section 2.
    """

    def __init__(
        self, keys: KeysCollection = "image", augmented_key: str = "augmented", transform: Callable | None = None
    ) -> None:
        MapTransform.__init__(self, keys)
        if len(self.keys) != 1:
            raise ValueError(f"keys must be one key, that of the image, got {self.keys}")
        self.augmented_key = augmented_key
        self.copy = CopyItemsd(self.keys, names=augmented_key)
        if transform is None:
            transform = Compose([RandColorJitterd(augmented_key), RandFixedKernelBlurd(augmented_key)])
        self.transform = transform

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> AugmentPaird:
        """Seeds the draws of the augmentation."""
        super().set_random_state(seed, state)
        if isinstance(self.transform, Randomizable):
            self.transform.set_random_state(seed=int(self.R.randint(2**31)))
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns the sample with both views."""
        if self.augmented_key in data:
            return dict(data)
        return self.transform(self.copy(data))
