"""Handlers: checkpoints, results, logs, metrics."""

from monai_fusenet.engines.stopping import StopAtFewClusters
from monai_fusenet.handlers.checkpoint import EpochSeed, ResumableCheckpoint
from monai_fusenet.handlers.metrics import HammoudeHandler, XorHandler
from monai_fusenet.handlers.progress import ProgressHandler
from monai_fusenet.handlers.results import ResultWriter
from monai_fusenet.handlers.training_log import TensorBoardMetrics, ValidationPanel
from monai_fusenet.results.layout import result_path, write_label_map
from monai_fusenet.results.panel import PanelRow, draw_panels

__all__ = [
    "EpochSeed",
    "HammoudeHandler",
    "PanelRow",
    "ProgressHandler",
    "ResultWriter",
    "ResumableCheckpoint",
    "StopAtFewClusters",
    "TensorBoardMetrics",
    "ValidationPanel",
    "XorHandler",
    "draw_panels",
    "result_path",
    "write_label_map",
]
