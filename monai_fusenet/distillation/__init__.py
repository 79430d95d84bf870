"""One feed-forward network for a folder, taught by masks that were made without any label."""

from monai_fusenet.distillation.agreement import consensus, mean_pairwise_dice, select_confident
from monai_fusenet.distillation.passes import FolderPass
from monai_fusenet.distillation.student import Distiller, Round
from monai_fusenet.distillation.teacher import Teacher

__all__ = [
    "Distiller",
    "FolderPass",
    "Round",
    "Teacher",
    "consensus",
    "mean_pairwise_dice",
    "select_confident",
]
