"""What a pass through a folder leaves on disk."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Events
from monai.data import MetaTensor
from monai.engines import IterationEvents, SupervisedEvaluator
from monai.utils import ensure_tuple
from PIL import Image

from monai_fusenet.data import affine_of
from monai_fusenet.results.dicom import (
    UnfitSourceError,
    check_dicom_output,
    dicom_mask_path,
    is_dicom,
    remove_dicom_masks,
    write_dicom_mask,
)
from monai_fusenet.results.layout import result_path, write_label_map
from monai_fusenet.results.panel import PanelRow, draw_panels
from monai_fusenet.results.summary import SUMMARY_COLUMNS, describe_choice, read_summary
from monai_fusenet.utils import distributed
from monai_fusenet.utils.files import atomic_path, content_digest, writing
from monai_fusenet.utils.memory import peak_memory

__all__ = ["ResultWriter"]

logger = logging.getLogger(__name__)
NO_DICOM = "no DICOM {}: "


class ResultWriter:
    """Writes clusters, mask and panel of each image, and one `summary.csv` of all.

    In a process group all ranks make it together, and `pending` is the share of each. Until `merge`, each keeps its
    rows in a `summary.part<rank>.csv`; of a run that was killed, the next one takes them up, with any number of ranks.

    An image whose three files lie there already, and did not fail, is kept: not in `pending`, it counts as done. All
    files are complete or absent, and the summary is up to date after each image. A panel carries a fingerprint of its
    image and of the settings (as the PNG text `fingerprint`), so that results of others are not taken for these.

    Args:
        items: all images, each with `image`, `file` and `name`.
        output_dir: where the results go; made when the first is written.
        overwrite: do finished images anew.
        settings: what the results depend on besides the images, as plain numbers, strings, lists and dictionaries.
        dicom_output: also write masks of DICOM images as DICOM, "seg" or "series", see `write_dicom_mask`. Where the
            source does not permit it, the summary says why, and the image is done all the same.

    Attributes:
        pending: the items that this rank is to do.
        conflicts: files whose results lie there, but come from another image or from other settings.
    """

    def __init__(
        self,
        items: Sequence[Mapping[str, Any]],
        output_dir: str | Path,
        overwrite: bool = False,
        settings: Mapping[str, Any] | None = None,
        dicom_output: str | None = None,
    ) -> None:
        check_dicom_output(dicom_output)
        self.items = items
        self.dicom_output = dicom_output
        self.settings = json.dumps(settings or {}, sort_keys=True, default=str)
        self.output_dir = Path(output_dir)
        self._items_by_file = {item["file"]: item for item in items}
        # One looks for all: the first result of one rank must change no other rank's share.
        self.rows, self.conflicts, self._others = distributed.from_first(lambda: self._look(overwrite))
        self.pending = distributed.share(
            [item for item in items if item["file"] not in self.rows and item["file"] not in self.conflicts]
        )

    def _look(self, overwrite: bool) -> tuple[dict[str, dict[str, Any]], list[str], list[dict[str, str]]]:
        """The rows of finished images, the conflicts, and the rows of other folders' images."""
        earlier = read_summary(self.output_dir)
        for part in self._parts():  # later than the summary
            earlier |= read_summary(part)
        rows: dict[str, dict[str, Any]] = {}
        conflicts: list[str] = []
        for item in () if overwrite else self.items:
            row = {**dict.fromkeys(SUMMARY_COLUMNS, ""), **earlier.get(item["file"], {})}
            whole = all(result_path(self.output_dir, item["name"], kind) for kind in ("clusters", "mask", "panel"))
            if whole and row["status"] != "failed":
                if self._found_fingerprint(item) != self._fingerprint(self._content(item)):
                    conflicts.append(item["file"])
                    continue
                if self._has_dicom(item, row["message"]):
                    rows[item["file"]] = {**row, "file": item["file"], "status": "kept"}
        return rows, conflicts, [row for file, row in earlier.items() if file not in self._items_by_file]

    def _parts(self) -> list[Path]:
        return sorted(self.output_dir.glob("summary.part*.csv"))

    def attach(self, engine: SupervisedEvaluator) -> None:
        """Writes after each image; what goes wrong in writing makes the image fail."""
        engine.add_event_handler(Events.ITERATION_STARTED, self._start_clock)
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self._write_results)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._note_failure)

    def counts(self) -> Counter:
        """How many images are ok, kept and failed."""
        return Counter(row["status"] for row in self.rows.values())

    def merge(self) -> None:
        """Tells all ranks of the rows of all, and lets the first write them as one `summary.csv`."""
        for rows in distributed.gather(self.rows):
            self.rows |= rows
        distributed.from_first(self.write_summary)

    def write_summary(self) -> None:
        """Writes `summary.csv`: a row for each image met, in the order of the folder, then those of other folders.

        Of several ranks each writes its part.
        """
        alone = distributed.size() == 1
        name = "summary.csv" if alone else f"summary.part{distributed.rank()}.csv"
        with (
            atomic_path(self.output_dir / name) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            table = csv.DictWriter(file, SUMMARY_COLUMNS)
            table.writeheader()
            table.writerows(self.rows[item["file"]] for item in self.items if item["file"] in self.rows)
            table.writerows(self._others)
        for part in self._parts() if alone else ():
            part.unlink()  # its rows are in the summary now

    def _start_clock(self, engine: SupervisedEvaluator) -> None:
        self._started = time.perf_counter()

    def _add(self, row: dict[str, Any]) -> None:
        self.rows[row["file"]] = {**dict.fromkeys(SUMMARY_COLUMNS, ""), **row}
        self.write_summary()

    def _write_results(self, engine: SupervisedEvaluator) -> None:
        sample, item = engine.state.output[0], engine.state.item
        name, clusters, mask = item["name"], sample["clusters"], sample["pred"]
        records = getattr(engine.inferer, "record", [])
        augmented = records[-1].augmented if records else None
        choice = describe_choice(sample["regions"]) if "regions" in sample else ""
        row = PanelRow(
            image=engine.state.batch[0]["original"].numpy(),
            clusters=clusters.cpu().numpy()[0],
            mask=mask.cpu().numpy()[0],
            augmented=None if augmented is None else augmented.numpy(),
            affine=affine_of(clusters),
            note=choice.replace("; ", "\n"),
        )
        content = self._content(self._items_by_file[item["file"]])
        if content != engine.state.batch[0].get("content", content):
            raise ValueError("the file has changed since it was read; run again")
        # The panel goes first and comes last: while it is there, with its fingerprint, the image is finished.
        panel = self.output_dir / f"{name}_panel.png"
        with writing(panel):
            panel.unlink(missing_ok=True)
        write_label_map(clusters, self.output_dir, f"{name}_clusters")
        write_label_map(mask, self.output_dir, f"{name}_mask", foreground=255)
        no_dicom = self._write_dicom(mask, self._items_by_file[item["file"]])
        with atomic_path(panel) as temporary:
            draw_panels([row], [item["file"]]).savefig(temporary, metadata={"fingerprint": self._fingerprint(content)})
        count = int(clusters.cpu().numpy().max())  # torch knows no maximum of uint16
        fraction = float((mask > 0).float().mean())
        messages = ["collapsed: one cluster" if count == 1 else "empty mask" if fraction == 0 else ""]
        found, wanted = sum(region.chosen for region in sample.get("regions", ())), sample.get("objects_wanted", 0)
        if 0 < found < wanted:
            messages.append(f"{found} of {wanted} objects found")
        if records and records[-1].refits:
            messages.append(f"fitted {records[-1].refits + 1} times, as all of it had become one cluster")
        if records and records[-1].wanted_size is not None:
            done, wanted = (" x ".join(map(str, size)) for size in (records[-1].size, records[-1].wanted_size))
            messages.append(f"fitted at {done}, as memory did not suffice for {wanted}")
        messages.append(no_dicom)
        peak = peak_memory()
        self._add(
            {
                "file": item["file"],
                "status": "ok",
                "clusters": count,
                "steps": records[-1].steps if records else 0,
                "seconds": f"{time.perf_counter() - self._started:.2f}",
                "peak_mib": "" if peak is None else f"{peak:.0f}",
                "mask_fraction": f"{fraction:.4f}",
                "choice": choice,
                "message": "; ".join(filter(None, messages)),
            }
        )

    def _has_dicom(self, item: Mapping[str, Any], message: str) -> bool:
        """Whether the mask lies there as DICOM, too, or need not."""
        source = ensure_tuple(item["image"])[0]
        if self.dicom_output is None or not is_dicom(source):
            return True
        path = dicom_mask_path(self.output_dir, f"{item['name']}_mask", self.dicom_output)
        return path.exists() or NO_DICOM.format(self.dicom_output) in message

    def _write_dicom(self, mask: MetaTensor, item: Mapping[str, Any]) -> str:
        """Writes the mask as DICOM if it is to be; returns what to say where the source does not permit it."""
        source, stem = ensure_tuple(item["image"])[0], f"{item['name']}_mask"
        remove_dicom_masks(self.output_dir, stem)
        if self.dicom_output is not None and is_dicom(source):
            try:
                write_dicom_mask(mask, source, self.output_dir, stem, self.dicom_output)
            except UnfitSourceError as error:
                return f"{NO_DICOM.format(self.dicom_output)}{error}"
        return ""

    def add_message(self, file: str, message: str) -> None:
        """Adds a message to the row of an image, if it has one, and writes the summary."""
        if file in self.rows:
            before = self.rows[file]["message"]
            self.rows[file]["message"] = f"{before}; {message}" if before else message
            self.write_summary()

    def _content(self, item: Mapping[str, Any]) -> str:
        try:
            return content_digest(item["image"])
        except OSError:  # a file that cannot be read fails elsewhere, with a reason
            return ""

    def _fingerprint(self, content: str) -> str:
        return hashlib.sha256(f"{self.settings} {content}".encode()).hexdigest()

    def _found_fingerprint(self, item: Mapping[str, Any]) -> str:
        try:
            with Image.open(self.output_dir / f"{item['name']}_panel.png") as panel:
                return str(panel.info.get("fingerprint", ""))
        except (OSError, SyntaxError, ValueError):
            return ""

    def _note_failure(self, engine: SupervisedEvaluator) -> None:
        if engine.state.failure is not None:
            file = engine.state.item["file"]
            logger.warning("%s failed: %s", file, engine.state.failure)
            self._add({"file": file, "status": "failed", "message": engine.state.failure})
