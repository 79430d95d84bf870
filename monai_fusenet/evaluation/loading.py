"""Loads the data to compare: images with their truths, and the results of a folder."""

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
    load_objects_on_grid_of,
    on_grid_of,
    without_alpha,
)
from monai_fusenet.results.layout import result_path

__all__ = ["Results", "Truth", "load_results", "load_true_objects", "load_truth"]


class Truth(NamedTuple):
    """An image and its truth.

    Attributes:
        image: (C, *spatial), scaled to [0, 1]; 0 where it has no finite value.
        label: (1, *spatial), 0 or 1, on the grid of the image.
        note: how it was brought there; "" if nothing was done.
    """

    image: MetaTensor
    label: MetaTensor
    note: str


class Results(NamedTuple):
    """The results of an image in a folder.

    Attributes:
        mask: (*spatial), boolean, on the grid of the image.
        clusters: (*spatial), integers, on the grid of the image.
        objects: (*spatial), whole numbers, 0 for background, on the grid of the image; `None` if there is no map.
        note: how they were brought there; "" if nothing was done.
    """

    mask: np.ndarray
    clusters: np.ndarray
    objects: np.ndarray | None
    note: str


def load_truth(item: Mapping[str, Any]) -> Truth:
    """The image and its truth, brought to the grid of the image by the geometry in both files.

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


def load_true_objects(item: Mapping[str, Any], image: MetaTensor) -> np.ndarray:
    """The true objects (*spatial) of an item on the grid of its image, see `load_objects_on_grid_of`."""
    return load_objects_on_grid_of(item["label"], image).numpy()[0]


def load_results(folder: str | Path, name: str, image: MetaTensor) -> Results:
    """The results of an image in a folder, on the image's grid.

    Without a cluster map, the mask and its background are the two clusters. Without a mask, the objects are the mask.

    Args:
        folder: folder with `<name>_mask.*` or `<name>_objects.*`, and optionally `<name>_clusters.*`.
        name: name of the image.
        image: (C, *spatial).

    Raises:
        ValueError: when there is no mask and no object map, or a file cannot be read or compared with the image, see
            `on_grid_of`.
    """
    files = {kind: result_path(folder, name, kind) for kind in ("mask", "clusters", "objects")}
    if files["mask"] is None and files["objects"] is None:
        raise ValueError(f"there is no prediction {name}_mask.* in {folder}")
    maps = {kind: _map_on_grid_of(file, kind, image) for kind, file in files.items() if file is not None}
    notes = (_note("cluster map" if kind == "clusters" else kind, found) for kind, found in maps.items())
    arrays = {kind: found.numpy()[0] for kind, found in maps.items()}
    foreground = arrays["mask" if "mask" in arrays else "objects"] > 0
    clusters = arrays.get("clusters", foreground).astype(np.int64)
    return Results(foreground, clusters, arrays.get("objects"), "; ".join(filter(None, notes)))


def _map_on_grid_of(file: Path, kind: str, image: MetaTensor) -> MetaTensor:
    """A mask, or a map of numbers, on the grid of an image; an error names the file."""
    try:
        if kind == "mask":
            return load_mask_on_grid_of(file, image)
        loaded = load_image(file, nearest=True)
        if kind == "objects" and len(loaded) > 1:
            raise ValueError(f"objects must be numbers in one channel, got {len(loaded)} channels")
        return on_grid_of(loaded, image)
    except ValueError as error:
        raise ValueError(f"{file.name}: {error}") from error


def _note(what: str, labels: MetaTensor) -> str:
    """What a reader of scores should know of labels that had another grid than the image."""
    if "outside" not in labels.meta:
        return ""
    outside, lost = labels.meta["outside"], labels.meta["lost"]
    uncovered = f", of which it covers {1 - outside:.0%}" if outside > 0 else ""
    left_out = f", without the {lost:.2%} of its foreground that lie outside" if lost > 0 else ""
    return f"{what} brought from another grid to that of the image{uncovered}{left_out}"
