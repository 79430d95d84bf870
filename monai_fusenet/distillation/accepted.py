"""Masks that a person accepted: their images, their classes, and their label maps."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform
from skimage.measure import label as connected_components

from monai_fusenet.data import load_labels, load_labels_on_grid_of
from monai_fusenet.data.mask_folder import PairedMasks, pair_masks
from monai_fusenet.distillation.known import count_objects
from monai_fusenet.transforms import MaskToObjectsd
from monai_fusenet.utils.arrays import put_back
from monai_fusenet.utils.errors import failure_reason, printable

__all__ = ["AcceptedMasks", "KeepAcceptedd", "find_accepted", "read_accepted"]

logger = logging.getLogger(__name__)

WHITES = frozenset({255, 2**16 - 1})  # what black-and-white pictures call their foreground
MOST_CLASSES = 32  # more labels than these number objects, such as cells
LEAST_NUMBERED = 4  # as many cells, at least, tell a numbering of them from classes
SHOWN = 3


class AcceptedMasks(NamedTuple):
    """Masks that a person accepted.

    Attributes:
        paths: the mask of each image that has one, by the image's `name`.
        classes: the values of the classes in the label maps, ascending; (1,) if all foreground is one class.
        digest: changes with the labels, their geometry, and the images that they belong to.
        objects: largest number of connected parts of the foreground of an image; `None`: more than three.
    """

    paths: dict[str, str]
    classes: tuple[int, ...]
    digest: str
    objects: int | None

    def load(self, name: str, image: MetaTensor) -> MetaTensor:
        """The accepted mask of an image, on its grid.

        Args:
            name: name of the image.
            image: (C, *spatial), as `load_image` returns it.

        Returns:
            (1, *spatial), uint8: 0 is background, and n stands for `classes[n - 1]`. All 0 if the person saw no object.

        Raises:
            KeyError: when the image has no accepted mask.
            ValueError: when the mask cannot be brought to the grid of the image, see `load_labels_on_grid_of`, or holds
                a label that is not in `classes`, because the file has changed since.
        """
        path = self.paths[name]
        try:
            labels = load_labels_on_grid_of(path, image)
        except ValueError as error:
            raise ValueError(f"the accepted mask {_shown(path)}: {failure_reason(error)}") from error
        if len(self.classes) == 1:
            return MetaTensor((labels.as_tensor() > 0).to(torch.uint8), meta=labels.meta)
        known = torch.tensor((0, *self.classes), dtype=labels.dtype)
        places = torch.searchsorted(known, labels.as_tensor().contiguous()).clamp(max=len(self.classes))
        if not torch.equal(known[places], labels.as_tensor()):
            raise ValueError(f"the accepted mask {_shown(path)} must hold labels of {self.classes}, and it has changed")
        return MetaTensor(places.to(torch.uint8), meta=labels.meta)


class KeepAcceptedd(Transform):
    """Replaces the results of a network by the masks that a person accepted, for the images that have one.

    Args:
        accepted: the masks.

    It reads `name` and `original` of a sample, on the grid of the loaded image. It changes `pred`, `clusters`,
    `confidence`, and `objects` if there are some.
    """

    def __init__(self, accepted: AcceptedMasks) -> None:
        self.accepted = accepted

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns the sample, with its accepted mask if it has one."""
        sample = dict(data)
        if sample["name"] in self.accepted.paths:
            places = self.accepted.load(sample["name"], sample["original"])
            values = torch.tensor((0, *self.accepted.classes), dtype=torch.int32)
            mask = values[places.as_tensor().long()]
            sample["pred"], sample["clusters"] = (
                put_back(mask, sample["pred"]),
                put_back(places.as_tensor() + 1, sample["pred"]),
            )
            sample["confidence"] = 1.0
            if "objects" in sample:
                sample = MaskToObjectsd("pred")(sample)
        return sample


def find_accepted(
    items: Sequence[Mapping[str, Any]], accepted_dir: str | os.PathLike, dataset_dir: str | os.PathLike
) -> AcceptedMasks:
    """Finds and reads the masks in a folder that a person accepted; no other file is opened.

    Args:
        items: images, see `find_images`.
        accepted_dir: folder of masks `<name>.*` or `<name>_mask.*`, see `pair_masks`.
        dataset_dir: folder of the images.

    Raises:
        ValueError: when the folder does not exist, no mask in it belongs to an image, or an image has two masks; and
            as `read_accepted`.
    """
    folder = Path(accepted_dir)
    if not folder.is_dir():
        is_what = "is a file" if folder.exists() else "does not exist"
        raise ValueError(f"accepted_dir must be a folder of masks, got {folder}, which {is_what}")
    return read_accepted(_one_each(pair_masks(items, folder, dataset_dir), items, folder))


