"""Inferers, which apply a network to an image."""

from monai_fusenet.inferers.fit import content_seed
from monai_fusenet.inferers.flips import FlipAverageInferer
from monai_fusenet.inferers.per_image import PerImageInferer
from monai_fusenet.inferers.record import FitRecord

__all__ = ["FitRecord", "FlipAverageInferer", "PerImageInferer", "content_seed"]
