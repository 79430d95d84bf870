"""The mask layout that MONAI Label's own app for bundles expects."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from monai_fusenet.utils.arrays import plain

__all__ = ["ForLabelServerd"]


class ForLabelServerd(MapTransform):
    """Lays out a 2-D mask for the writer of MONAI Label; samples from elsewhere stay as they are.

    That writer expects masks of pictures without a channel and with the column first, as MONAI's own readers load
    pictures. It writes a flat mask without its geometry; therefore a slice becomes a volume of one slice. Its default
    pixel type does not fit a mask. It writes the mask of a JPEG as a JPEG, which is lossy.

    Args:
        keys: key of the mask (1, *spatial).
        image_key: key of the image; the writer checks the mask's shape with its `meta`.
        path_key: a key that only MONAI Label adds to a sample.

    Shape:
        a picture (1, H, W) -> (W, H); other 2-D images (1, X, Y) -> (X, Y, 1), or where else the file has the axis of
        length 1; volumes stay as they are

    Raises:
        ValueError: when a client asks for a JPEG.
    """

    def __init__(self, keys: KeysCollection = "pred", image_key: str = "image", path_key: str = "image_path") -> None:
        super().__init__(keys)
        self.image_key = image_key
        self.path_key = path_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns the sample, as MONAI Label wants it if it comes from there."""
        sample = dict(data)
        if self.path_key not in sample:
            return sample
        image = sample[self.image_key]
        is_picture = not image.meta["has_geometry"]
        largest = max((int(torch.as_tensor(sample[key]).max()) for key in self.key_iterator(sample)), default=0)
        sample["result_dtype"] = sample.get("result_dtype") or np.min_scalar_type(largest).name
        extension = sample.get("result_extension") or (".png" if is_picture else ".nii.gz")
        sample["result_extension"] = f".{str(extension).lstrip('.')}"
        if sample["result_extension"].lower() in (".jpg", ".jpeg"):
            raise ValueError(f"result_extension must be that of a format which keeps labels, as .png, got {extension}")
        for key in self.key_iterator(sample):
            mask = torch.as_tensor(sample[key])
            if mask.ndim != 3:
                continue
            plane = plain(mask)[0]
            sample[key] = plane.T if is_picture else plane.reshape([*image.meta["grid_shape"], 1][:3])
            image.meta["spatial_shape"] = tuple(sample[key].shape)
        return sample
