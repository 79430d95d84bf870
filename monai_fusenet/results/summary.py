"""`summary.csv`: a row for each image, and what it says of a choice."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from monai_fusenet.data.datalist import SUMMARY_HEAD
from monai_fusenet.transforms.foreground import Region

__all__ = ["SUMMARY_COLUMNS", "describe_choice", "read_summary"]

SUMMARY_COLUMNS = (*SUMMARY_HEAD, "peak_mib", "mask_fraction", "choice", "message")


def describe_choice(regions: Sequence[Region], most: int = 3) -> str:
    """Why these regions and no others, in a few words: the scores of the chosen and of the best rejected ones.

    Between them stands what the score of the best is the product of, weights aside. A star marks a rejected one that
    overlaps with a chosen one.

    Args:
        regions: candidates, best first, as `choose_foreground` returns them.
        most: how many scores of either kind are told.

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
    """The rows of a `summary.csv`, or of the one in a folder, by file; empty where there is none to read.

    What is missing in a row is "".
    """
    path = Path(path)
    try:
        with (path / "summary.csv" if path.is_dir() else path).open(newline="", encoding="utf-8") as file:
            return {
                row["file"]: {name: row.get(name) or "" for name in SUMMARY_COLUMNS} for row in csv.DictReader(file)
            }
    except (OSError, KeyError, csv.Error, UnicodeDecodeError):
        return {}
