"""Which clusters are the object, judged by what is known of the acquisition and never by a label."""

from monai_fusenet.transforms.foreground.choice import ClustersToMaskd, ConvexHullsd, Region, choose_foreground

__all__ = ["ClustersToMaskd", "ConvexHullsd", "Region", "choose_foreground"]
