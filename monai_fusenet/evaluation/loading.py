"""What is compared: images with their truths, and what a folder of results says of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor
from monai.transforms import Compose

from monai_fusenet.data import LoadMedicalImaged, ScaleByPercentilesd, UnionMaskd, load_image, without_alpha
from monai_fusenet.results.layout import result_path

__all__ = ["load_results", "load_truth"]


def load_truth(item: Mapping[str, Any]) -> tuple[MetaTensor, MetaTensor]:
    """The image, scaled to [0, 1], and its truth.

    Args:
        item: with `image` and `label`, paths.

    Shape:
        (C, *spatial) and (1, *spatial)

    Raises:
        ValueError: when there is no mask, one of them cannot be read, or their sizes differ.
    """
    if "label" not in item:
        raise ValueError("the image has no mask")
    sample = Compose([LoadMedicalImaged(["image", "label"]), UnionMaskd("label")])(dict(item))
    image, label = without_alpha(sample["image"]), sample["label"]
    # Colours belong together; sequences do not.
    image = ScaleByPercentilesd("image", channel_wise=sample["image"].meta["has_geometry"])({"image": image})["image"]
    if image.shape[1:] != label.shape[1:]:
        raise ValueError(
            f"image and mask must have the same size, got {tuple(image.shape[1:])} and {tuple(label.shape[1:])}"
        )
    return image, label


def _load_prediction(path: Path, label: MetaTensor) -> MetaTensor:
    prediction = load_image(path)
    if prediction.shape[1:] != label.shape[1:]:
        raise ValueError(
            f"{path.name} must have the size of the truth, {tuple(label.shape[1:])}, got {tuple(prediction.shape[1:])}"
        )
    return prediction


def load_results(folder: str | Path, name: str, label: MetaTensor) -> tuple[np.ndarray, np.ndarray]:
    """Mask and clusters, both (*spatial); without a cluster map, the mask and its background are two.

    Args:
        folder: of `<name>_mask.*` and perhaps `<name>_clusters.*`.
        name: of the image.
        label: its truth (1, *spatial).

    Raises:
        ValueError: when there is no mask, or a file cannot be read or has another size than the truth.
    """
    mask_file, clusters_file = result_path(folder, name, "mask"), result_path(folder, name, "clusters")
    if mask_file is None:
        raise ValueError(f"there is no prediction {name}_mask.* in {folder}")
    mask = UnionMaskd("mask")({"mask": _load_prediction(mask_file, label)})["mask"].numpy()[0] > 0
    if clusters_file is None:
        return mask, mask.astype(np.int64)
    return mask, _load_prediction(clusters_file, label)[0].numpy().astype(np.int64)
