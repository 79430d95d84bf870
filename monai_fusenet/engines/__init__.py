"""Engines: one optimisation step, and one pass through a folder."""

from monai_fusenet.engines.evaluator import FolderEvaluator, ForgivingDataset, ForgivingLoader, Report
from monai_fusenet.engines.trainer import FuseNetTrainer, prepare_pair, prepare_views

__all__ = [
    "FolderEvaluator",
    "ForgivingDataset",
    "ForgivingLoader",
    "FuseNetTrainer",
    "Report",
    "prepare_pair",
    "prepare_views",
]
