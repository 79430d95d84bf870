"""The handler that writes the results of a pass through a folder."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ignite.engine import Events
from monai.engines import IterationEvents, SupervisedEvaluator

from monai_fusenet.data.datalist import unique_names
from monai_fusenet.results.image import ImageFiles, ImageResult
from monai_fusenet.results.layout import write_label_map
from monai_fusenet.results.summary import SUMMARY_COLUMNS, Row, Summary, read_summary_and_parts
from monai_fusenet.transforms.acquisition import field_of
from monai_fusenet.utils import distributed
from monai_fusenet.utils.memory import peak_memory

__all__ = ["ResultWriter", "write_label_map"]  # the function lies in results/; programs import it from here, too

logger = logging.getLogger(__name__)

PANELS = ("all", "some", "none")
FIRST_PANELS = 50
SURE = 0.7  # confidence from which on nobody needs to look


def check_panels(panels: Any) -> None:
    """Raises `ValueError` unless the value is one of "all", "some" and "none"."""
    if panels not in PANELS:
        raise ValueError(f'panels must be "all", "some" or "none", got {panels!r}')


class _Finished(NamedTuple):
    """What earlier runs have left: rows of images to keep, files of foreign results, rows of other folders' images."""

    kept: dict[str, Row]
    conflicts: list[str]
    others: list[dict[str, str]]


