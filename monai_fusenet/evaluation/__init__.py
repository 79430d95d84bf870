"""Evaluation: scores at four levels, trivial baselines, tables."""

from monai_fusenet.evaluation.aggregate import totals
from monai_fusenet.evaluation.baselines import (
    centre_component,
    centred_disk_mask,
    otsu_mask,
    slic_clusters,
    whole_image_mask,
)
from monai_fusenet.evaluation.examples import Example, draw_example, typical_rows
from monai_fusenet.evaluation.folder import NotScored, score_folder
from monai_fusenet.evaluation.levels import BASELINES, LEVELS, METRICS, score_baselines, score_image, score_mask
from monai_fusenet.evaluation.report import write_report
from monai_fusenet.evaluation.text import format_totals
from monai_fusenet.transforms.kmeans import kmeans_clusters

__all__ = [
    "BASELINES",
    "LEVELS",
    "METRICS",
    "Example",
    "NotScored",
    "centre_component",
    "centred_disk_mask",
    "draw_example",
    "format_totals",
    "kmeans_clusters",
    "otsu_mask",
    "score_baselines",
    "score_folder",
    "score_image",
    "score_mask",
    "slic_clusters",
    "totals",
    "typical_rows",
    "whole_image_mask",
    "write_report",
]
