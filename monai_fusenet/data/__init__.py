"""Where images come from: folders and known data set layouts, file formats, samples, and a seeded dataset."""

from monai_fusenet.data.datalist import find_images, unmatched_masks
from monai_fusenet.data.dataset import SeededCacheDataset
from monai_fusenet.data.errors import failure_reason, is_out_of_memory, is_worker_death
from monai_fusenet.data.preparation import (
    CT_WINDOWS,
    CheckImaged,
    ScaleByPercentilesd,
    ToChannelsd,
    UnionMaskd,
    WindowCTd,
    WorkingGridd,
    without_alpha,
)
from monai_fusenet.data.reading import IMAGE_SUFFIXES, LoadMedicalImaged, affine_of, load_image, spacing_of
from monai_fusenet.data.samples import draw_phantoms, phantom_images, sample_images

__all__ = [
    "CT_WINDOWS",
    "IMAGE_SUFFIXES",
    "CheckImaged",
    "LoadMedicalImaged",
    "ScaleByPercentilesd",
    "SeededCacheDataset",
    "ToChannelsd",
    "UnionMaskd",
    "WindowCTd",
    "WorkingGridd",
    "affine_of",
    "draw_phantoms",
    "failure_reason",
    "find_images",
    "is_out_of_memory",
    "is_worker_death",
    "load_image",
    "phantom_images",
    "sample_images",
    "spacing_of",
    "unmatched_masks",
    "without_alpha",
]
