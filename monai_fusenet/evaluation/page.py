"""The report as one HTML page that loads nothing else."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

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
    shown_name,
    summary_cells,
)
from monai_fusenet.evaluation.examples import Example
from monai_fusenet.evaluation.figure import draw_confidence, draw_deployed_dice
from monai_fusenet.evaluation.levels import BASELINE_PIXELS, BASELINES, LEVELS, Row

__all__ = ["report_page"]

STYLE = """
body { font: 16px/1.5 system-ui, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; color: #1c2430; background: #fff;
  max-width: 70rem; margin: 2.5rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .25rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
p { margin: .25rem 0 .75rem; max-width: 52rem; }
p.heading, p.note, dl { color: #566070; }
h1, p, td, dd { overflow-wrap: anywhere; }
div.table { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #e4e8ee; }
th { font-weight: 600; color: #566070; border-bottom: 2px solid #c3cad4; }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 12rem; }
tr.method td { font-weight: 600; background: #eef4fc; }
tr.baseline td { color: #566070; }
span.spread { opacity: .7; font-weight: 400; }
img { width: 100%; max-width: 56rem; margin: 1rem 0 0; }
img.square { max-width: 28rem; }
figure { margin: 1rem 0 1.5rem; }
figcaption { font-weight: 600; font-size: .9rem; margin: 0 0 .5rem; overflow-wrap: anywhere; }
figure img { max-height: 32rem; object-fit: contain; object-position: left; margin: 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; font-size: .9rem; }
dt { font-weight: 600; } dd { margin: 0; }
"""

LEGEND = (
    "Green: the mask; orange: the truth. Beneath stand, where they are known, the scores by which the mask was chosen "
    "among the candidates."
)

TRUST = (
    "Confidence (of <code>summary.csv</code>) is known without any truth; here stands what it was worth. On the "
    "dashed line it is the Dice itself. Masks of confidence 1, as those that a person accepted, are left out."
)

GLOSSARY = {
    "Dice, IoU": "overlap with the truth, 0 to 1; Dice as mean ± standard deviation over the images, each of which "
    "counts with its mean over the seeds",
    "± seeds": "standard deviation over the seeds of the mean Dice of all images",
    "worst seed": "the lowest mean Dice of a seed, and which it is",
    "worst": "the lowest Dice of all images and seeds; hover over it for the file",
    "HD95": "95th percentile of the surface distances, in mm where the spacing is known, else in pixels",
    "surface": "share of both surfaces within 2 mm (or pixels) of the other, 0 to 1",
    "HM": "Hammoude distance, 1 - IoU",
    "XOR": "symmetric difference in parts of the truth's area; infinite where the truth is empty and the mask is not",
    "AP50, AP75": "average precision of objects, TP / (TP + FP + FN); a TP is a pair, matched one to one, of an IoU of "
    "at least 0.5 or 0.75. True objects are the numbers of a label map, or the files of an image; of a mask without "
    "either, its connected parts, so that true objects which touch are one. Masks of baselines are cut as ours are",
    "ARI": "adjusted Rand index of the clusters: 0 by chance, 1 if equal to the truth",
    "VI": "variation of information in bits, 0 if equal to the truth",
    "boundary": "F score of the cluster boundaries within 2 mm (or pixels)",
    "clusters": "how many clusters an image has",
    "collapsed": "share of images with a single cluster or, deployed, with an empty or full mask",
    "s/image": "seconds from the loaded image to the written result",
    "peak MiB": "the most main memory that the process used while it made the masks (that of a GPU does not count)",
    "+ same choice": "clusters of which the same label-free rule chose the mask that chooses among the method's own",
    "baselines": f"those of an image of more than {BASELINE_PIXELS} pixels are made and scored on a smaller grid",
}


def report_page(
    rows: Sequence[Row],
    summary: Sequence[dict[str, Any]],
    heading: Sequence[str],
    not_scored: Sequence[tuple[str, str]],
    examples: Sequence[Example],
) -> str:
    """The page as text.

    Args:
        rows: a row per image, seed, method and level.
        summary: the `totals` of these rows.
        heading: the title, then lines about data and settings.
        not_scored: (file, reason) of the images that are missing from `rows`.
        examples: pictures to show under the deployed scores.
    """
    title = escape(heading[0]) if heading else "Evaluation"
    parts = [f"<h1>{title}</h1>", *(f'<p class="heading">{escape(line)}</p>' for line in heading[1:])]
    parts.append(
        '<p class="note">Each table is one level: what the ground truth was used for. '
        "Figures of different levels must not be compared. Trivial baselines stand in grey.</p>"
    )
    parts += _summary_section(summary)
    for level in LEVELS:
        lines = [total for total in summary if total["level"] == level]
        parts += _level_section(level, lines)
        if level == "deployed" and lines:
            parts += _pictures(rows, examples)
    if resampled := grid_notes(rows):
        listed = _definitions((escape(file), escape(note)) for file, note in resampled)
        parts.append(f"<h2>Other grids</h2>{listed}")
    if not_scored:
        listed = _definitions((escape(file), escape(reason)) for file, reason in not_scored)
        parts.append(f"<h2>Not scored</h2>{listed}")
    parts += ["<h2>Columns</h2>", _definitions(GLOSSARY.items())]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    body = "\n".join(parts)
    head += f"<style>{STYLE}</style>"
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>{head}</head>\n<body>\n{body}\n</body>\n</html>\n'


def _summary_section(summary: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each method with seeds or seconds; nothing where there is none."""
    summarised = [total for total in summary if is_summarised(total)]
    if not summarised:
        return []
    table = [_html_row(["", *SUMMARY], "th")]
    for total in summarised:
        kind = "method" if total["level"] == "deployed" else ""
        table.append(_html_row([f"{total['method']}, {total['level']}", *summary_cells(total)], kind=kind))
    return ["<h2>Summary</h2>", _html_table(table)]


def _level_section(level: str, lines: Sequence[dict[str, Any]]) -> list[str]:
    """What a level uses the ground truth for, and the totals at this level."""
    table = _table(lines, level) if lines else '<p class="note">No scores at this level.</p>'
    return [f"<h2>{level}</h2>", f"<p>{escape(LEVELS[level])}</p>", table]


def _pictures(rows: Sequence[Row], examples: Sequence[Example]) -> list[str]:
    """The deployed Dice of every image, alone and against its confidence, then the examples."""
    parts = [_drawing("Deployed Dice of every image per method", draw_deployed_dice(rows))]
    if confidence := draw_confidence(rows):
        parts += ["<h3>How far confidence can be trusted</h3>", f'<p class="note">{TRUST}</p>']
        parts.append(_drawing("Deployed Dice against confidence", confidence, "square"))
    if examples:
        parts += ["<h3>Best, median and worst</h3>", f'<p class="note">{LEGEND}</p>']
    return [*parts, *map(_figure, examples)]


def _table(lines: Sequence[dict[str, Any]], level: str) -> str:
    objects = OBJECTS if has_objects(lines) else ()
    columns = (*OVERLAP, *(PARTITION if level == "partition" else ERRORS), *objects)
    titles = ["", "images", dice_title(level), *(column.title for column in columns), "collapsed"]
    table = [_html_row(titles, "th")]
    for total in lines:
        cells = [
            f"<td>{escape(shown_name(total))}</td>",
            f"<td>{total['images']}</td>",
            f'<td>{number(total["dice_mean"], 3)} <span class="spread">± {number(total["dice_std"], 3)}</span></td>',
        ]
        for column in columns:
            hint = f' title="{escape(str(total["dice_worst_file"]))}"' if column.key == "dice_worst" else ""
            cells.append(f"<td{hint}>{number(total[column.key], column.decimals)}</td>")
        cells.append(f"<td>{total['collapse_rate']:.0%}</td>")
        kind = "baseline" if total["method"] in BASELINES else "method"
        table.append(f'<tr class="{kind}">' + "".join(cells) + "</tr>")
    return _html_table(table)


def _html_row(cells: Sequence[str], tag: str = "td", kind: str = "") -> str:
    start = f'<tr class="{kind}">' if kind else "<tr>"
    return start + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _html_table(rows: Sequence[str]) -> str:
    return '<div class="table"><table>\n' + "\n".join(rows) + "\n</table></div>"


def _definitions(pairs: Iterable[tuple[str, str]]) -> str:
    """Terms and what they mean, both HTML."""
    return "<dl>" + "".join(f"<dt>{term}</dt><dd>{text}</dd>" for term, text in pairs) + "</dl>"


def _drawing(title: str, svg: bytes, kind: str = "") -> str:
    source = f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
    return f'<img class="{kind}" alt="{title}" src="{source}">'


def _figure(example: Example) -> str:
    source = f"data:image/jpeg;base64,{base64.b64encode(example.jpeg).decode()}"
    caption = escape(example.caption)
    return f'<figure><figcaption>{caption}</figcaption><img alt="{caption}" src="{source}"></figure>'
