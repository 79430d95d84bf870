"""Masks from clicks, which choose among shapes that the clusters of the image offer."""

from monai_fusenet.clicks.annotator import next_click
from monai_fusenet.clicks.distance import signed_distance
from monai_fusenet.clicks.selector import GRID_PIXELS, STATE_VERSION, ClickSelector

__all__ = ["GRID_PIXELS", "STATE_VERSION", "ClickSelector", "next_click", "signed_distance"]
