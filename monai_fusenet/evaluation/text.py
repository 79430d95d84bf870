"""Tables of scores as plain text, for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from monai_fusenet.evaluation.aggregate import totals
from monai_fusenet.evaluation.cells import (
    ERRORS,
    OBJECTS,
    OVERLAP,
    PARTITION,
    SUMMARY,
    dice_title,
    grid_notes,
    has_objects,
    is_summarised,
    number,
    shorten,
    shown_name,
    summary_cells,
)
from monai_fusenet.evaluation.levels import LEVELS, Row

__all__ = ["format_totals"]


def format_totals(rows: Iterable[Row], levels: Iterable[str] = LEVELS) -> str:
    """The totals as plain text for a terminal, at most 100 columns wide.

    Args:
        rows: a row per image, method and level, as for :py:func:`totals`.
        levels: those to show.

    Returns:
        a table per level that occurs; then a summary if seeds or seconds are known; then the number of truths
        or predictions whose grid differed from the image's, if any. Empty lines separate these parts. Numbers are as in
        the HTML report, nan is "-".
    """
    rows = list(rows)
    summary = totals(rows)
    blocks = []
    for level in levels:
        lines = [total for total in summary if total["level"] == level]
        if not lines:
            continue
        # not everything fits: totals.csv has it all
        others = OBJECTS if has_objects(lines) else ERRORS
        columns = (OVERLAP[0], *PARTITION) if level == "partition" else (*OVERLAP, *others)
        cells = [["images", dice_title(level), *(column.title for column in columns), "collapsed"]]
        for total in lines:
            dice = f"{number(total['dice_mean'], 3)} ±{number(total['dice_std'], 3)}"
            numbers = [number(total[column.key], column.decimals) for column in columns]
            cells.append([str(total["images"]), dice, *numbers, f"{total['collapse_rate']:.0%}"])
        blocks.append(_text_table([level, *map(shown_name, lines)], cells))
    if lines := [total for total in summary if is_summarised(total) and total["level"] in levels]:
        names = ["summary", *(f"{total['method']}, {total['level']}" for total in lines)]
        blocks.append(_text_table(names, [list(SUMMARY), *map(summary_cells, lines)]))
    if resampled := {file for file, _ in grid_notes(rows)}:
        images = {row["file"] for row in rows}
        blocks.append(
            f"other grids: masks of {len(resampled)} of {len(images)} images were resampled, see note in scores.csv"
        )
    return "\n\n".join(blocks)


def _text_table(names: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    room = max(12, 100 - sum(widths) - len(widths))
    names = [shorten(name, room) for name in names]
    width = max(map(len, names))
    return "\n".join(
        " ".join([name.ljust(width), *(cell.rjust(w) for cell, w in zip(line, widths, strict=True))])
        for name, line in zip(names, cells, strict=True)
    )