def read_accepted(paths: Mapping[str, str]) -> AcceptedMasks:
    """Reads the masks that a person accepted, and logs one line on them.

    All masks together decide whether they show one class or several. One label, or black and white, is one class. Up to
    32 labels are classes. More labels are numbers of objects, which all belong to one class. Labels are also numbers of
    objects if they run from 1 to a different number in each mask, to four at least in one mask, and each is one
    connected part.

    Args:
        paths: the mask of each image that has one, in any form that `load_labels` reads, by the image's `name`.

    Raises:
        ValueError: when one cannot be read, all are empty, or some show classes and others are black and white.
    """
    found: dict[str, set[int]] = {}
    digest = hashlib.sha256()
    parts: list[int | None] = []
    numbers: list[int | None] = []
    for name, path in paths.items():
        labels = load_labels(path)
        values = np.asarray(labels)
        found[path] = {int(value) for value in np.unique(values)} - {0}
        digest.update(f"{name} {values.shape} {np.asarray(labels.affine).tolist()}".encode())
        digest.update(values.tobytes())
        if values.any():
            parts.append(count_objects([values[0] > 0]))
            numbers.append(_numbered(values[0], found[path]))
    objects_only = None not in numbers and len(set(numbers)) > 1 and max(filter(None, numbers)) >= LEAST_NUMBERED
    classes = (1,) if objects_only else _classes_of(found)
    logger.info("%s", _told(found, classes))
    objects = None if None in parts else max(count for count in parts if count)
    return AcceptedMasks(dict(paths), classes, digest.hexdigest(), objects)


def _numbered(values: np.ndarray, labels: set[int]) -> int | None:
    """How many connected parts a label map numbers, from 1 on; `None` where its labels are something else."""
    count = len(labels)
    if labels != set(range(1, count + 1)):
        return None
    return count if connected_components(values, connectivity=values.ndim, return_num=True)[1] == count else None


def _one_each(paired: PairedMasks, items: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, str]:
    """The mask of each image that has one."""
    if not paired.owned:
        if not paired.unmatched:
            raise ValueError(f"accepted_dir {folder} holds no mask: expected <name>.* or <name>_mask.* of an image")
        raise ValueError(
            f"no mask in accepted_dir {folder} belongs to an image: the masks are {_first(paired.unmatched)}, the "
            f"images {_first([item['name'] for item in items])}; call each <name>.* or <name>_mask.*"
        )
    if paired.unmatched:
        count = len(paired.unmatched)
        logger.warning("%d accepted masks belong to no image and are not used: %s", count, _first(paired.unmatched))
    for name, masks in paired.owned.items():
        if len(masks) > 1:
            both = " and ".join(_shown(os.path.relpath(mask, folder)) for mask in sorted(masks)[:2])
            raise ValueError(f"accepted_dir must hold one mask of {name}, got {both}: keep one, or unite them")
    return {name: masks[0] for name, masks in sorted(paired.owned.items())}


def _classes_of(found: Mapping[str, set[int]]) -> tuple[int, ...]:
    """The classes that the labels (above 0) of all files show together."""
    labels = set().union(*found.values())
    if not labels:
        count = f"all {len(found)} accepted masks are" if len(found) > 1 else "the accepted mask is"
        raise ValueError(f"{count} empty: one at least must show the object")
    if len(labels) == 1 or labels <= WHITES | {1} or len(labels) > MOST_CLASSES:
        return (1,)
    alone = [path for path, own in found.items() if len(own) == 1 and own <= WHITES]
    if alone and not any(len(own) > 1 and own & WHITES for own in found.values()):
        others = sorted(labels - WHITES)
        raise ValueError(
            f"the accepted mask {_shown(alone[0])} is black and white, but others hold the classes "
            f"{', '.join(map(str, others))}: save it as a label map of these"
        )
    return tuple(sorted(labels))


def _told(found: Mapping[str, set[int]], classes: tuple[int, ...]) -> str:
    masks = f"{len(found)} accepted mask{'s' if len(found) > 1 else ''}"
    empty = sum(not own for own in found.values())
    without = f", {empty} of them empty" if empty else ""
    labels = len(set().union(*found.values()))
    if len(classes) > 1:
        return f"{masks}{without}, classes {', '.join(map(str, classes))}"
    return f"{masks}{without}, 1 class{f': their {labels} labels number objects' if labels >= LEAST_NUMBERED else ''}"


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(map(printable, names[:SHOWN]))}{more}"


def _shown(path: str) -> str:
    return printable(os.path.basename(path))
