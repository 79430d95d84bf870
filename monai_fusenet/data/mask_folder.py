"""Masks in a separate folder, such as those that a person accepted, and the images that they belong to."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from monai.utils import ensure_tuple

from monai_fusenet.data.conventions import Folder, is_ignored, is_mask, normal, shadow_of
from monai_fusenet.data.datalist import search, stem_of
from monai_fusenet.data.pairing import Found, Place, assign

__all__ = ["PairedMasks", "pair_masks"]

# As the `labels` of MONAI Label: what lies in `final` was accepted, what lies in `original` was only proposed.
ROOT = Folder(is_mask=True, name="labels", is_convention=True)


class PairedMasks(NamedTuple):
    """The masks of a folder.

    Attributes:
        owned: paths of the masks of each image, by its `name`; images without any are left out.
        unmatched: masks of no image, relative to the folder, sorted.
    """

    owned: dict[str, list[str]]
    unmatched: list[str]


def pair_masks(
    items: Sequence[Mapping[str, Any]], masks_dir: str | os.PathLike, dataset_dir: str | os.PathLike
) -> PairedMasks:
    """Finds the masks in a folder, and assigns each to its image as `find_images` does with masks beside images.

    A mask has the name of its image, or this name with an ending such as `_mask`, in the sub-folder of its image. Or it
    has the image's unique `name`, in the folder itself, as results have. The folder may hold masks, be a folder of
    MONAI Label (`labels` or its parent; only `final` counts), or be a whole data set.

    Args:
        items: the result of `find_images` for `dataset_dir`.
        masks_dir: an existing folder.
        dataset_dir: folder of the images.
    """
    root, images_root = Path(os.path.abspath(masks_dir)), Path(os.path.abspath(dataset_dir))
    names: dict[Place, list[str]] = defaultdict(list)
    kinds = {Path(): Folder()}
    for item in items:
        names[_place_of(item, images_root, kinds)].append(item["name"])
    for item in items:
        names.setdefault(Place((), normal(item["name"])), [item["name"]])
    images = {path for item in items for path in ensure_tuple(item["image"])}
    masks = [one for one in search(root, root_kind=ROOT) if str(one.path) not in images and _may_be_mask(one, names)]
    assigned = assign(masks, names)
    owned: dict[str, list[str]] = {}
    for place, its_masks in assigned.owned.items():
        for name in names[place]:
            owned.setdefault(name, []).extend(str(mask.path) for mask in its_masks)
    return PairedMasks(owned, sorted(mask.file for mask in assigned.unmatched))


def _may_be_mask(one: Found, places: Mapping[Place, Any]) -> bool:
    """Whether a file is no image of a data set, and nothing that a program made of an image, such as its clusters."""
    original = shadow_of(one.stem)
    is_shadow = original is not None and Place(one.folder.group, normal(original)) in places
    return (one.folder.is_mask or is_mask(one.stem)) and not is_shadow


def _place_of(item: Mapping[str, Any], root: Path, kinds: dict[Path, Folder]) -> Place:
    """Where an image is among all images of the data set `root`; `kinds` keeps what its folders are."""
    file = Path(item["file"])
    if isinstance(item["image"], str):  # as it is on disk, for `file` has control characters as escapes
        file = Path(*Path(item["image"]).parts[-len(file.parts) :])
        return Place(_kind_of(file.parent, root, kinds).group, normal(stem_of(file.name)))
    return Place(_kind_of(file.parent, root, kinds).group, normal(file.name))


def _kind_of(folder: Path, root: Path, kinds: dict[Path, Folder]) -> Folder:
    if folder not in kinds:
        above = _kind_of(folder.parent, root, kinds)
        siblings = [one.name for one in (root / folder.parent).glob("*/") if not is_ignored(one.name)]
        kinds[folder] = above.below(folder.name, siblings)
    return kinds[folder]
