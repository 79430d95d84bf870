"""Dictionary transforms between a loaded file and a network: channels, checks and grids."""

import math
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils.misc import ImageMetaKey
from torch import Tensor

from monai_fusenet.utils.arrays import plain, put_back, tensor_of
from monai_fusenet.utils.checks import check_number, check_switch
from monai_fusenet.utils.errors import printable
from monai_fusenet.utils.geometry import affine_of
from monai_fusenet.utils.precision import at_least_float32

LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601, the weights of Pillow's conversion to grey

VALUES_AT_ONCE = 2**24  # of a large image: what is made of them takes several times their memory
LARGEST = torch.finfo(torch.float32).max
WITHOUT_META = (
    "; whether the last one is transparency is not known without the metadata of LoadMedicalImaged, which a "
    "PersistentDataset keeps with track_meta=True"
)

CT_WINDOWS = {  # level and width in HU, as radiologists and their workstations commonly have them
    "lung": (-600, 1500),
    "mediastinum": (50, 350),
    "abdomen": (40, 400),
    "liver": (60, 160),
    "brain": (40, 80),
    "bone": (400, 1800),
}


class ToChannelsd(MapTransform):
    """Gives every image the number of channels that the network takes.

    Grey is repeated, the RGB of a picture becomes its luminance if one channel is wanted, and transparency is dropped.
    The file tells whether it is a picture and has transparency (`meta["has_geometry"]`, `meta["has_alpha"]`). So three
    MR sequences are not mistaken for RGB, nor four for RGBA. An image without metadata counts as a picture without
    transparency.

    Args:
        keys: keys of images.
        channels: number of channels wanted.
        allow_missing_keys: whether samples may lack a key.

    Shape:
        (C, *spatial) -> (channels, *spatial)

    Raises:
        ValueError: if the image has another number of channels, and none of these cases applies.
    """

    def __init__(self, keys: KeysCollection, channels: int, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.channels = channels

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns a new dictionary with the converted images."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            sample[key] = self._convert(tensor_of(sample[key]))
        return sample

    def _convert(self, image: Tensor) -> Tensor:
        found = len(image)
        if found == self.channels:
            return image
        image = without_alpha(image)
        if len(image) == 1:
            return image.repeat(self.channels, *[1] * (image.ndim - 1))
        if len(image) == 3 and self.channels == 1 and affine_of(image) is None:
            image = at_least_float32(image)  # the weights of whole numbers would be 0
            weights = image.new_tensor(LUMINANCE).view(3, *[1] * (image.ndim - 1))
            return (image * weights).sum(0, keepdim=True)
        if len(image) == self.channels:
            return image
        unknown = not isinstance(image, MetaTensor) or "has_alpha" not in image.meta
        raise ValueError(
            f"{_name_of(image)}expected an image of {self.channels} channels, or grey, got {found} channels; "
            f"in_channels says how many{WITHOUT_META if unknown else ''}"
        )


class CheckImaged(MapTransform):
    """Refuses images from which nothing can be learned, before any time is spent on them.

    Args:
        keys: keys of images of shape (C, *spatial).
        spatial_dims: 2 or 3, as the network is configured.
        min_size: smallest number of pixels of every side.
        allow_missing_keys: whether samples may lack a key.
        nan_value: value that replaces NaN and infinite values, such as those of a masked background; `None`: images
            with such values are refused.

    Raises:
        ValueError: if the image has another number of spatial axes or a side below `min_size`, holds NaN or infinite
            values that are not replaced, or has one value everywhere; if `nan_value` is no finite number of float32.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spatial_dims: int,
        min_size: int,
        allow_missing_keys: bool = False,
        nan_value: float | None = None,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if nan_value is not None:
            check_number("nan_value", nan_value, -LARGEST, LARGEST)
        self.nan_value = nan_value
        self.spatial_dims = spatial_dims
        self.min_size = min_size

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns the sample as it is, but for values that are to be replaced."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            if self.nan_value is not None:
                sample[key] = fill_not_finite(tensor_of(sample[key]), self.nan_value)
            self._check(tensor_of(sample[key]))
        return sample

    def _check(self, image: Tensor) -> None:
        name, shape = _name_of(image), tuple(image.shape[1:])
        if len(shape) != self.spatial_dims:
            kind = "a volume" if len(shape) == 3 else "a 2-D image" if len(shape) == 2 else f"a {len(shape)}-D image"
            remedy = {
                (3, 2): ": add the preset volume (configs/volume.yaml)",
                (2, 3): ": leave out the preset volume or slices (configs/volume.yaml, slices.yaml)",
            }.get((len(shape), self.spatial_dims), "")
            raise ValueError(f"{name}{kind} of shape {shape}, but spatial_dims is {self.spatial_dims}{remedy}")
        if min(shape) < self.min_size:
            raise ValueError(f"{name}every side must have at least {self.min_size} pixels, got the shape {shape}")
        values = plain(without_alpha(image))
        least, greatest = torch.aminmax(values.flatten(1), dim=1)
        if not (torch.isfinite(least) & torch.isfinite(greatest)).all():  # NaN is both
            finite = (torch.isfinite(part).sum() for part in values.flatten().split(VALUES_AT_ONCE))
            bad = values.numel() - int(sum(finite))
            raise ValueError(
                f"{name}{bad} of {values.numel()} pixel values are NaN or infinite; "
                "--nan_value 0, or another number, replaces them; for a label server, write "
                "nan_value: 0 into a .yaml file and give it as --preset"
            )
        if torch.equal(least, greatest):
            listed = ", ".join(f"{value:g}" for value in least.tolist())
            raise ValueError(f"{name}every pixel has the value {listed if len(least) == 1 else f'({listed})'}")


class ScaleByPercentilesd(MapTransform):
    """Scales intensities linearly to [0, 1] between two percentiles of the image, and clips values beyond.

    If both percentiles have the same value, as in an image that is nearly all background, the smallest and the greatest
    value are used instead. (MONAI's `ScaleIntensityRangePercentiles` leaves such an image unchanged.)

    Args:
        keys: keys of images of shape (C, *spatial).
        lower: percentile that becomes 0, in [0, 100].
        upper: percentile that becomes 1, in [0, 100], above `lower`.
        channel_wise: scale each channel on its own, as several MR sequences need; otherwise all alike, which keeps
            colours.
        allow_missing_keys: whether samples may lack a key.
        field_key: key of a field (1, *spatial): only its pixels count for the percentiles, in samples that have one.

    Raises:
        ValueError: if the percentiles are not in order.
    """

    def __init__(
        self,
        keys: KeysCollection,
        lower: float = 0.5,
        upper: float = 99.5,
        channel_wise: bool = False,
        allow_missing_keys: bool = False,
        field_key: str | None = None,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        check_number("lower", lower, 0, 100)
        check_number("upper", upper, 0, 100)
        check_switch("channel_wise", channel_wise)
        if lower >= upper:
            raise ValueError(f"lower must be below upper, got {lower} and {upper}")
        self.lower = lower
        self.upper = upper
        self.channel_wise = channel_wise
        self.field_key = field_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns a new dictionary with scaled images."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            image = tensor_of(sample[key])
            values = at_least_float32(plain(image))
            parts = values.split(1) if self.channel_wise else [values]
            field = plain(tensor_of(sample[self.field_key]))[0] > 0 if self.field_key in sample else None
            known = (part if field is None or field.all() else part[:, field] for part in parts)
            sample[key] = put_back(_scaled(values, [self._range_of(part) for part in known]), image)
        return sample

    def _range_of(self, known: Tensor) -> tuple[float, float]:
        # NumPy looks for both in one go; torch would sort all values, twice.
        low, high = np.percentile(known.cpu().numpy(), [self.lower, self.upper]).tolist()
        if low == high:
            low, high = known.min().item(), known.max().item()
        return low, high


class WindowCTd(MapTransform):
    """Scales the Hounsfield units of a CT linearly to [0, 1] within a window, and clips values beyond.

    Args:
        keys: keys of images of shape (C, *spatial), values in HU.
        window: a name of `CT_WINDOWS`, or level and width in HU.
        allow_missing_keys: whether samples may lack a key.

    Raises:
        ValueError: if the window is unknown, or not two finite numbers with a width above 0; if an image is a picture.
    """

    def __init__(self, keys: KeysCollection, window: str | Sequence[float], allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        pair = CT_WINDOWS.get(window, ()) if isinstance(window, str) else window
        numbers = [part for part in pair if isinstance(part, int | float) and math.isfinite(part)]
        if len(pair) != 2 or len(numbers) != 2 or numbers[1] <= 0:
            known = ", ".join(CT_WINDOWS)
            raise ValueError(f"window must be one of {known}, or [level, width] in HU, got {window}")
        level, width = numbers
        self.range = level - width / 2, level + width / 2

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns a new dictionary with scaled images."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            image = at_least_float32(tensor_of(sample[key]))
            if isinstance(image, MetaTensor) and not image.meta.get("has_geometry", True):
                raise ValueError(f"{_name_of(image)}a picture holds no Hounsfield units: leave out configs/ct.yaml")
            sample[key] = put_back(_scaled(plain(image), [self.range]), image)
        return sample


def _scaled(image: Tensor, ranges: Sequence[tuple[float, float]]) -> Tensor:
    """An image (C, *spatial) of which each channel, or all by one, goes from a range to [0, 1], clipped.

    As MONAI's `ScaleIntensityRange`, in place: half the time, and no copies of a large image.
    """
    scaled = torch.empty_like(image, memory_format=torch.contiguous_format)
    for channels, target, (low, high) in zip(image.chunk(len(ranges)), scaled.chunk(len(ranges)), ranges, strict=True):
        torch.sub(channels, low, out=target).div_(high - low or 1.0).clamp_(0, 1)
    return scaled


def fill_not_finite(image: Tensor, value: float) -> Tensor:
    """Replaces NaN and infinite values of an image by a number; the image itself if it has none.

    Args:
        image: any shape.
        value: the number.
    """
    values = plain(image)
    finite = torch.isfinite(values)
    return image if finite.all() else put_back(values.where(finite, value), image)


def without_alpha(image: Tensor) -> Tensor:
    """The image (C, *spatial) without its last channel where that is transparency (`meta["has_alpha"]`)."""
    if not (isinstance(image, MetaTensor) and image.meta.get("has_alpha", False)):
        return image
    meta = {**image.meta, "has_alpha": False}
    return MetaTensor(image.as_tensor()[:-1], meta=meta, applied_operations=image.applied_operations)


def _name_of(image: Tensor) -> str:
    path = image.meta.get(ImageMetaKey.FILENAME_OR_OBJ) if isinstance(image, MetaTensor) else None
    return f"{printable(Path(path).name)}: " if path else ""
