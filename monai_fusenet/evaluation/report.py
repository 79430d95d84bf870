"""Tables of scores: per image, in total, for the terminal and as one HTML file."""

from __future__ import annotations

import base64
import csv
import io
import math
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from monai_fusenet.evaluation.levels import BASELINE_PIXELS, BASELINES, CLUSTERINGS, LEVELS, METRICS, Row
from monai_fusenet.utils.files import atomic_path


class Column(NamedTuple):
    """A column of the printed tables."""

    key: str
    title: str
    decimals: int


class Example(NamedTuple):
    """A picture for the page, and what to write under it."""

    caption: str
    jpeg: bytes


_OVERLAP = (
    Column("dice_worst", "worst", 3),
    Column("iou_mean", "IoU", 3),
    Column("hd95_mean", "HD95", 1),
    Column("surface_dice_mean", "surface", 3),
)
_ERRORS = (Column("hammoude_mean", "HM", 3), Column("xor_mean", "XOR", 3))
_PARTITION = (
    Column("ari_mean", "ARI", 3),
    Column("voi_mean", "VI", 3),
    Column("boundary_f_mean", "boundary", 3),
    Column("clusters_mean", "clusters", 1),
)

_STYLE = """
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
figure { margin: 1rem 0 1.5rem; }
figcaption { font-weight: 600; font-size: .9rem; margin: 0 0 .5rem; overflow-wrap: anywhere; }
figure img { max-height: 32rem; object-fit: contain; object-position: left; margin: 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; font-size: .9rem; }
dt { font-weight: 600; } dd { margin: 0; }
"""

_LEGEND = (
    "Green: the mask; orange: the truth. Beneath stand, where they are known, the scores by which the mask was chosen "
    "among the candidates."
)

