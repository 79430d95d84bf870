"""The files of one image in a folder of results, and the fingerprint that says which image and settings made them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from monai.data import MetaTensor
from monai.utils import ensure_tuple
from PIL import Image
from scipy.ndimage import maximum_filter

from monai_fusenet.data import IMAGE_SUFFIXES
from monai_fusenet.results.dicom import (
    UnfitSourceError,
    check_dicom_output,
    dicom_mask_path,
    is_dicom,
    remove_dicom_masks,
    write_dicom_mask,
)
from monai_fusenet.results.layout import label_map_in, placement_note, write_label_map
from monai_fusenet.results.panel import PanelRow, draw_panels
from monai_fusenet.results.summary import describe_choice
from monai_fusenet.transforms.foreground import Region
from monai_fusenet.utils.arrays import places_of_classes, present_labels
from monai_fusenet.utils.files import atomic_path, content_digest, writing
from monai_fusenet.utils.geometry import affine_of

__all__ = ["ImageFiles", "ImageResult"]

NO_DICOM = "no DICOM {}: "


class ImageResult(NamedTuple):
    """The results of one image.

    Attributes:
        image: the segmented image (C, *spatial), values in [0, 1].
        clusters: (1, *spatial), integers from 1, with the `meta` of the image as `load_image` left it.
        mask: (1, *spatial), 0 and 1, or of several classes 0 and their values, with the same `meta`.
        augmented: second view (C, *any spatial of as many axes), values in [0, 1].
        regions: candidates for the mask, best first; `None` if no rule chose among candidates.
        objects: (1, *spatial), the objects 1..n of the mask, 0 elsewhere, with the same `meta`; `None` if the mask was
            not cut into objects.
        objects_wanted: how many objects the mask should hold; 0 if unknown.
        field: (*spatial), bool: the field of view; `None`: the whole image.
        confidence: how sure the mask is, in [0, 1]; `None` if unknown.
        classes: the values that the mask may hold, ascending.
    """

    image: np.ndarray
    clusters: MetaTensor
    mask: MetaTensor
    augmented: np.ndarray | None = None
    regions: Sequence[Region] | None = None
    objects: MetaTensor | None = None
    objects_wanted: int = 0
    field: np.ndarray | None = None
    confidence: float | None = None
    classes: Sequence[int] = (1,)

    @property
    def cluster_count(self) -> int:
        """How many labels there are."""
        return int((present_labels(self.clusters.cpu().numpy()) > 0).sum())

    @property
    def mask_fraction(self) -> float:
        """Share of the image that is foreground, in [0, 1]."""
        return np.count_nonzero(self.mask.cpu().numpy() > 0) / self.mask.numel()

    @property
    def object_count(self) -> int | str:
        """How many objects the mask was cut into; "" if it was not cut."""
        return "" if self.objects is None else int(self.objects.max())

    @property
    def choice(self) -> str:
        """Why this mask was chosen, see `describe_choice`; "" if no rule chose among candidates."""
        return "" if self.regions is None else describe_choice(self.regions)

    def oddities(self) -> list[str]:
        """Warnings for the user about clusters and mask, a few words each."""
        found = sum(region.chosen for region in self.regions or ())
        oddities = []
        if self.cluster_count == 1:
            oddities.append("collapsed: one cluster")
        elif self.mask_fraction == 0:
            oddities.append("empty mask")
        if 0 < found < self.objects_wanted:
            oddities.append(f"{found} of {self.objects_wanted} objects found")
        if note := placement_note(self.mask):
            oddities.append(note)
        return oddities

    def panel_row(self) -> PanelRow:
        """The row of the panel, with the outline of the mask, or of its objects or classes."""
        note = self.choice
        mask = places_of_classes(self.mask.cpu().numpy()[0], self.classes)
        sure = "" if self.confidence is None else f"confidence {self.confidence:.2f}"
        if self.objects is not None:
            mask = _apart(self.objects.cpu().numpy()[0])
            note = f"{self.object_count} object{'' if self.object_count == 1 else 's'}, {note}".rstrip(", ")
        return PanelRow(
            image=self.image,
            clusters=self.clusters.cpu().numpy()[0],
            mask=mask,
            augmented=self.augmented,
            affine=affine_of(self.clusters),
            note="\n".join(filter(None, [*note.split("; "), sure])),
            field=self.field,
        )


class ImageFiles:
    """Writes clusters, mask and panel of an image, and recognises the files of an earlier run.

    All files are complete or absent. An image is finished if its row in `summary.csv`, or its panel, carries a
    fingerprint of image and settings. The panel is written last, and the row after it; the panel (as the PNG text
    `objects`) says whether there are objects.

    Args:
        folder: where the files go; made when the first is written.
        settings: everything besides the images that the results depend on, as plain numbers, strings, lists and
            dictionaries.
        dicom_output: also write masks of DICOM images as DICOM, "seg" or "series", see `write_dicom_mask`.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], dicom_output: str | None = None) -> None:
        check_dicom_output(dicom_output)
        self.folder = folder
        self.settings = json.dumps(settings, sort_keys=True, default=str)
        self.dicom_output = dicom_output

    def finished(self, items: Sequence[Mapping[str, Any]], rows: Mapping[str, Mapping[str, str]]) -> dict[str, bool]:
        """The items with all files present, by file, and whether this image and these settings made them.

        Args:
            items: each with `image`, `file` and `name`.
            rows: rows of an earlier summary, by file.
        """
        there = set(os.listdir(self.folder)) if self.folder.is_dir() else set()
        found = {}
        for item in items:
            told = rows.get(item["file"], {})
            if told.get("fingerprint"):
                fingerprint, with_objects = told["fingerprint"], told["objects"] != ""
            else:
                panel = self._text_of_panel(item) if f"{item['name']}_panel.png" in there else {}
                fingerprint, with_objects = panel.get("fingerprint", ""), "objects" in panel
            kinds = ("clusters", "mask", *["objects"] * with_objects)
            if fingerprint and all(label_map_in(there, item["name"], kind) for kind in kinds):
                found[item["file"]] = fingerprint == self.fingerprint(_content(item))
        return found

    def have_dicom(self, item: Mapping[str, Any], message: str) -> bool:
        """Whether the mask is present as DICOM, or need not be; `message` comes from its row in the summary."""
        if self.dicom_output is None or not is_dicom(_source(item)):
            return True
        path = dicom_mask_path(self.folder, f"{item['name']}_mask", self.dicom_output)
        return path.exists() or NO_DICOM.format(self.dicom_output) in message

    def write(
        self, item: Mapping[str, Any], result: ImageResult, content: str | None = None, panel: bool = True
    ) -> tuple[str, str]:
        """Writes the files of an item.

        Args:
            item: with `image`, `file` and `name`.
            result: the results of this item.
            content: digest of the image as it was read, see `content_digest`; `None` if unknown.
            panel: whether to draw a panel; an earlier panel is removed in any case.

        Returns:
            the fingerprint of image and settings, and the reason why a wanted DICOM mask is missing, otherwise "".

        Raises:
            ValueError: when the image has changed since it was read.
            CannotWriteError: when the disk is full, or the folder may not be written.
        """
        name, now = item["name"], _content(item)
        if content is not None and content != now:
            raise ValueError("the file has changed since it was read; run again")
        # The panel goes first and comes last: while it is there, with its fingerprint, the image is finished.
        panel_path = self.folder / f"{name}_panel.png"
        with writing(panel_path):
            panel_path.unlink(missing_ok=True)
        self._write_map(result.clusters, name, "clusters")
        self._write_map(result.mask, name, "mask", foreground=255 if len(result.classes) == 1 else 1)
        self._write_map(result.objects, name, "objects")
        text = {"fingerprint": self.fingerprint(now)}
        if result.objects is not None:
            text["objects"] = str(result.object_count)
        no_dicom = self._write_dicom(item, result)
        if panel:
            with atomic_path(panel_path) as temporary:
                draw_panels([result.panel_row()], [item["file"]]).savefig(temporary, metadata=text)
        return text["fingerprint"], no_dicom

    def _write_map(self, labels: MetaTensor | None, name: str, kind: str, foreground: int = 1) -> None:
        """Writes a label map in the place of one of an earlier run, which may be of another format."""
        path = None if labels is None else write_label_map(labels, self.folder, f"{name}_{kind}", foreground)
        for suffix in IMAGE_SUFFIXES:
            stale = self.folder / f"{name}_{kind}{suffix}"
            if stale != path and os.path.isfile(stale):
                with writing(stale):
                    stale.unlink()

    def _write_dicom(self, item: Mapping[str, Any], result: ImageResult) -> str:
        """Writes the mask as DICOM if it is to be; returns what to say where the source does not permit it."""
        source, stem = _source(item), f"{item['name']}_mask"
        remove_dicom_masks(self.folder, stem)
        if self.dicom_output is not None and is_dicom(source):
            try:
                write_dicom_mask(result.mask, source, self.folder, stem, self.dicom_output, result.classes)
            except UnfitSourceError as error:
                return f"{NO_DICOM.format(self.dicom_output)}{error}"
        return ""

    def fingerprint(self, content: str) -> str:
        """The fingerprint of the settings and of an image, given by the digest of its content."""
        return hashlib.sha256(f"{self.settings} {content}".encode()).hexdigest()

    def _text_of_panel(self, item: Mapping[str, Any]) -> dict[str, Any]:
        try:
            with Image.open(self.folder / f"{item['name']}_panel.png") as panel:
                return {str(key): value for key, value in panel.info.items()}
        except (OSError, SyntaxError, ValueError):
            return {}


def _apart(objects: np.ndarray) -> np.ndarray:
    """The mask of objects (*spatial), parted by a line of pixels, in the plane of a panel, where two of them touch."""
    window = (3, 3, 1)[: objects.ndim]
    return (objects > 0) & (maximum_filter(objects, window) == objects)


def _source(item: Mapping[str, Any]) -> str:
    """The file or folder that a DICOM mask refers to; the first where several are stacked as channels."""
    return ensure_tuple(item["image"])[0]


def _content(item: Mapping[str, Any]) -> str:
    try:
        return content_digest(item["image"])
    except OSError:  # a file that cannot be read fails elsewhere, with a reason
        return ""
