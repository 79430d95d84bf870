"""Dictionary transforms between a loaded file and a network: channels, checks, and label to mask."""

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, ScaleIntensityRange
from monai.transforms.utils_pytorch_numpy_unification import percentile
from monai.utils.misc import ImageMetaKey
from torch import Tensor

from monai_fusenet.checks import check_number

LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601, the weights of Pillow's conversion to grey


class ToChannelsd(MapTransform):
    """Gives every image the number of channels that the network takes.

    Grey is repeated, the RGB of a picture becomes its luminance where one channel is wanted, and transparency is
    dropped. What is a picture and what is transparency is known from the file (`meta["has_geometry"]`,
    `meta["has_alpha"]`): three MR sequences are not mistaken for RGB, nor four for RGBA.

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
        if len(image) == 3 and self.channels == 1 and not _has_geometry(image):
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
        image = _without_alpha(image)
        values = image.as_tensor() if isinstance(image, MetaTensor) else image
        bad = values.numel() - int(torch.isfinite(values).sum())
        if bad:
            raise ValueError(f"{name}{bad} of {values.numel()} pixel values are NaN or infinite")
        pixels = values.flatten(1)
        if torch.equal(pixels.amin(1), pixels.amax(1)):
            listed = ", ".join(f"{value:g}" for value in pixels[:, 0].tolist())
            raise ValueError(f"{name}every pixel has the value {listed if len(pixels) == 1 else f'({listed})'}")


class ScaleByPercentilesd(MapTransform):
    """Scales intensities linearly to [0, 1] between two percentiles of the image, and clips what lies beyond.

    Where both percentiles are the same value, as in an image that is nearly all background, the smallest and the
    greatest value take their place: MONAI's `ScaleIntensityRangePercentiles` leaves such an image as it is.

    Args:
        keys: keys of images of shape (C, *spatial), all channels scaled alike.
        lower: percentile that becomes 0, in [0, 100].
        upper: percentile that becomes 1, in [0, 100], above `lower`.
        allow_missing_keys: whether samples may lack a key.

    Raises:
        ValueError: if the percentiles are not in order.
    """

    def __init__(
        self, keys: KeysCollection, lower: float = 0.5, upper: float = 99.5, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        check_number("lower", lower, 0, 100)
        check_number("upper", upper, 0, 100)
        if lower >= upper:
            raise ValueError(f"lower must be below upper, got {lower} and {upper}")
        self.lower = lower
        self.upper = upper

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns a new dictionary with scaled images."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            values = sample[key].as_tensor() if isinstance(sample[key], MetaTensor) else sample[key]
            low, high = (float(percentile(values, part)) for part in (self.lower, self.upper))
            if low == high:
                low, high = values.min().item(), values.max().item()
            sample[key] = ScaleIntensityRange(low, high, 0.0, 1.0, clip=True)(sample[key])
        return sample


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


def _has_geometry(image: Tensor) -> bool:
    return isinstance(image, MetaTensor) and bool(image.meta.get("has_geometry", False))


def _name_of(image: Tensor) -> str:
    path = image.meta.get(ImageMetaKey.FILENAME_OR_OBJ) if isinstance(image, MetaTensor) else None
    return f"{Path(path).name}: " if path else ""
