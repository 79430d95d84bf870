"""What is compared: images with their truths, and what a folder of results says of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.data import MetaTensor

from monai_fusenet.data import (
    ScaleByPercentilesd,
    fill_not_finite,
    load_image,
    load_mask_on_grid_of,
    on_grid_of,
    without_alpha,
)
from monai_fusenet.results.layout import result_path

__all__ = ["Results", "Truth", "load_results", "load_truth"]


class Truth(NamedTuple):
    """An image and its truth.

    Attributes:
        image: (C, *spatial), scaled to [0, 1]; 0 where it has no finite value.
        label: (1, *spatial), 0 or 1, on the grid of the image.
        note: what was done to bring it there; "" for nothing.
    """

    image: MetaTensor
    label: MetaTensor
    note: str


class Results(NamedTuple):
    """What a folder of results says of an image.

    Attributes:
        mask: (*spatial), boolean, on the grid of the image.
        clusters: (*spatial), integers, on the grid of the image.
        note: what was done to bring them there; "" for nothing.
    """

    mask: np.ndarray
    clusters: np.ndarray
    note: str


def load_truth(item: Mapping[str, Any]) -> Truth:
    """The image and its truth, which is brought to the grid of the image by what both files say of their place.

    Args:
        item: with `image` and `label`, paths.

    Raises:
        ValueError: when there is no mask, one of them cannot be read, or they cannot be compared, see `on_grid_of`.
    """
    if "label" not in item:
        raise ValueError("the image has no mask")
    loaded = load_image(item["image"])
    label = load_mask_on_grid_of(item["label"], loaded)
    image = without_alpha(loaded)
    finite = image[torch.isfinite(image)]
    if 0 < len(finite) < image.numel():  # what has no value, such as a masked background, is as dark as the darkest
        image = fill_not_finite(image, finite.min().item())
    # Colours belong together; sequences do not.
    scaling = ScaleByPercentilesd("image", channel_wise=loaded.meta["has_geometry"])
    return Truth(scaling({"image": image})["image"], label, _note("truth", label))


def load_results(folder: str | Path, name: str, image: MetaTensor) -> Results:
    """Mask and clusters of an image, on its grid; without a cluster map, the mask and its background are two.

    Args:
        folder: of `<name>_mask.*` and perhaps `<name>_clusters.*`.
        name: of the image.
        image: (C, *spatial).

    Raises:
        ValueError: when there is no mask, or a file cannot be read or compared with the image, see `on_grid_of`.
    """
    mask_file, clusters_file = result_path(folder, name, "mask"), result_path(folder, name, "clusters")
    if mask_file is None:
        raise ValueError(f"there is no prediction {name}_mask.* in {folder}")
    try:
        mask = load_mask_on_grid_of(mask_file, image)
    except ValueError as error:
        raise ValueError(f"{mask_file.name}: {error}") from error
    foreground = mask.numpy()[0] > 0
    if clusters_file is None:
        return Results(foreground, foreground.astype(np.int64), _note("mask", mask))
    try:
        clusters = on_grid_of(load_image(clusters_file), image)
    except ValueError as error:
        raise ValueError(f"{clusters_file.name}: {error}") from error
    notes = (_note("mask", mask), _note("cluster map", clusters))
    return Results(foreground, clusters[0].numpy().astype(np.int64), "; ".join(filter(None, notes)))


def _note(what: str, labels: MetaTensor) -> str:
    """What a reader of scores should know of labels that had another grid than the image."""
    if "outside" not in labels.meta:
        return ""
    outside, lost = labels.meta["outside"], labels.meta["lost"]
    uncovered = f", of which it covers {1 - outside:.0%}" if outside > 0 else ""
    left_out = f", without the {lost:.2%} of its foreground that lie outside" if lost > 0 else ""
    return f"{what} brought from another grid to that of the image{uncovered}{left_out}"
