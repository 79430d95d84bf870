"""Functions for the bundle's configs: options, images, weights and workflows; and a workflow for programs."""

from monai_fusenet.bundle.checks import check_options, settings
from monai_fusenet.bundle.context import Context, FuseNetWorkflow, current_workflow, find_bundle_root
from monai_fusenet.bundle.evaluation import evaluate
from monai_fusenet.bundle.faults import Interrupted, UnfinishedError
from monai_fusenet.bundle.method import FittingMethod, load_method
from monai_fusenet.bundle.startup import accepted_masks, images, images_or_phantoms, resolve_dir, start, workers_for
from monai_fusenet.bundle.weights import UnfitWeightsError, initial_network, load_network
from monai_fusenet.bundle.workflows import distil, infer, student_trainer, train
from monai_fusenet.options import FIT_OPTIONS, OPTIONS, STUDENT_OPTIONS
from monai_fusenet.utils import distributed
from monai_fusenet.utils.precision import has_fast_bfloat16

__all__ = [
    "FIT_OPTIONS",
    "OPTIONS",
    "STUDENT_OPTIONS",
    "Context",
    "FittingMethod",
    "FuseNetWorkflow",
    "Interrupted",
    "UnfinishedError",
    "UnfitWeightsError",
    "accepted_masks",
    "check_options",
    "current_workflow",
    "distil",
    "distributed",
    "evaluate",
    "find_bundle_root",
    "has_fast_bfloat16",
    "images",
    "images_or_phantoms",
    "infer",
    "initial_network",
    "load_method",
    "load_network",
    "resolve_dir",
    "settings",
    "start",
    "student_trainer",
    "train",
    "workers_for",
]
