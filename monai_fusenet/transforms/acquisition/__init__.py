"""Traces of the acquisition: frames around the field of view, and uneven light in it."""

from monai_fusenet.transforms.acquisition.field import FIELD_SHAPES, fill_outside, find_field
from monai_fusenet.transforms.acquisition.shading import (
    N4BiasFieldCorrectiond,
    ShadingCorrectiond,
    find_bias,
    find_shading,
)
from monai_fusenet.transforms.acquisition.transforms import CropToFieldd, FieldOfViewd, field_of

__all__ = [
    "FIELD_SHAPES",
    "CropToFieldd",
    "FieldOfViewd",
    "N4BiasFieldCorrectiond",
    "ShadingCorrectiond",
    "field_of",
    "fill_outside",
    "find_bias",
    "find_field",
    "find_shading",
]
