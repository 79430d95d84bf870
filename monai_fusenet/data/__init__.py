"""Sources of images: folders and known data set layouts, file formats, samples, and a seeded dataset."""

from monai_fusenet.data.collation import collate_views
from monai_fusenet.data.datalist import find_images, unmatched_masks
from monai_fusenet.data.dataset import SeededCacheDataset
from monai_fusenet.data.formats import IMAGE_SUFFIXES
from monai_fusenet.data.grids import LoadMaskOnGridd, load_labels_on_grid_of, load_mask_on_grid_of, on_grid_of
from monai_fusenet.data.masks import UnionMaskd, load_labels, load_mask
from monai_fusenet.data.objects import load_objects_on_grid_of
from monai_fusenet.data.preparation import (
    CT_WINDOWS,
    CheckImaged,
    ScaleByPercentilesd,
    ToChannelsd,
    WindowCTd,
    fill_not_finite,
    without_alpha,
)
from monai_fusenet.data.reading import LoadMedicalImaged, load_image
from monai_fusenet.data.samples import draw_phantoms, phantom_images, sample_images
from monai_fusenet.data.working_grid import WorkingGridd
from monai_fusenet.data.working_size import WorkingSized
from monai_fusenet.utils.geometry import affine_of, spacing_of

__all__ = [
    "CT_WINDOWS",
    "IMAGE_SUFFIXES",
    "CheckImaged",
    "LoadMaskOnGridd",
    "LoadMedicalImaged",
    "ScaleByPercentilesd",
    "SeededCacheDataset",
    "ToChannelsd",
    "UnionMaskd",
    "WindowCTd",
    "WorkingGridd",
    "WorkingSized",
    "affine_of",
    "collate_views",
    "draw_phantoms",
    "fill_not_finite",
    "find_images",
    "load_image",
    "load_labels",
    "load_labels_on_grid_of",
    "load_mask",
    "load_mask_on_grid_of",
    "load_objects_on_grid_of",
    "on_grid_of",
    "phantom_images",
    "sample_images",
    "spacing_of",
    "unmatched_masks",
    "without_alpha",
]
