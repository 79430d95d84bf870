"""Dictionary transforms between a loaded file and a network: channels, checks, and label to mask."""

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils.misc import ImageMetaKey
from torch import Tensor

LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601, the weights of Pillow's conversion to grey


class ToChannelsd(MapTransform):
    """Gives every image the number of channels that the network takes.

    Grey is repeated, RGB becomes its luminance where one channel is wanted, and transparency is dropped. What is
    transparency is known from the file (`meta["has_alpha"]`): four MR sequences are not mistaken for RGBA.

    Args:
        keys: keys of images.
        channels: channels wanted.
        allow_missing_keys: whether samples may lack a key.

    Shape:
        (C, *spatial) -> (channels, *spatial)

    Raises:
        ValueError: if the image has another number of channels, none of the cases above.
    """

    def __init__(self, keys: KeysCollection, channels: int, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.channels = channels

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns a new dictionary with the converted images."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            sample[key] = self._convert(sample[key])
        return sample

    def _convert(self, image: Tensor) -> Tensor:
        found = len(image)
        if found == self.channels:
            return image
        image = _without_alpha(image)
        if len(image) == 1:
            return image.repeat(self.channels, *[1] * (image.ndim - 1))
        if len(image) == 3 and self.channels == 1:
            weights = image.new_tensor(LUMINANCE).view(3, *[1] * (image.ndim - 1))
            return (image * weights).sum(0, keepdim=True)
        if len(image) == self.channels:
            return image
        raise ValueError(
            f"{_name_of(image)}expected an image of {self.channels} channels, or grey, got {found} channels"
        )


class CheckImaged(MapTransform):
    """Refuses images from which nothing can be learned, before they cost time.

    Args:
        keys: keys of images of shape (C, *spatial).
        spatial_dims: 2 or 3, as the network is configured.
        min_size: fewest pixels that every side must have.
        allow_missing_keys: whether samples may lack a key.

    Raises:
        ValueError: if the image has another number of spatial axes or a side below `min_size`, holds NaN or infinite
            values, or has one value everywhere.
    """

    def __init__(
        self, keys: KeysCollection, spatial_dims: int, min_size: int, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.spatial_dims = spatial_dims
        self.min_size = min_size

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns the sample as it is."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            self._check(sample[key])
        return sample

    def _check(self, image: Tensor) -> None:
        name, shape = _name_of(image), tuple(image.shape[1:])
        if len(shape) != self.spatial_dims:
            kind = "a volume" if len(shape) == 3 else "a 2-D image" if len(shape) == 2 else f"a {len(shape)}-D image"
            remedy = {
                (3, 2): ": add configs/volume.yaml to --config_file",
                (2, 3): ": leave configs/volume.yaml out of --config_file",
            }.get((len(shape), self.spatial_dims), "")
            raise ValueError(f"{name}{kind} of shape {shape}, but spatial_dims is {self.spatial_dims}{remedy}")
        if min(shape) < self.min_size:
            raise ValueError(f"{name}every side must have at least {self.min_size} pixels, got the shape {shape}")
        values = image.as_tensor() if isinstance(image, MetaTensor) else image
        bad = values.numel() - int(torch.isfinite(values).sum())
        if bad:
            raise ValueError(f"{name}{bad} of {values.numel()} pixel values are NaN or infinite")
        pixels = values.flatten(1)
        if torch.equal(pixels.amin(1), pixels.amax(1)):
            listed = ", ".join(f"{value:g}" for value in pixels[:, 0].tolist())
            raise ValueError(f"{name}every pixel has the value {listed if len(pixels) == 1 else f'({listed})'}")


class UnionMaskd(MapTransform):
    """Label to mask: foreground is where any channel is above 0, whatever the class or the side of the body.

    Transparency (`meta["has_alpha"]`) does not count as a channel.

    Args:
        keys: keys of labels.
        allow_missing_keys: whether samples may lack a key.

    Shape:
        (C, *spatial) -> (1, *spatial), uint8, 0 or 1
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns a new dictionary with masks in the place of labels."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            sample[key] = (_without_alpha(sample[key]) > 0).any(0, keepdim=True).to(torch.uint8)
        return sample


def _without_alpha(image: Tensor) -> Tensor:
    if not (isinstance(image, MetaTensor) and image.meta.get("has_alpha", False)):
        return image
    meta = {**image.meta, "has_alpha": False}
    return MetaTensor(image.as_tensor()[:-1], meta=meta, applied_operations=image.applied_operations)


def _name_of(image: Tensor) -> str:
    path = image.meta.get(ImageMetaKey.FILENAME_OR_OBJ) if isinstance(image, MetaTensor) else None
    return f"{Path(path).name}: " if path else ""
