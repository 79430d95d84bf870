"""The choice of the clusters that are the object, from knowledge of the acquisition and never from a label."""

from monai_fusenet.transforms.foreground.candidates import Region
from monai_fusenet.transforms.foreground.choice import choose_foreground, propose_masks
from monai_fusenet.transforms.foreground.rule import Rule
from monai_fusenet.transforms.foreground.transforms import ClustersToMaskd, check_partitions

__all__ = [
    "ClustersToMaskd",
    "Region",
    "Rule",
    "check_partitions",
    "choose_foreground",
    "propose_masks",
]
