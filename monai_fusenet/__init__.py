"""FuseNet as MONAI components: label-free segmentation by two views of one image (arXiv 2311.13069)."""

__version__ = "0.2.0"
