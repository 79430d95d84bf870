"""The deployed Dice of every image as a figure."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from monai_fusenet.evaluation.cells import shorten, shown_name
from monai_fusenet.evaluation.levels import BASELINES, Row

__all__ = ["draw_deployed_dice"]


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
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "monai_fusenet"}):  # equal scores give equal files
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
