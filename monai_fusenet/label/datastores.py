"""The folder or the DICOMweb server of the images; no name from a client leads outside of it."""

from __future__ import annotations

import re
import shutil
import threading
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cachetools import TTLCache, cached
from fastapi import HTTPException
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from monailabel.datastore.utils.dicom import dicom_web_download_series
from monailabel.interfaces.datastore import DefaultLabelTag

from monai_fusenet.data import IMAGE_SUFFIXES, load_image
from monai_fusenet.data.formats import suffix_of
from monai_fusenet.utils.files import atomic_folder

__all__ = [
    "ConfinedDICOMWebDatastore",
    "ConfinedDatastore",
    "UnreadableSeriesError",
    "check_name",
    "is_plain",
    "is_uid",
]

KEPT_SECONDS = 10  # how long a list of series is not asked for anew
UID = re.compile(r"[0-9]+(\.[0-9]+)*")  # of DICOM, PS3.5 section 9
LONGEST_UID = 64
FETCHING: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)  # by series, of this process
LONGEST_NAME = 200  # of the 255 that file systems take, less the suffix
# What series hold that are no images: segmentations, reports, plans, registrations, curves and the like.
NO_IMAGES = {"AU", "DOC", "ECG", "EPS", "FID", "HD", "KO", "PLAN", "PR", "REG", "RTDOSE", "RTPLAN", "RTRECORD"}
NO_IMAGES |= {"RTSTRUCT", "RWV", "SEG", "SR", "STAIN", "TEXTUREMAP"}


class UnreadableSeriesError(ValueError):
    """A series of a DICOMweb server that cannot be read; the message says why, in one line."""


class ConfinedDatastore(LocalDatastore):
    """MONAI Label's datastore of a folder; no name from a client leads outside of it."""

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Adds an image; HTTP 400 unless its id is a plain name."""
        if image_id:
            check_name("image", image_id)
        return super().add_image(image_id, image_filename, image_info)

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Saves a label and replaces an earlier one, whatever the suffix of that.

        HTTP 400 unless its tag is a plain name, its suffix can be read, and its information is a dictionary; 404 for an
        unknown image.
        """
        if not isinstance(label_info, dict):
            raise HTTPException(400, f"params must be a JSON object, got {label_info!r:.100}")
        check_name("tag", label_tag)
        if not self.get_image_uri(image_id):
            raise HTTPException(404, f"there is no image {image_id!r:.100}; GET /datastore/?output=all lists all")
        if suffix_of(label_filename) not in IMAGE_SUFFIXES:
            known, suffix = " ".join(IMAGE_SUFFIXES), suffix_of(label_filename)
            raise HTTPException(400, f"a label must be a file with one of the suffixes {known}, got {suffix!r:.100}")
        earlier = self._label_file(image_id, label_tag)
        label_id = super().save_label(image_id, label_filename, label_tag, label_info)
        if earlier is not None and earlier != self._label_file(image_id, label_tag):
            earlier.unlink(missing_ok=True)  # or a folder of labels would hold two masks of an image
        return label_id

    def _label_file(self, image_id: str, tag: str) -> Path | None:
        label = self._datastore.label(image_id, tag)
        return label and Path(self._datastore.label_path(tag), self._filename(image_id, label.ext))


