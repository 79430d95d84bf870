"""Transforms that prepare an image or finish a result."""

from monai_fusenet.transforms.acquisition import (
    FIELD_SHAPES,
    CropToFieldd,
    FieldOfViewd,
    N4BiasFieldCorrectiond,
    ShadingCorrectiond,
    find_bias,
    find_field,
    find_shading,
)
from monai_fusenet.transforms.augment_batch import AugmentBatch
from monai_fusenet.transforms.augment_pair import AugmentPaird
from monai_fusenet.transforms.clusters import ScoresToClustersd
from monai_fusenet.transforms.color_jitter import (
    RandColorJitter,
    RandColorJitterd,
    RandFixedKernelBlur,
    RandFixedKernelBlurd,
    adjust_brightness,
    blur,
    shift_hue,
)
from monai_fusenet.transforms.components import ProbabilitiesToMaskd, channels_of
from monai_fusenet.transforms.confidence import MaskConfidenced
from monai_fusenet.transforms.foreground import ClustersToMaskd, Region, choose_foreground
from monai_fusenet.transforms.kmeans import KMeansClustersd, kmeans_clusters
from monai_fusenet.transforms.label_server import ForLabelServerd
from monai_fusenet.transforms.objects import MaskToObjectsd, split_objects
from monai_fusenet.transforms.quantize import From8Bitd, QuantizeTo8Bitd
from monai_fusenet.transforms.quarter_turns import RandQuarterTurnViewd
from monai_fusenet.utils.arrays import relabel_by_size
from monai_fusenet.utils.scores import count_clusters, guided_upsampling, merge_twin_scores, upsampled_argmax

__all__ = [
    "FIELD_SHAPES",
    "AugmentBatch",
    "AugmentPaird",
    "ClustersToMaskd",
    "CropToFieldd",
    "FieldOfViewd",
    "ForLabelServerd",
    "From8Bitd",
    "KMeansClustersd",
    "MaskConfidenced",
    "MaskToObjectsd",
    "N4BiasFieldCorrectiond",
    "ProbabilitiesToMaskd",
    "QuantizeTo8Bitd",
    "RandColorJitter",
    "RandColorJitterd",
    "RandFixedKernelBlur",
    "RandFixedKernelBlurd",
    "RandQuarterTurnViewd",
    "Region",
    "ScoresToClustersd",
    "ShadingCorrectiond",
    "adjust_brightness",
    "blur",
    "channels_of",
    "choose_foreground",
    "count_clusters",
    "find_bias",
    "find_field",
    "find_shading",
    "guided_upsampling",
    "kmeans_clusters",
    "merge_twin_scores",
    "relabel_by_size",
    "shift_hue",
    "split_objects",
    "upsampled_argmax",
]
