"""Distillation: one feed-forward network for a folder, trained on masks that were made without any label."""

from monai_fusenet.distillation.accepted import AcceptedMasks, KeepAcceptedd, find_accepted, read_accepted
from monai_fusenet.distillation.agreement import consensus, mean_pairwise_dice, select_confident
from monai_fusenet.distillation.candidates import CandidatePool, PoolMaker
from monai_fusenet.distillation.folds import steps_of_round
from monai_fusenet.distillation.passes import FolderPass
from monai_fusenet.distillation.student import Distiller, Round
from monai_fusenet.distillation.teacher import Teacher

__all__ = [
    "AcceptedMasks",
    "CandidatePool",
    "Distiller",
    "FolderPass",
    "KeepAcceptedd",
    "PoolMaker",
    "Round",
    "Teacher",
    "consensus",
    "find_accepted",
    "mean_pairwise_dice",
    "read_accepted",
    "select_confident",
    "steps_of_round",
]
