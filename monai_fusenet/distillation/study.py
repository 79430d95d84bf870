"""The knowledge of the images of a folder before any training."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from torch import Tensor

from monai_fusenet.data import SeededCacheDataset, load_image
from monai_fusenet.data.grids import nearest_on_grid_of, shares_on_grid_of
from monai_fusenet.distillation.accepted import AcceptedMasks
from monai_fusenet.distillation.agreement import LEAST_IMAGES
from monai_fusenet.distillation.candidates import PoolMaker
from monai_fusenet.distillation.known import rule_of_accepted, without_vanished
from monai_fusenet.distillation.lesson import KnownFolder, foreground
from monai_fusenet.results.layout import result_path
from monai_fusenet.transforms.foreground import Rule
from monai_fusenet.utils.arrays import plain

__all__ = ["FolderStudy"]

logger = logging.getLogger(__name__)


class FolderStudy:
    """Reads the images of a folder and their masks from teachers and persons, and makes their candidates.

    Args:
        preprocessing: transform of an item to `image` (C, *size), a `MetaTensor` whose affine gives its geometry.
        pool: makes the candidates of an image.
        size: size of the images that the network gets.
    """

    def __init__(self, preprocessing: Callable, pool: PoolMaker, size: Sequence[int]) -> None:
        self.preprocessing = preprocessing
        self.pool = pool
        self.size = tuple(size)

    def __call__(
        self, items: Sequence[Mapping[str, Any]], teacher_dirs: Sequence[Path], accepted: AcceptedMasks | None
    ) -> KnownFolder:
        """What is known of all images that can be read and, where nothing was accepted, have masks of all teachers.

        Args:
            items: images; `image`, `file` and `name` are looked at.
            teacher_dirs: folders of `<name>_clusters.*` and, where nothing was accepted, of `<name>_mask.*`.
            accepted: masks that a person accepted, if any.

        Raises:
            ValueError: when there is nothing to learn from.
        """
        loaded = self._read(items, teacher_dirs, accepted)
        persons = without_vanished(
            {place: one["accepted"] for place, one in enumerate(loaded) if one["accepted"] is not None},
            [one["name"] for one in loaded],
        )
        if accepted and not persons:
            raise ValueError(
                f"none of the {len(accepted.paths)} accepted masks can teach: their images cannot be read, or their "
                "objects are smaller than a pixel at --student_size"
            )
        rule = self._rule(loaded, persons)
        several = any(len(target) > 1 for target in persons.values())
        return KnownFolder(
            samples=[{"image": one["image"], "name": one["name"]} for one in loaded],
            # Where masks were accepted, what the rule says without them is one more opinion: k-means is enough for it.
            masks=[self.pool.guess(one["image"]).unsqueeze(0) if persons else one["masks"] for one in loaded],
            pools=None if several else [self.pool(one["image"], one["clusters"], rule) for one in loaded],
            accepted=persons,
            objects=rule.objects,
        )

    def _read(
        self, items: Sequence[Mapping[str, Any]], teacher_dirs: Sequence[Path], accepted: AcceptedMasks | None
    ) -> list[dict[str, Any]]:
        of_persons = set(accepted.paths) if accepted else set()
        kinds = ("clusters",) if accepted else ("clusters", "mask")
        taught = [
            {**{key: item[key] for key in ("image", "file", "name")}, "path": item["image"]}
            for item in items
            if item["name"] in of_persons
            or all(result_path(folder, item["name"], kind) for folder in teacher_dirs for kind in kinds)
        ]
        if not taught:
            raise ValueError(
                f"none of {len(items)} images has masks of all teachers, see summary.csv in {teacher_dirs[0]}: "
                "there is nothing to learn from"
            )
        if len(taught) < LEAST_IMAGES:
            logger.warning("a network that sees %d images memorises them: use more images", len(taught))
        # Nothing but the small image is kept: what it was made from may be a hundred times as large.
        small = Compose([self.preprocessing, partial(self._look, teacher_dirs=teacher_dirs, accepted=accepted)])
        images = SeededCacheDataset(taught, small, progress=True)
        images.prepare()
        return [images[index] for index in range(len(images))]

    def _look(self, sample: dict[str, Any], teacher_dirs: Sequence[Path], accepted: AcceptedMasks | None) -> dict:
        """What is known of one image, on the grid that the network works on."""
        image, name = sample["image"], sample["name"]
        found = [[result_path(folder, name, kind) for folder in teacher_dirs] for kind in ("clusters", "mask")]
        clusters = [load_image(str(path), nearest=True) for path in found[0] if path]
        masks = [shares_on_grid_of(load_image(str(path), nearest=True), image)[:1] for path in found[1] if path]
        target = None
        if accepted and name in accepted.paths:
            labels = accepted.load(name, load_image(sample["path"]))
            values = range(1, 2) if len(accepted.classes) == 1 else range(len(accepted.classes) + 1)
            classes = torch.cat([(labels == value).to(torch.uint8) for value in values])
            target = shares_on_grid_of(MetaTensor(classes, meta=labels.meta), image)
        return {
            "image": plain(image).clone(),
            "name": name,
            "clusters": [nearest_on_grid_of(one, image) for one in clusters],
            "masks": torch.stack(masks) if masks else torch.zeros(0, 1, *self.size),
            "accepted": target,
        }

    def _rule(self, loaded: Sequence[Mapping[str, Any]], accepted: Mapping[int, Tensor]) -> Rule:
        """By what clusters become candidates: what accepted masks show, or else what the config says."""
        if not accepted:
            return self.pool.rule
        masks = [foreground(target).amax(dim=0).numpy() > 0.5 for target in accepted.values()]
        images = [loaded[place]["image"].numpy() for place in accepted]
        rule = rule_of_accepted(masks, images, self.pool.rule)
        logger.info("the accepted masks show this of the object: %s", rule)
        return rule
