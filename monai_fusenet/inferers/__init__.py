"""What applies a network to an image."""

from monai_fusenet.inferers.per_image import FitRecord, PerImageInferer, content_seed

__all__ = ["FitRecord", "PerImageInferer", "content_seed"]