_GLOSSARY = {
    "Dice, IoU": "overlap with the truth, 0 to 1; Dice as mean ± standard deviation over the images, each of which "
    "counts with its mean over the seeds",
    "± seeds": "standard deviation over the seeds of the mean Dice of all images",
    "worst seed": "the lowest mean Dice of a seed, and which it is",
    "worst": "the lowest Dice of all images and seeds; hover over it for the file",
    "HD95": "95th percentile of the surface distances, in mm where the spacing is known, else in pixels",
    "surface": "share of both surfaces within 2 mm (or pixels) of the other, 0 to 1",
    "HM": "Hammoude distance, 1 - IoU",
    "XOR": "symmetric difference in parts of the truth's area; infinite where the truth is empty and the mask is not",
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


def totals(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Summarises the rows of every method at every level.

    Args:
        rows: a row per image, seed, method and level, as :py:func:`score_image` gives them, with the image's name
            under ``file`` and, where known, ``seed``, ``seconds`` and ``peak_mib``.

    Returns:
        a dictionary per method and level, in the order of ``LEVELS`` and then of first appearance: ``method``,
        ``level``, ``images``, ``seeds`` (how many), ``collapse_rate`` in [0, 1] over images and seeds, ``dice_worst``
        (the smallest) and ``dice_worst_file``, ``dice_seed_std`` (sample standard deviation over the seeds of the mean
        over the images), ``dice_worst_seed`` (the smallest of these means) and ``worst_seed`` (which it is),
        ``seconds_mean``, ``peak_mib`` (the largest), and for every metric M of ``METRICS`` its ``M_mean`` and ``M_std``
        over the images, each with its mean over the seeds (sample standard deviation; nan for fewer than two). Values
        of nan are left out; an infinite one makes the mean infinite.

    Raises:
        ValueError: a row has a level that is none.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["level"] not in LEVELS:
            raise ValueError(f"level must be one of {', '.join(LEVELS)}, got {row['level']!r}")
        groups.setdefault((row["level"], row["method"]), []).append(row)
    levels = list(LEVELS)
    return [_total(groups[key]) for key in sorted(groups, key=lambda key: levels.index(key[0]))]


def format_totals(rows: Iterable[Row]) -> str:
    """The totals as plain text for a terminal, at most 100 columns wide.

    Args:
        rows: a row per image, method and level, as for :py:func:`totals`.

    Returns:
        a table per level that occurs, then, where seeds or seconds are known, a summary, separated by empty lines;
        numbers as in the HTML report, nan as "-".
    """
    summary = totals(rows)
    blocks = []
    for level in LEVELS:
        lines = [total for total in summary if total["level"] == level]
        if not lines:
            continue
        # not everything fits: totals.csv has it all
        columns = (_OVERLAP[0], *_PARTITION) if level == "partition" else (*_OVERLAP, *_ERRORS)
        cells = [["images", _dice_title(level), *(column.title for column in columns), "collapsed"]]
        for total in lines:
            dice = f"{_number(total['dice_mean'], 3)} ±{_number(total['dice_std'], 3)}"
            numbers = [_number(total[column.key], column.decimals) for column in columns]
            cells.append([str(total["images"]), dice, *numbers, f"{total['collapse_rate']:.0%}"])
        blocks.append(_text_table([level, *map(_name, lines)], cells))
    if lines := [total for total in summary if _is_summarised(total)]:
        names = ["summary", *(f"{total['method']}, {total['level']}" for total in lines)]
        blocks.append(_text_table(names, [list(_SUMMARY), *map(_summary_cells, lines)]))
    return "\n\n".join(blocks)


def typical_rows(rows: Iterable[Row], method: str) -> dict[str, Row]:
    """The rows of a method's best, median and worst deployed Dice: of two rows best and worst, of one the best."""
    ranked = sorted(
        (row for row in rows if row["method"] == method and row["level"] == "deployed"), key=lambda row: row["dice"]
    )
    if not ranked:
        return {}
    places = {(len(ranked) - 1) // 2: "median", 0: "worst", len(ranked) - 1: "best"}
    return {places[place]: ranked[place] for place in sorted(places, reverse=True)}


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
        temporary.write_text(_page(rows, summary, heading, not_scored, examples), "utf-8", "backslashreplace")
    return report


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _spread(values: Sequence[float]) -> float:
    """Sample standard deviation, nan where there is none."""
    return float(np.std(values, ddof=1)) if len(values) > 1 and np.isfinite(values).all() else math.nan


def _means(rows: Sequence[Row], metric: str, by: str) -> dict[Any, float]:
    """The mean of a metric for each file or seed; nan is left out."""
    groups: dict[Any, list[float]] = defaultdict(list)
    for row in rows:
        if not math.isnan(row[metric]):
            groups[row.get(by)].append(row[metric])
    return {key: _mean(values) for key, values in groups.items()}


def _total(rows: Sequence[Row]) -> dict[str, Any]:
    worst = min(rows, key=lambda row: row["dice"])
    seeds = _means(rows, "dice", by="seed")
    worst_seed = min(seeds, key=lambda seed: seeds[seed])
    total = {
        "method": rows[0]["method"],
        "level": rows[0]["level"],
        "images": len({row.get("file") for row in rows}),
        "seeds": len(seeds),
        "collapse_rate": _mean([row["collapsed"] for row in rows]),
        "dice_worst": worst["dice"],
        "dice_worst_file": worst.get("file", ""),
        "dice_seed_std": _spread(list(seeds.values())),
        "dice_worst_seed": seeds[worst_seed],
        "worst_seed": worst_seed,
        "seconds_mean": _mean([row["seconds"] for row in rows if "seconds" in row]),
        "peak_mib": max((row["peak_mib"] for row in rows if "peak_mib" in row), default=math.nan),
    }
    for metric in METRICS:
        values = list(_means(rows, metric, by="file").values())
        total |= {f"{metric}_mean": _mean(values), f"{metric}_std": _spread(values)}
    return total


_SUMMARY = ("seeds", "Dice", "± images", "± seeds", "worst seed", "collapsed", "clusters", "s/image", "peak MiB")


def _is_summarised(total: dict[str, Any]) -> bool:
    return total["method"] not in BASELINES and (total["seeds"] > 1 or not math.isnan(total["seconds_mean"]))


def _summary_cells(total: dict[str, Any]) -> list[str]:
    worst = f"{_number(total['dice_worst_seed'], 3)} ({total['worst_seed']})" if total["seeds"] > 1 else "-"
    return [
        str(total["seeds"]),
        *(_number(total[key], 3) for key in ("dice_mean", "dice_std", "dice_seed_std")),
        worst,
        f"{total['collapse_rate']:.0%}",
        *(_number(total[key], 1) for key in ("clusters_mean", "seconds_mean")),
        _number(total["peak_mib"], 0),
    ]


def _name(total: dict[str, Any]) -> str:
    """The method as a table names it."""
    chosen = total["level"] == "deployed" and total["method"] in CLUSTERINGS
    return f"{total['method']} + same choice" if chosen else total["method"]


def _text_table(names: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    room = max(12, 100 - sum(widths) - len(widths))
    names = [_shorten(name, room) for name in names]
    width = max(map(len, names))
    return "\n".join(
        " ".join([name.ljust(width), *(cell.rjust(w) for cell, w in zip(line, widths, strict=True))])
        for name, line in zip(names, cells, strict=True)
    )


def _dice_title(level: str) -> str:
    return "majority Dice" if level == "partition" else "Dice"


def _number(value: float, decimals: int) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.{decimals}f}" if abs(value) < 10000 else f"{value:.3g}"


def _shorten(name: str, width: int) -> str:
    return name if len(name) <= width else name[: width - 1] + "…"


def _write_csv(path: Path, rows: Sequence[dict[str, Any]], columns: list[str]) -> None:
    columns += dict.fromkeys(key for row in rows for key in row if key not in columns)
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for row in rows:
            writer.writerow({key: f"{v:.6g}" if isinstance(v, float) else v for key, v in row.items()})


def _page(
    rows: Sequence[Row],
    summary: Sequence[dict[str, Any]],
    heading: Sequence[str],
    not_scored: Sequence[tuple[str, str]],
    examples: Sequence[Example],
) -> str:
    title = escape(heading[0]) if heading else "Evaluation"
    parts = [f"<h1>{title}</h1>", *(f'<p class="heading">{escape(line)}</p>' for line in heading[1:])]
    parts.append(
        '<p class="note">Each table is one level: what the ground truth was used for. '
        "Figures of different levels must not be compared. Trivial baselines stand in grey.</p>"
    )
    if summarised := [total for total in summary if _is_summarised(total)]:
        table = [_html_row(["", *_SUMMARY], "th")]
        for total in summarised:
            kind = "method" if total["level"] == "deployed" else ""
            table.append(_html_row([f"{total['method']}, {total['level']}", *_summary_cells(total)], kind=kind))
        parts += ["<h2>Summary</h2>", _html_table(table)]
    for level, meaning in LEVELS.items():
        lines = [total for total in summary if total["level"] == level]
        parts += [f"<h2>{level}</h2>", f"<p>{escape(meaning)}</p>"]
        parts.append(_table(lines, level) if lines else '<p class="note">No scores at this level.</p>')
        if level == "deployed" and lines:
            svg = base64.b64encode(_deployed_figure(rows)).decode()
            parts.append(f'<img alt="Deployed Dice of every image per method" src="data:image/svg+xml;base64,{svg}">')
            if examples:
                parts += ["<h3>Best, median and worst</h3>", f'<p class="note">{_LEGEND}</p>']
            parts += [_figure(example) for example in examples]
    if not_scored:
        items = "".join(f"<dt>{escape(file)}</dt><dd>{escape(reason)}</dd>" for file, reason in not_scored)
        parts.append(f"<h2>Not scored</h2><dl>{items}</dl>")
    parts.append("<h2>Columns</h2>")
    parts.append("<dl>" + "".join(f"<dt>{term}</dt><dd>{text}</dd>" for term, text in _GLOSSARY.items()) + "</dl>")
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    body = "\n".join(parts)
    head += f"<style>{_STYLE}</style>"
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>{head}</head>\n<body>\n{body}\n</body>\n</html>\n'


def _table(lines: Sequence[dict[str, Any]], level: str) -> str:
    columns = (*_OVERLAP, *(_PARTITION if level == "partition" else _ERRORS))
    titles = ["", "images", _dice_title(level), *(column.title for column in columns), "collapsed"]
    table = [_html_row(titles, "th")]
    for total in lines:
        cells = [
            f"<td>{escape(_name(total))}</td>",
            f"<td>{total['images']}</td>",
            f'<td>{_number(total["dice_mean"], 3)} <span class="spread">± {_number(total["dice_std"], 3)}</span></td>',
        ]
        for column in columns:
            hint = f' title="{escape(str(total["dice_worst_file"]))}"' if column.key == "dice_worst" else ""
            cells.append(f"<td{hint}>{_number(total[column.key], column.decimals)}</td>")
        cells.append(f"<td>{total['collapse_rate']:.0%}</td>")
        kind = "baseline" if total["method"] in BASELINES else "method"
        table.append(f'<tr class="{kind}">' + "".join(cells) + "</tr>")
    return _html_table(table)


def _html_row(cells: Sequence[str], tag: str = "td", kind: str = "") -> str:
    start = f'<tr class="{kind}">' if kind else "<tr>"
    return start + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _html_table(rows: Sequence[str]) -> str:
    return '<div class="table"><table>\n' + "\n".join(rows) + "\n</table></div>"


def _figure(example: Example) -> str:
    source = f"data:image/jpeg;base64,{base64.b64encode(example.jpeg).decode()}"
    caption = escape(example.caption)
    return f'<figure><figcaption>{caption}</figcaption><img alt="{caption}" src="{source}"></figure>'


def _deployed_figure(rows: Iterable[Row]) -> bytes:
    """The deployed Dice of every image, its quartiles and its median, a line per method, as SVG."""
    dice: dict[str, list[float]] = {}
    for row in rows:
        if row["level"] == "deployed":
            dice.setdefault(row["method"], []).append(row["dice"])
    figure = Figure(figsize=(9, 0.9 + 0.42 * len(dice)), layout="constrained")
    axes = figure.subplots()
    jitter = np.random.default_rng(0)
    for line, (method, values) in enumerate(dice.items()):
        colour = "#8a94a3" if method in BASELINES else "#1f6fd0"
        low, median, high = np.percentile(values, [25, 50, 75])
        axes.barh(line, high - low, left=low, height=0.62, color=colour, alpha=0.2)
        axes.vlines(median, line - 0.31, line + 0.31, color=colour, linewidth=2.5)
        heights = line + jitter.uniform(-0.2, 0.2, len(values))
        axes.scatter(values, heights, s=13, color=colour, alpha=0.55, linewidths=0)
    names = [_name({"method": method, "level": "deployed"}) for method in dice]
    axes.set_yticks(range(len(dice)), ["\n".join(textwrap.wrap(_shorten(name, 68), 34)) for name in names])
    for text in axes.get_yticklabels():
        text.set_parse_math(False)  # a $ in a name is no formula
    axes.set(
        xlim=(-0.01, 1.01), ylim=(len(dice) - 0.5, -0.5), xlabel="deployed Dice: every image, quartiles and median"
    )
    axes.grid(axis="x", color="#e4e8ee")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "monai_fusenet"}):  # equal scores give equal files
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
