"""What an acquisition leaves around and upon what it shows."""

from monai_fusenet.transforms.acquisition.field import FIELD_SHAPES, fill_outside, find_field
from monai_fusenet.transforms.acquisition.transforms import CropToFieldd, FieldOfViewd, field_of

__all__ = ["FIELD_SHAPES", "CropToFieldd", "FieldOfViewd", "field_of", "fill_outside", "find_field"]
