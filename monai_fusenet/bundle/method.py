"""A method of the overlays for the user's own programs: its network, and the inferer that fits it to images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from monai.bundle import ConfigParser
from torch import nn

from monai_fusenet.bundle.checks import check_options, check_values
from monai_fusenet.bundle.faults import cause_of
from monai_fusenet.bundle.weights import load_network
from monai_fusenet.inferers import PerImageInferer
from monai_fusenet.networks import by_slices
from monai_fusenet.shipped import config_files, shipped

__all__ = ["FittingMethod", "load_method"]


class FittingMethod(NamedTuple):
    """A method of the overlays.

    Attributes:
        network: the network.
        inferer: `inferer(images, network)` returns scores (B, K, *spatial).
        postprocessing: from scores to a mask, as the workflow makes it: a dictionary transform of a sample with `image`
            and `original`, both the image (C, *spatial), and `pred`, its scores (K, *spatial). It adds `clusters`
            (1, *spatial), labels 1..n, and replaces `pred` by the mask (1, *spatial).
    """

    network: nn.Module
    inferer: PerImageInferer
    postprocessing: Callable[[dict[str, Any]], dict[str, Any]]


def load_method(*overlays: str, **options: Any) -> FittingMethod:
    """Network, inferer and choice of the mask as in the workflow `inference`, for given overlays and options.

    `method = load_method("s3net", in_channels=1)`, then `scores = method.inferer(images, method.network)` with images
    (B, C, *spatial) of values in [0, 1]. Finding the field of view and resizing are no part of it.

    Args:
        overlays: names of overlays of this package, or paths of files `.yaml`, of methods and presets, in any order.
        options: options of the workflow, for example `steps=20`.

    Raises:
        ValueError: for an invalid option or value, in one line; also if trained weights are needed (see `checkpoint`)
            and are missing or do not fit.
        FileNotFoundError: for an overlay that does not exist.
    """
    parser = ConfigParser()
    parser.read_config(config_files("inference", *overlays))
    for name, value in {"inferer#progress": False, **options}.items():
        parser[name] = value
    check_options(parser.get())
    check_values(parser.get())
    try:
        network, neighbours, checkpoint, inferer, postprocessing = (
            parser.get_parsed_content(name)
            for name in ("network_def", "neighbours", "checkpoint", "inferer", "postprocessing")
        )
    except RuntimeError as error:
        raise cause_of(error) from error
    bundle_root = shipped("bundles") / "fusenet_segmentation"
    network = load_network(by_slices(network, neighbours), checkpoint, inferer, bundle_root, "cpu")
    return FittingMethod(network, inferer, postprocessing)
