"""Two views of one image."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import Compose, CopyItemsd, MapTransform, Randomizable

from monai_fusenet.transforms.color_jitter import RandColorJitterd, RandFixedKernelBlurd
from monai_fusenet.utils.checks import check_whole, warn_unscaled

__all__ = ["AugmentPaird"]


class AugmentPaird(Randomizable, MapTransform):
    """Adds an augmented view beside the image and leaves the image untouched.

    A sample that already has `augmented_key` (a second phase, sequence or modality) keeps it as it is. If the last
    channels of the image are the second view, they are split off, see `second_view_channels`.

    Args:
        keys: key of the image (C, *spatial), values in [0, 1].
        augmented_key: key of the second view.
        transform: dictionary transform that makes the copy under `augmented_key` differ; `None`: the published one,
            brightness and hue, then blur. Its draws follow this transform's random state.
        second_view_channels: number of last channels, half of all, which become the second view; 0: all belong to the
            image.

    Raises:
        KeyError: when the sample has no image.
        ValueError: when an image is neither 2-D nor 3-D with channels, or does not have twice as many channels as the
            second view.

    Warns:
        UserWarning: when values lie far outside [0, 1].

    Reference:
        Kazerouni et al. 2023, arXiv 2311.13069, section 2.
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        augmented_key: str = "augmented",
        transform: Callable | None = None,
        second_view_channels: int = 0,
    ) -> None:
        MapTransform.__init__(self, keys)
        if len(self.keys) != 1:
            raise ValueError(f"keys must be one key, that of the image, got {self.keys}")
        check_whole("second_view_channels", second_view_channels, 0)
        self.augmented_key = augmented_key
        self.second_view_channels = second_view_channels
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
        if self.second_view_channels:
            return self._split(dict(data))
        image = data[self.keys[0]]
        if image.ndim not in (3, 4):
            raise ValueError(f"an image must have the shape (C, *spatial), without a batch, got {tuple(image.shape)}")
        warn_unscaled(image)
        return self.transform(self.copy(data))

    def _split(self, sample: dict[Hashable, Any]) -> dict[Hashable, Any]:
        image = sample[self.keys[0]]
        if len(image) != 2 * self.second_view_channels:
            raise ValueError(
                f"an image whose last {self.second_view_channels} channels are a second view must have "
                f"{2 * self.second_view_channels}, got {len(image)}"
            )
        first, second = image[: self.second_view_channels], image[self.second_view_channels :]
        return {**sample, self.keys[0]: first, self.augmented_key: second}