class ResultWriter:
    """Writes clusters, mask, objects (if a sample has them) and panel of each image, and one `summary.csv` for all.

    In a process group all ranks must create it together; `pending` is then the share of the rank. Until `merge`, each
    rank keeps its rows in a `summary.part<rank>.csv`. After a killed run, the next run reads these files, with any
    number of ranks.

    An image is kept if its files are already there and it did not fail: it is not in `pending` and counts as done. All
    files are complete or absent. The summary is up to date after each image; at the end, its rows are put in the order
    of the images. Rows and panels carry a fingerprint of image and settings, so that results of other images or
    settings are not reused.

    The process that does an image writes its files; this may be a worker process. The row of the summary goes in
    `state.report` to the process that keeps the summary.

    Args:
        items: all images, each with `image`, `file` and `name`.
        output_dir: where the results go; made when the first is written.
        overwrite: do finished images again.
        settings: everything besides the images that the results depend on, as plain numbers, strings, lists and
            dictionaries.
        dicom_output: also write masks of DICOM images as DICOM, "seg" or "series", see `write_dicom_mask`. If the
            source does not permit it, the summary says why, and the image still counts as done.
        panels: which images get a panel: "all", "none" or "some". "some" are the first 50, and those with a mask that a
            person should check: it is empty or otherwise odd, or its confidence is below 0.7.

    Attributes:
        pending: the items that this rank has to do.
        conflicts: files whose existing results come from another image or from other settings.
    """

    def __init__(
        self,
        items: Sequence[Mapping[str, Any]],
        output_dir: str | Path,
        overwrite: bool = False,
        settings: Mapping[str, Any] | None = None,
        dicom_output: str | None = None,
        panels: str = "some",
    ) -> None:
        check_panels(panels)
        self.panels = panels
        self.items = items
        self.output_dir = Path(output_dir)
        self.dicom_output = dicom_output
        self._files = ImageFiles(self.output_dir, settings or {}, dicom_output)
        self._items_by_file = {item["file"]: item for item in items}
        self._first = {item["file"] for item in items[:FIRST_PANELS]}
        # One looks for all: the first result of one rank must change no other rank's share.
        found = distributed.from_first(lambda: self._look(overwrite))
        self._summary = Summary(self.output_dir, list(self._items_by_file), found.kept, found.others)
        self.conflicts = found.conflicts
        self.pending = distributed.share(
            [item for item in items if item["file"] not in found.kept and item["file"] not in found.conflicts]
        )

    def _look(self, overwrite: bool) -> _Finished:
        earlier = read_summary_and_parts(self.output_dir)
        others = [row for file, row in earlier.items() if file not in self._items_by_file]
        # Files are named by the image's name: those of an image of another folder may lie in the place of ours.
        by_name = dict(zip(unique_names([row["file"] for row in others]), others, strict=True))
        rows = {item["file"]: earlier.get(item["file"]) or by_name.get(item["name"], {}) for item in self.items}
        names = {item["name"] for item in self.items}
        found = _Finished({}, [], [row for name, row in by_name.items() if name not in names])
        fitting = {} if overwrite else self._files.finished(self.items, rows)
        lost = [file for file, fits in fitting.items() if fits and not rows[file]]
        if lost:
            logger.warning(
                "%s and %d others have results, but summary.csv has lost their rows; --overwrite True does all anew",
                *(lost[0], len(lost) - 1),
            )
        for file, fits in fitting.items():
            row = {**dict.fromkeys(SUMMARY_COLUMNS, ""), **rows[file]}
            if row["status"] == "failed":
                continue
            if not fits:
                found.conflicts.append(file)
            elif self._files.have_dicom(self._items_by_file[file], row["message"]):
                found.kept[file] = {**row, "file": file, "status": "kept"}
        return found

    @property
    def rows(self) -> dict[str, Row]:
        """The rows of the summary, by file."""
        return self._summary.rows

    def counts(self) -> Counter:
        """How many images are ok, kept and failed."""
        return self._summary.counts()

    def add_messages(self, messages: Sequence[tuple[str, str]]) -> None:
        """Adds messages to the rows of images (file, message), if they have one, and writes the summary."""
        self._summary.add_messages(messages)

    def merge(self) -> None:
        """Shares the rows of all ranks with all ranks; the first writes them as one `summary.csv`."""
        self._summary.merge()

    def write_summary(self) -> None:
        """Writes `summary.csv`: a row for each image so far, in the order of the folder, then those of other folders.

        With several ranks, each writes its part.
        """
        self._summary.write()

    def attach(self, engine: SupervisedEvaluator) -> None:
        """Writes after each image; an error in writing makes the image fail."""
        engine.add_event_handler(Events.STARTED, self._forget_pending)
        engine.add_event_handler(Events.ITERATION_STARTED, self._start_clock)
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self._write_results)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add_row)

    def _forget_pending(self, engine: SupervisedEvaluator) -> None:
        """Takes rows of images that are done anew out of the summary, which would call half of their files finished."""
        if distributed.size() == 1:  # several ranks have merged theirs
            self.write_summary()

    def _start_clock(self, engine: SupervisedEvaluator) -> None:
        self._started = time.perf_counter()

    def _write_results(self, engine: SupervisedEvaluator) -> None:
        item = self._items_by_file[engine.state.item["file"]]
        read, sample = engine.state.batch[0], engine.state.output[0]
        records = getattr(engine.inferer, "record", [])
        record = records[-1] if records else None
        result = ImageResult(
            image=read["original"].numpy(),
            clusters=sample["clusters"],
            mask=sample["pred"],
            objects=sample.get("objects"),
            augmented=None if record is None or record.augmented is None else record.augmented.numpy(),
            regions=sample.get("regions"),
            objects_wanted=sample.get("objects_wanted", 0),
            field=field_of(read, "field"),
            confidence=sample.get("confidence"),
            classes=sample.get("classes", (1,)),
        )
        oddities = result.oddities()
        panel = self._wants_panel(item["file"], bool(oddities), result.confidence)
        fingerprint, no_dicom = self._files.write(item, result, read.get("content"), panel)
        messages = [*oddities, *_notes_of_fit(record), no_dicom]
        peak = peak_memory()
        engine.state.report = {
            "file": item["file"],
            "status": "ok",
            "clusters": result.cluster_count,
            "steps": 0 if record is None else record.steps,
            "seconds": f"{time.perf_counter() - self._started:.2f}",
            "peak_mib": "" if peak is None else f"{peak:.0f}",
            "mask_fraction": f"{result.mask_fraction:.4f}",
            "objects": result.object_count,
            "confidence": "" if result.confidence is None else f"{result.confidence:.3f}",
            "choice": result.choice,
            "message": "; ".join(filter(None, messages)),
            "fingerprint": fingerprint,
        }

    def _wants_panel(self, file: str, is_odd: bool, confidence: float | None) -> bool:
        doubtful = is_odd or (confidence is not None and confidence < SURE)
        return self.panels == "all" or (self.panels == "some" and (file in self._first or doubtful))

    def _add_row(self, engine: SupervisedEvaluator) -> None:
        if engine.state.failure is None:
            self._summary.add(engine.state.report)
        else:
            file = engine.state.item["file"]
            logger.warning("%s failed: %s", file, engine.state.failure)
            self._summary.add({"file": file, "status": "failed", "message": engine.state.failure})


def _notes_of_fit(record: Any) -> list[str]:
    """What a user should know of a fit, from the record of the inferer; nothing of an inferer that keeps none."""
    notes = []
    if record is not None and record.refits:
        notes.append(f"fitted {record.refits + 1} times, as all of it had become one cluster")
    if record is not None and record.wanted_size is not None:
        done, wanted = (" x ".join(map(str, size)) for size in (record.size, record.wanted_size))
        notes.append(f"fitted at {done}, as memory did not suffice for {wanted}")
    return notes
