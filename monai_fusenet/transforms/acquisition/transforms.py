"""Dictionary transforms that find the field of view and crop to it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform, SpatialCrop
from monai.utils import TraceKeys
from torch import Tensor

from monai_fusenet.transforms.acquisition.field import FIELD_SHAPES, fill_outside, find_field
from monai_fusenet.utils.arrays import array_of, box_of, plain, put_back, tensor_of
from monai_fusenet.utils.precision import at_least_float32

__all__ = ["CropToFieldd", "FieldOfViewd"]


class FieldOfViewd(MapTransform):
    """Puts the field of view beside an image: (1, *spatial), bool, see `find_field`.

    The transforms that follow can leave out everything outside the field: give the field's key to
    `ScaleByPercentilesd`, `CropToFieldd`, `ScoresToClustersd` and `KMeansClustersd`. The image stays as it is.

    Args:
        keys: key of the image (C, *spatial), values of any range, 2-D or 3-D.
        field_key: where the field goes.
        shape: "device": collimated fields, circles of dermatoscopes and endoscopes, fans of ultrasound, frames and
            borders, cylinders of a CT; "body": the same without the air beside a body, for X-rays, CT and scans of
            whole heads; `None`: the whole image. If no field is found, it is the whole image.

    Raises:
        ValueError: when `shape` is none of these.
    """

    def __init__(self, keys: KeysCollection = "image", field_key: str = "field", shape: str | None = "device") -> None:
        super().__init__(keys)
        if shape is not None and shape not in FIELD_SHAPES:
            raise ValueError(f'field must be null, "device" or "body", got {shape}')
        self.field_key = field_key
        self.shape = shape

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns the sample with its field."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            image = tensor_of(sample[key])
            field = torch.ones(image.shape[1:], dtype=torch.bool)
            if self.shape is not None:
                field = torch.from_numpy(find_field(array_of(at_least_float32(image)), self.shape))
            sample[self.field_key] = put_back(field.unsqueeze(0), image)
        return sample


class CropToFieldd(MapTransform, InvertibleTransform):
    """Crops images to the box of a field, and fills pixels outside the field with about the nearest values inside.

    MONAI's `Invertd` undoes it; the restored image is 0 outside the field. The field itself is not cropped.

    Args:
        keys: keys of images (C, *spatial).
        field_key: key of the field (1, *spatial), see `FieldOfViewd`.

    Shape:
        (C, *spatial) -> (C, *box)

    Raises:
        ValueError: when a field has another shape than the image, or is empty.
    """

    def __init__(self, keys: KeysCollection = "image", field_key: str = "field") -> None:
        super().__init__(keys)
        self.field_key = field_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns a new dictionary with cropped images."""
        sample = dict(data)
        field = plain(tensor_of(sample[self.field_key]))[0] > 0
        box = box_of(array_of(field))
        for key in self.key_iterator(sample):
            image = tensor_of(sample[key])
            if image.shape[1:] != field.shape:
                raise ValueError(
                    f"image and field must have the same shape, got {tuple(image.shape[1:])} and {tuple(field.shape)}"
                )
            cropped = _crop(image, box)
            if not field[box].all():
                filled = fill_outside(array_of(at_least_float32(cropped)), array_of(field[box]))
                cropped = put_back(torch.from_numpy(filled).to(cropped.device, cropped.dtype), cropped)
            extra = {"start": [side.start for side in box], "field": field[box].clone()}
            sample[key] = self.push_transform(cropped, orig_size=tuple(image.shape[1:]), extra_info=extra)
        return sample

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns a new dictionary with images on their original grid, 0 outside the field."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            step = self.pop_transform(sample[key])
            image, start = sample[key], [int(index) for index in step[TraceKeys.EXTRA_INFO]["start"]]
            field = torch.as_tensor(step[TraceKeys.EXTRA_INFO]["field"]).to(image.device)
            whole = plain(image).new_zeros((len(image), *step[TraceKeys.ORIG_SIZE]))
            box = tuple(slice(first, first + side) for first, side in zip(start, field.shape, strict=True))
            whole[(slice(None), *box)] = plain(image) * field
            sample[key] = put_back(whole, image)
            if isinstance(image, MetaTensor):
                sample[key].affine = image.affine @ _shift(image.affine, [-first for first in start])
        return sample


def _crop(image: Tensor, box: tuple[slice, ...]) -> Tensor:
    """A part of an image, and where it lies, as MONAI crops, but not on record."""
    crop = SpatialCrop(roi_slices=list(box))
    with crop.trace_transform(False):
        return crop(image) if isinstance(image, MetaTensor) else image[(slice(None), *box)]


def _shift(affine: Tensor, start: list[int]) -> Tensor:
    """The matrix of a shift by so many pixels, of the size and type of an affine."""
    shift = torch.eye(len(affine), dtype=affine.dtype, device=affine.device)
    axes = min(len(start), len(affine) - 1)
    shift[:axes, -1] = torch.tensor(start[:axes], dtype=affine.dtype)
    return shift


def field_of(sample: Mapping[Hashable, Any], key: str | None) -> np.ndarray | None:
    """The field (*spatial), bool, of a sample; `None` if it has none, or the field is the whole image."""
    field = None if key is None or key not in sample else array_of(tensor_of(sample[key]))[0] > 0
    return None if field is None or field.all() else field
