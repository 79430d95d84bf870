"""Metrics: mask against mask, objects against objects, and partition against mask."""

from monai_fusenet.metrics.hammoude import HammoudeMetric, compute_hammoude
from monai_fusenet.metrics.object_precision import ObjectPrecisionMetric, compute_object_precision
from monai_fusenet.metrics.partition import (
    ClusterOverlap,
    adjusted_rand_index,
    boundary_f_score,
    cluster_overlap,
    majority_mask,
    oracle_mask,
    variation_of_information,
)
from monai_fusenet.metrics.published import published_mask
from monai_fusenet.metrics.xor import XorMetric, compute_xor

__all__ = [
    "ClusterOverlap",
    "HammoudeMetric",
    "ObjectPrecisionMetric",
    "XorMetric",
    "adjusted_rand_index",
    "boundary_f_score",
    "cluster_overlap",
    "compute_hammoude",
    "compute_object_precision",
    "compute_xor",
    "majority_mask",
    "oracle_mask",
    "published_mask",
    "variation_of_information",
]
