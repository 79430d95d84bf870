"""`summary.csv`: a row for each image, its parts in a process group, and the text about a choice."""

from __future__ import annotations

import csv
import errno
import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_fusenet.data.datalist import SUMMARY_HEAD
from monai_fusenet.transforms.foreground import Region
from monai_fusenet.utils import distributed
from monai_fusenet.utils.files import atomic_path, writing

__all__ = ["SUMMARY_COLUMNS", "Row", "Summary", "describe_choice", "read_summary", "read_summary_and_parts"]

SUMMARY_COLUMNS = (
    *(*SUMMARY_HEAD, "peak_mib", "mask_fraction", "objects", "confidence", "choice", "message"),
    "fingerprint",  # of the image and the settings that the results were made of
)

Row = dict[str, Any]


class Summary:
    """The rows of a folder's images, on disk after each change.

    Rows are appended as they come; `write` puts them in order. In a process group each rank keeps its rows in a
    `summary.part<rank>.csv`, until `merge` makes one `summary.csv`.

    Args:
        folder: where `summary.csv` goes; made when it is written.
        files: the files of all images, in the order of the rows.
        rows: the known rows, by file.
        others: rows of other images, which come last.
    """

    def __init__(
        self, folder: Path, files: Sequence[str], rows: dict[str, Row], others: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        self.folder = folder
        self.files = files
        self.rows = rows
        self.others = others
        self._counts = Counter(row["status"] for row in rows.values())

    def counts(self) -> Counter:
        """How many images are ok, kept and failed."""
        return Counter(self._counts)

    def add(self, row: Mapping[str, Any]) -> None:
        """Adds the row of an image, or replaces an earlier one; missing values are "".

        If the file has two rows of an image, the later counts.
        """
        self._put({**dict.fromkeys(SUMMARY_COLUMNS, ""), **row})
        path = self._path()
        if not path.is_file():
            self.write()
            return
        line = io.StringIO(newline="")
        csv.DictWriter(line, SUMMARY_COLUMNS).writerow(self.rows[row["file"]])
        with writing(path):
            _append(path, line.getvalue().encode())

    def _put(self, row: Row) -> None:
        earlier = self.rows.get(row["file"])
        if earlier is not None:
            self._counts[earlier["status"]] -= 1
        self._counts[row["status"]] += 1
        self.rows[row["file"]] = row

    def add_messages(self, messages: Sequence[tuple[str, str]]) -> None:
        """Adds messages to the rows of images (file, message), if they have one."""
        for file, message in messages:
            if file in self.rows:
                before = self.rows[file]["message"]
                self.rows[file]["message"] = f"{before}; {message}" if before else message
        if messages:
            self.write()

    def merge(self) -> None:
        """Shares the rows of all ranks with all ranks; the first writes them as one `summary.csv`."""
        for rows in distributed.gather(self.rows):
            for row in rows.values():
                self._put(row)
        distributed.from_first(self.write)

    def write(self) -> None:
        """Writes a row for each image so far, in the order of `files`, and then the others."""
        with (
            atomic_path(self._path()) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            table = csv.DictWriter(file, SUMMARY_COLUMNS)
            table.writeheader()
            table.writerows(self.rows[file] for file in self.files if file in self.rows)
            table.writerows(self.others)
        for part in _parts(self.folder) if distributed.size() == 1 else ():
            part.unlink()  # its rows are in the summary now

    def _path(self) -> Path:
        alone = distributed.size() == 1
        return self.folder / ("summary.csv" if alone else f"summary.part{distributed.rank()}.csv")


def _append(path: Path, line: bytes) -> None:
    """Appends a whole line or nothing: a disk that becomes full takes a part of it, which is cut off again."""
    with path.open("ab", buffering=0) as file:
        end = file.tell()
        try:
            if file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            file.truncate(end)
            raise


def describe_choice(regions: Sequence[Region], most: int = 3) -> str:
    """Why these regions were chosen, in a few words: the scores of the chosen and of the best rejected ones.

    Between them are the factors of the best score, without the weights. A star marks a rejected region that overlaps
    with a chosen one.

    Args:
        regions: candidates, best first, as `choose_foreground` returns them.
        most: how many scores of either kind to give.

    Example:
        >>> best = Region(0.2, 0.1, 0.4, 0, 0.5, chosen=True)
        >>> describe_choice([best, Region(0.19, 0.1, 0.4, 0, 0.48, overlaps=True), Region(0.04, 0.3, 0.1, 0.2, 0.5)])
        'chosen 0.2; contrast 0.5, centre 0.4, border 0; rejected 0.19*, 0.04'
    """
    parts = []
    for kind, chosen in (("chosen", True), ("rejected", False)):
        group = [region for region in regions if region.chosen == chosen]
        if group:
            scores = [f"{region.score:.2g}{'*' * region.overlaps}" for region in group[:most]]
            more = f" and {len(group) - most} more" if len(group) > most else ""
            parts.append(f"{kind} {', '.join(scores)}{more}")
        if group and chosen:
            best = group[0]
            parts.append(f"contrast {best.contrast:.2g}, centre {best.centre:.2g}, border {best.border:.2g}")
    return "; ".join(parts) or "no candidate"


def read_summary(path: str | Path) -> dict[str, dict[str, str]]:
    """The rows of a `summary.csv`, or of the one in a folder, by file; empty if there is none.

    Missing values of a row are "".
    """
    path = Path(path)
    try:
        with (path / "summary.csv" if path.is_dir() else path).open(newline="", encoding="utf-8") as file:
            lines = (line for line in file if line.endswith("\n"))  # half a row is none
            return {
                row["file"]: {name: row.get(name) or "" for name in SUMMARY_COLUMNS} for row in csv.DictReader(lines)
            }
    except (OSError, KeyError, csv.Error, UnicodeDecodeError):
        return {}


def read_summary_and_parts(folder: Path) -> dict[str, dict[str, str]]:
    """As `read_summary`, but also with the rows in the parts that the ranks of a killed run have left."""
    rows = read_summary(folder)
    for part in _parts(folder):  # later than the summary
        rows |= read_summary(part)
    return rows


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("summary.part*.csv"))
