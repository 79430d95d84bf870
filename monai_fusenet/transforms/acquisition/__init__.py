"""What an acquisition leaves around and upon what it shows."""

from monai_fusenet.transforms.acquisition.field import find_field
from monai_fusenet.transforms.acquisition.transforms import CropToFieldd, FieldOfViewd, field_of

__all__ = ["CropToFieldd", "FieldOfViewd", "field_of", "find_field"]
