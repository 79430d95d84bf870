"""From clicks to a mask, with the clusters of the image as the shapes to choose from."""

from monai_fusenet.clicks.annotator import next_click
from monai_fusenet.clicks.distance import signed_distance
from monai_fusenet.clicks.selector import GRID_PIXELS, STATE_VERSION, ClickSelector

__all__ = ["GRID_PIXELS", "STATE_VERSION", "ClickSelector", "next_click", "signed_distance"]
