"""Writes the report of an evaluation: scores and totals as CSV, and one HTML page."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_fusenet.evaluation.aggregate import totals
from monai_fusenet.evaluation.examples import Example
from monai_fusenet.evaluation.levels import METRICS, Row
from monai_fusenet.evaluation.page import report_page
from monai_fusenet.utils.files import atomic_path

__all__ = ["write_report"]


def write_report(
    rows: Sequence[Row],
    folder: str | Path,
    heading: Sequence[str],
    not_scored: Sequence[tuple[str, str]] = (),
    examples: Sequence[Example] = (),
) -> Path:
    """Writes ``scores.csv``, ``totals.csv`` and ``report.html``.

    The page is one file that loads nothing else. Every file is written completely or not at all.

    Args:
        rows: as for :py:func:`totals`; further keys become further columns of ``scores.csv``.
        folder: made if it does not exist; files of these names are replaced.
        heading: the title, then lines about data and settings.
        not_scored: (file, reason) of the images that are missing from `rows`.
        examples: pictures to show under the tables.

    Returns:
        the path of ``report.html``.

    Raises:
        ValueError: there are no rows, or a row names no file.
    """
    if not rows:
        raise ValueError("there are no scores to report: rows is empty")
    for row in rows:
        if "file" not in row:
            raise ValueError(f"every row must name its image under 'file', got only {', '.join(row)}")
    folder = Path(folder)
    summary = totals(rows)
    _write_csv(folder / "scores.csv", rows, ["file", "method", "seed", "level", *METRICS, "collapsed"])
    _write_csv(folder / "totals.csv", summary, list(summary[0]))
    report = folder / "report.html"
    with atomic_path(report) as temporary:
        # a file name that is no UTF-8 arrives with surrogates, which cannot be encoded
        temporary.write_text(report_page(rows, summary, heading, not_scored, examples), "utf-8", "backslashreplace")
    return report


def _write_csv(path: Path, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    columns = list(dict.fromkeys([*columns, *(key for row in rows for key in row)]))
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for row in rows:
            writer.writerow({key: f"{v:.6g}" if isinstance(v, float) else v for key, v in row.items()})