class ConfinedDICOMWebDatastore(DICOMWebDatastore):
    """MONAI Label's datastore of a DICOMweb server: series by their UID, of any modality that is an image."""

    @cached(TTLCache(maxsize=16, ttl=KEPT_SECONDS))
    def list_images(self) -> list[str]:
        """The UIDs of all series that match the filter and are images."""
        found = self._client.search_for_series(search_filters=self._search_filter)
        return [uid for uid, modality in map(_series, found) if uid and modality not in NO_IMAGES]

    def get_image_uri(self, image_id: str) -> str:
        """The file of a series in the cache, which is fetched if needed; "" if the series does not exist.

        Raises:
            UnreadableSeriesError: when a file of the series is damaged, or its slices are not one volume.
        """
        if not self._is_series(image_id):
            return ""
        folder = Path(self._datastore.image_path(), image_id)
        with FETCHING[image_id]:  # the page asks for the image, its mask and its thumbnail at once
            if not folder.with_name(f"{image_id}.nii.gz").exists():  # what MONAI Label makes of it, whatever it is
                self._fetch(image_id, folder)
            return super().get_image_uri(image_id)

    def _fetch(self, image_id: str, folder: Path) -> None:
        """Fetches a series that can be read, all of it or none."""
        if not folder.exists():
            with atomic_folder(folder) as temporary:
                dicom_web_download_series(None, image_id, str(temporary), self._client, self._fetch_by_frame)
        try:
            load_image(folder)
        except ValueError as error:
            shutil.rmtree(folder, ignore_errors=True)  # and fetched anew next time: it may be mended by then
            reason = str(error).replace(f"cannot read {folder}: ", "")  # the cache is none of the user's
            raise UnreadableSeriesError(f"cannot read the series {image_id}: {reason}") from error

    def get_label_uri(self, label_id: str, label_tag: str, image_id: str = "") -> str:
        """The file of a label in the cache; "" where there is none.

        Args:
            label_id: the UID of the series that is labelled; with `image_id` that of the DICOM SEG, which is fetched.
            label_tag: which of its labels.
            image_id: the UID of the series that a DICOM SEG labels.
        """
        if not (is_uid(label_id) and is_plain(label_tag)):
            return ""
        if image_id and label_tag == DefaultLabelTag.FINAL:
            known = is_uid(image_id) and self._is_series(label_id)
            return super().get_label_uri(label_id, label_tag, image_id) if known else ""
        return LocalDatastore.get_label_uri(self, label_id, label_tag)

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """The series with a DICOM SEG on the server, whose labels are fetched."""
        self._download_labeled_data()
        return LocalDatastore.get_labeled_images(self, label_tag, labels)

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Keeps a fetched series; HTTP 400 unless its id is a UID."""
        if not is_uid(image_id):
            raise HTTPException(400, f"image must be the UID of a series, got {image_id!r:.100}")
        return super().add_image(image_id, image_filename, image_info)

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any], label_id: str = ""
    ) -> str:
        """Saves a label in the cache, and with the tag `final` as DICOM SEG on the server, too.

        HTTP 400 unless its tag is a plain name and its information is a dictionary; 404 for an unknown series.
        """
        if not isinstance(label_info, dict):
            raise HTTPException(400, f"params must be a JSON object, got {label_info!r:.100}")
        check_name("tag", label_tag)
        if not self._is_series(image_id):
            raise HTTPException(404, f"there is no series {image_id!r:.100} on the DICOMweb server")
        return super().save_label(image_id, label_filename, label_tag, label_info, label_id)

    def _is_series(self, uid: Any) -> bool:
        if not is_uid(uid):
            return False
        found = self._client.search_for_series(search_filters={"SeriesInstanceUID": uid})
        return any(_series(one)[0] == uid for one in found)


def is_uid(text: Any) -> bool:
    """Whether a text is a UID of DICOM."""
    return isinstance(text, str) and len(text) <= LONGEST_UID and UID.fullmatch(text) is not None


def _series(found: Mapping[str, Any]) -> tuple[str, str]:
    """UID and modality of a series that a search has found, in DICOM JSON."""
    values = (found.get(tag, {}).get("Value") or [""] for tag in ("0020000E", "00080060"))
    uid, modality = (str(value[0]) for value in values)
    return uid, modality


def check_name(what: str, name: Any) -> None:
    """Raises HTTP 400 unless a name stays in the folder in which it is used."""
    if not is_plain(name):
        raise HTTPException(
            400,
            f"{what} must be a name of at most {LONGEST_NAME} bytes without slashes that begins with no dot, "
            f"got {name!r:.100}",
        )


def is_plain(name: Any) -> bool:
    """Whether a text is a name that stays in the folder in which it is used."""
    if not isinstance(name, str) or not name or name.startswith(".") or set(name) & {"/", "\\", "\0"}:
        return False
    return len(name.encode(errors="replace")) <= LONGEST_NAME
