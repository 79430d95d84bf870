"""What applies a network to an image."""

from monai_fusenet.inferers.flips import FlipAverageInferer
from monai_fusenet.inferers.per_image import FitRecord, PerImageInferer, content_seed

__all__ = ["FitRecord", "FlipAverageInferer", "PerImageInferer", "content_seed"]
