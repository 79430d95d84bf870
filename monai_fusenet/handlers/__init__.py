"""What watches: when to stop, what to keep, what to show."""

from monai_fusenet.handlers.checkpoint import EpochSeed, ResumableCheckpoint
from monai_fusenet.handlers.few_clusters import StopAtFewClusters
from monai_fusenet.handlers.metrics import HammoudeHandler, XorHandler
from monai_fusenet.handlers.panel import PanelRow, draw_panels
from monai_fusenet.handlers.progress import ProgressHandler
from monai_fusenet.handlers.results import ResultWriter, result_path, write_label_map
from monai_fusenet.handlers.training_log import TensorBoardMetrics, ValidationPanel

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
