"""A method of the overlays for the user's own programs: its network, and the inferer that fits it to images."""

from __future__ import annotations

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
    """The inferer of a method: `inferer(images, network)` returns scores (B, K, *spatial)."""

    network: nn.Module
    inferer: PerImageInferer


def load_method(*overlays: str, **options: Any) -> FittingMethod:
    """Network and inferer as in the workflow `inference`, for given overlays and options.

    `network, inferer = load_method("s3net", in_channels=1)`, then `scores = inferer(images, network)` with images
    (B, C, *spatial) of values in [0, 1].

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
        network, neighbours, checkpoint, inferer = (
            parser.get_parsed_content(name) for name in ("network_def", "neighbours", "checkpoint", "inferer")
        )
    except RuntimeError as error:
        raise cause_of(error) from error
    bundle_root = shipped("bundles") / "fusenet_segmentation"
    network = load_network(by_slices(network, neighbours), checkpoint, inferer, bundle_root, "cpu")
    return FittingMethod(network, inferer)
