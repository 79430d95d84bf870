"""The annotation of a folder: proposed masks, clicks that correct them, acceptance, and the images that are left."""

from __future__ import annotations

import io
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from monai.data import MetaTensor
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.exception import MONAILabelException

from monai_fusenet.data import load_image
from monai_fusenet.label.clustering import READING
from monai_fusenet.label.infer import MaskTask
from monai_fusenet.label.interactive import STARTED_FROM, ClickTask, read_saved
from monai_fusenet.label.label_maps import AnswerForm, write_answer
from monai_fusenet.label.requests import FOREGROUND
from monai_fusenet.label.scoring import SCORE
from monai_fusenet.label.views import Shown, shown
from monai_fusenet.transforms.foreground.agreement import dice

__all__ = ["Annotations", "State", "UnknownImageError"]

State = Literal["new", "proposed", "accepted"]

REJECTED = "fusenet_rejected"  # in the datastore's information on an image: nothing is proposed unasked
IN_MEMORY = 3  # images that are cut into slices


class UnknownImageError(ValueError):
    """The datastore has no image of this name."""


class UnreadableLabelError(ValueError):
    """The label map of an image cannot be read; the message says why."""


class _Pipe(io.RawIOBase):
    """Takes what is written, which `taken` hands on."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, part: Any) -> int:
        self._parts.append(bytes(part))
        return len(self._parts[-1])

    def taken(self) -> bytes:
        """All that was written since it was asked last."""
        parts, self._parts = self._parts, []
        return b"".join(parts)


class Annotations:
    """The images of a datastore with their states and masks.

    As in MONAI Label, a mask with the label tag `original` is proposed, and one with the tag `final` is accepted. So 3D
    Slicer, the trainings and the workflow `distillation` (`--accepted_dir`) see the same masks.

    Args:
        app: the app with the datastore and the tasks.
        results_dir: folder where label maps are written before they are saved.
    """

    def __init__(self, app: MONAILabelApp, results_dir: Path) -> None:
        self.app = app
        self.results_dir = results_dir
        self._shown: OrderedDict[tuple[str, float], Shown] = OrderedDict()
        self._unreadable: set[str] = set()  # of the images that somebody has looked at
        self._lock = threading.Lock()
        self._files = threading.RLock()  # nobody reads a mask that another request is writing

    @property
    def datastore(self) -> Datastore:
        """That of the app."""
        return self.app.datastore()

    def path(self, image: str) -> str:
        """The file of an image; raises `UnknownImageError` if there is none."""
        path = self.datastore.get_image_uri(image) if image else ""
        if not path:
            raise UnknownImageError(f"there is no image {image!r:.100} in the folder")
        return path

    def state(self, image: str) -> State:
        """Whether a mask of an image is accepted or proposed."""
        tags = self.datastore.get_labels_by_image_id(image)
        if DefaultLabelTag.FINAL in tags:
            return "accepted"
        return "proposed" if DefaultLabelTag.ORIGINAL in tags else "new"

    def images(self) -> list[dict[str, Any]]:
        """All images by name: `id`, `state`, `note` and `uncertainty`.

        The note says why a new image has no proposal: "rejected", or "cannot be read"; otherwise it is "". Uncertainty
        is in [0, 1], or `None` if unknown.
        """
        return [
            {"id": image, "state": self.state(image), "note": self.note(image), "uncertainty": self.uncertainty(image)}
            for image in sorted(self.datastore.list_images())
        ]

    def note(self, image: str) -> str:
        """Why nothing is proposed for an image; "" if unknown."""
        if image in self._unreadable:
            return "cannot be read"
        return "rejected" if self.datastore.get_image_info(image).get(REJECTED) else ""

    def uncertainty(self, image: str) -> float | None:
        """The uncertainty of the network about its proposed mask, or, without one, that of the clusters."""
        info = self.datastore.get_label_info(image, DefaultLabelTag.ORIGINAL)
        confidence = info.get("params", {}).get("confidence") if isinstance(info.get("params"), dict) else None
        score = self.datastore.get_image_info(image).get(SCORE)
        return score if confidence is None else round(1 - float(confidence), 6)

    def shown(self, image: str) -> Shown:
        """The visible content of an image, kept for its next slice; raises `ValueError` if it cannot be read."""
        path = self.path(image)
        key = path, Path(path).stat().st_mtime
        with self._lock:
            if key not in self._shown:
                try:
                    self._shown[key] = shown(_read(path))
                except Exception:
                    self._unreadable.add(image)
                    raise
            self._unreadable.discard(image)
            self._shown.move_to_end(key)
            while len(self._shown) > IN_MEMORY:
                self._shown.popitem(last=False)
            return self._shown[key]

    def mask(self, image: str) -> np.ndarray:
        """The accepted or proposed mask (*spatial) of an image, bool.

        If an image has neither, one is proposed now, which takes a fit, unless its mask was rejected.

        Raises:
            ValueError: if the image or its mask cannot be read.
        """
        path = self.path(image)
        if self._is_untouched(image):
            found = self._task("fusenet_mask", MaskTask).answer({"image": path})
            with self._files:
                if self._is_untouched(image):  # still: a fit takes seconds
                    self._save(image, found.labels > 0, DefaultLabelTag.ORIGINAL, {"model": "fusenet_mask"})
        with self._files:
            return self._saved(image, path)

    def clicked(
        self, image: str, foreground: Sequence[Any], background: Sequence[Any], from_mask: bool = True
    ) -> np.ndarray:
        """The mask (*spatial) for given clicks, bool.

        Args:
            image: its name.
            foreground: clicks on the object, each an index of the array (*spatial).
            background: clicks on the background.
            from_mask: the clicks correct the mask that `mask` returns, if it is not empty; otherwise the first click
                chooses.

        Raises:
            ValueError: for invalid clicks.
        """
        path, found = self.path(image), self.shown(image)
        for point in [*foreground, *background]:
            is_inside = all(0 <= at < side for at, side in zip(point, found.shape, strict=False))
            if len(point) != len(found.shape) or not is_inside:
                raise ValueError(
                    f"a click must lie in the image of the shape {found.shape}, in the order of its axes, got {point}"
                )
        clicks = {"foreground": foreground, "background": background}
        # of pictures, clients say the column first
        request: dict[str, Any] = {
            kind: [point[::-1] if found.is_picture else point for point in points] for kind, points in clicks.items()
        }
        request["image"] = path
        label = self.label(image) if from_mask else None
        if label:
            request |= {"start": "label", STARTED_FROM: label}
        return self._task("fusenet_click", ClickTask).answer(request).labels > 0

    def proposal_dice(self) -> float | None:
        """The mean Dice of proposals with the masks that a person accepted in their places.

        `None` if fewer than two of these are known and can be read, or if accepted masks tell several classes apart.
        """
        found = []
        for image in self.datastore.list_images():
            uris = [
                self.datastore.get_label_uri(image, tag)
                for tag in (DefaultLabelTag.ORIGINAL, DefaultLabelTag.FINAL)
                if tag in self.datastore.get_labels_by_image_id(image)
            ]
            if len(uris) < 2:
                continue
            try:
                with self._files:
                    proposed, accepted = (read_saved(uri, self.path(image)) for uri in uris)
            except (OSError, ValueError):  # the training tells it
                continue
            if len(np.unique(accepted[accepted > 0])) > 1:
                return None
            found.append(dice(proposed > 0, accepted > 0))
        return float(np.mean(found)) if len(found) > 1 else None

    def accept(self, image: str, mask: np.ndarray) -> None:
        """Keeps a mask (*spatial) as accepted.

        Raises:
            ValueError: if it has another shape, or would replace a label map with several classes.
        """
        path = self.path(image)
        expected = self.shown(image).shape
        if mask.shape != expected:
            raise ValueError(f"the mask must have the shape {expected} of the image, got {mask.shape}")
        with self._files:
            self._check_single_class(image, path)
            self._save(image, mask, DefaultLabelTag.FINAL, {"model": "annotate"})
            self.datastore.update_image_info(image, {REJECTED: False})

    def reject(self, image: str) -> None:
        """Removes the proposed or accepted mask of an image; no new mask is proposed for it unless asked.

        Raises:
            ValueError: if the accepted label map has several classes.
        """
        path = self.path(image)
        with self._files:
            with suppress(OSError, UnreadableLabelError):  # a damaged one may go
                self._check_single_class(image, path)
            for tag in (DefaultLabelTag.FINAL, DefaultLabelTag.ORIGINAL):
                if tag in self.datastore.get_labels_by_image_id(image):
                    self.datastore.remove_label(image, tag)
            self.datastore.update_image_info(image, {REJECTED: True})
            self.refresh()

    def label(self, image: str) -> str:
        """The file of the mask that is shown; "" if there is none, or no such image."""
        tags = self.datastore.get_labels_by_image_id(image)
        tag = next((tag for tag in (DefaultLabelTag.FINAL, DefaultLabelTag.ORIGINAL) if tag in tags), None)
        return self.datastore.get_label_uri(image, tag) if tag else ""

    def refresh(self) -> None:
        """Reads the folder again, because other processes write masks, too."""
        if hasattr(self.datastore, "refresh"):
            with self._files:
                self.datastore.refresh()

    def export(self, with_proposals: bool = False) -> Iterator[bytes]:
        """A ZIP file, in pieces, of the accepted masks as `<name>_mask.*` and, if wanted, the others in `proposed/`."""
        written = _Pipe()
        with zipfile.ZipFile(written, "w", zipfile.ZIP_STORED) as archive:  # masks are compressed already
            for one in self.images():
                tag = {"accepted": DefaultLabelTag.FINAL, "proposed": DefaultLabelTag.ORIGINAL}.get(one["state"])
                if tag is None or (tag == DefaultLabelTag.ORIGINAL and not with_proposals):
                    continue
                file = Path(self.datastore.get_label_uri(one["id"], tag))
                folder = "" if tag == DefaultLabelTag.FINAL else "proposed/"
                archive.write(file, f"{folder}{one['id']}_mask{file.name[len(one['id']) :]}")
                yield written.taken()
        yield written.taken()

    def _is_untouched(self, image: str) -> bool:
        return self.state(image) == "new" and not self.datastore.get_image_info(image).get(REJECTED)

    def _task(self, name: str, kind: type[Any]) -> Any:
        task = self.app._infers[name]
        assert isinstance(task, kind)
        return task

    def _saved(self, image: str, path: str) -> np.ndarray:
        label = self.label(image)
        if not label:
            return np.zeros(self.shown(image).shape, dtype=bool)
        return read_saved(label, path) > 0

    def _check_single_class(self, image: str, path: str) -> None:
        if self.state(image) != "accepted":
            return
        try:
            classes = np.unique(read_saved(self.label(image), path))
        except ValueError as error:
            raise UnreadableLabelError(str(error)) from error
        if len(classes[classes > 0]) > 1:
            values = ", ".join(f"{value:g}" for value in classes[classes > 0][:8])
            raise ValueError(f"the accepted label map of {image} tells classes {values} apart: edit it in 3D Slicer")

    def _save(self, image: str, mask: np.ndarray, tag: str, info: dict[str, Any]) -> None:
        path = self.path(image)
        meta = _read(path).meta
        labels = MetaTensor(torch.from_numpy(mask.astype(np.int32)).unsqueeze(0), meta=meta)
        file = write_answer(labels, self.results_dir, AnswerForm(None, None, False), FOREGROUND, path)
        try:
            label = self.datastore.save_label(image, str(file), tag, info)
            self.app.on_save_label(image, label)
        except MONAILabelException as error:
            raise ValueError(str(error.msg)) from error
        finally:
            file.unlink(missing_ok=True)


def _read(path: str) -> MetaTensor:
    with READING:
        return load_image(path)
