"""The deployed Dice of every image as figures."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from monai_fusenet.evaluation.cells import shorten, shown_name
from monai_fusenet.evaluation.levels import BASELINES, Row

__all__ = ["draw_confidence", "draw_deployed_dice"]

LEAST_IMAGES = 5  # whose rank correlation says something


def draw_deployed_dice(rows: Iterable[Row]) -> bytes:
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
    names = [shown_name({"method": method, "level": "deployed"}) for method in dice]
    axes.set_yticks(range(len(dice)), ["\n".join(textwrap.wrap(shorten(name, 68), 34)) for name in names])
    for text in axes.get_yticklabels():
        text.set_parse_math(False)  # a $ in a name is no formula
    axes.set(
        xlim=(-0.01, 1.01), ylim=(len(dice) - 0.5, -0.5), xlabel="deployed Dice: every image, quartiles and median"
    )
    axes.grid(axis="x", color="#e4e8ee")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    return _svg(figure)


def draw_confidence(rows: Iterable[Row]) -> bytes | None:
    """The deployed Dice of every image against its confidence, as SVG; `None` if too few have one below 1.

    On the dashed line, confidence and Dice are equal. The text above gives the rank correlation (Spearman) of both, and
    their mean difference.
    """
    # A mask that a person accepted has a confidence of 1, and says nothing of what the others have.
    told = [row for row in rows if row["level"] == "deployed" and row.get("confidence", 1) < 1]
    if len({row["file"] for row in told}) < LEAST_IMAGES:
        return None
    sure, dice = (np.array([row[key] for row in told]) for key in ("confidence", "dice"))
    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#8a94a3", linewidth=1, linestyle="--")
    axes.scatter(sure, dice, s=16, color="#1f6fd0", alpha=0.6, linewidths=0)
    varied = len(set(sure)) > 1 and len(set(dice)) > 1
    ranks = f"rank correlation {spearmanr(sure, dice).statistic:.2f}, " if varied else ""
    axes.set_title(f"{ranks}mean difference {np.abs(sure - dice).mean():.2f}", fontsize=10)
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel="confidence", ylabel="deployed Dice", aspect="equal")
    axes.grid(color="#e4e8ee")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return _svg(figure)


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "monai_fusenet"}):  # equal scores give equal files
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
