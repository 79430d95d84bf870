"""The cells of a report's tables, the same in plain text and in HTML."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from monai_fusenet.evaluation.levels import BASELINES, CLUSTERINGS, Row

__all__ = [
    "ERRORS",
    "OBJECTS",
    "OVERLAP",
    "PARTITION",
    "SUMMARY",
    "Column",
    "dice_title",
    "grid_notes",
    "has_objects",
    "is_summarised",
    "number",
    "shorten",
    "shown_name",
    "summary_cells",
]


class Column(NamedTuple):
    """A column of the printed tables: a value of the totals, its title, and its number of decimals."""

    key: str
    title: str
    decimals: int


OVERLAP = (
    Column("dice_worst", "worst", 3),
    Column("iou_mean", "IoU", 3),
    Column("hd95_mean", "HD95", 1),
    Column("surface_dice_mean", "surface", 3),
)
ERRORS = (Column("hammoude_mean", "HM", 3), Column("xor_mean", "XOR", 3))
OBJECTS = (Column("ap50_mean", "AP50", 3), Column("ap75_mean", "AP75", 3))
PARTITION = (
    Column("ari_mean", "ARI", 3),
    Column("voi_mean", "VI", 3),
    Column("boundary_f_mean", "boundary", 3),
    Column("clusters_mean", "clusters", 1),
)
SUMMARY = ("seeds", "Dice", "± images", "± seeds", "worst seed", "collapsed", "clusters", "s/image", "peak MiB")


def has_objects(totals: Iterable[dict[str, Any]]) -> bool:
    """Whether objects were scored in any of the lines of a table."""
    return any(not math.isnan(total[column.key]) for total in totals for column in OBJECTS)


def is_summarised(total: dict[str, Any]) -> bool:
    """Whether a method has a line in the summary: one with seeds or seconds, which baselines do not have."""
    return total["method"] not in BASELINES and (total["seeds"] > 1 or not math.isnan(total["seconds_mean"]))


def summary_cells(total: dict[str, Any]) -> list[str]:
    """The cells under the titles `SUMMARY`."""
    worst = f"{number(total['dice_worst_seed'], 3)} ({total['worst_seed']})" if total["seeds"] > 1 else "-"
    return [
        str(total["seeds"]),
        *(number(total[key], 3) for key in ("dice_mean", "dice_std", "dice_seed_std")),
        worst,
        f"{total['collapse_rate']:.0%}",
        *(number(total[key], 1) for key in ("clusters_mean", "seconds_mean")),
        number(total["peak_mib"], 0),
    ]


def shown_name(total: dict[str, Any]) -> str:
    """The name of a method in a table."""
    chosen = total["level"] == "deployed" and total["method"] in CLUSTERINGS
    return f"{total['method']} + same choice" if chosen else total["method"]


def dice_title(level: str) -> str:
    """The title of the column of Dice in the table of a level."""
    return "majority Dice" if level == "partition" else "Dice"


def grid_notes(rows: Iterable[Row]) -> list[tuple[str, str]]:
    """(file, note) of the truths and predictions that were brought to the grid of their image, each once."""
    return list(dict.fromkeys((row["file"], row["note"]) for row in rows if "note" in row and "seed" in row))


def number(value: float, decimals: int) -> str:
    """A number in the form of all tables; "-" for nan."""
    if math.isnan(value):
        return "-"
    return f"{value:.{decimals}f}" if abs(value) < 10000 else f"{value:.3g}"


def shorten(name: str, width: int) -> str:
    """Shortens a name to a largest number of characters."""
    return name if len(name) <= width else name[: width - 1] + "…"
