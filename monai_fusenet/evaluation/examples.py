"""Pictures for a report: images that are typical of a method, and their results."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from monai_fusenet.data import affine_of
from monai_fusenet.evaluation.levels import Row
from monai_fusenet.evaluation.loading import load_results, load_truth
from monai_fusenet.results.panel import PanelRow, draw_panels
from monai_fusenet.results.summary import read_summary

__all__ = ["Example", "draw_example", "typical_rows"]

EXAMPLE_PIXELS = 1400  # of the longer side of an example


class Example(NamedTuple):
    """A picture for the page, and the text under it."""

    caption: str
    jpeg: bytes


def typical_rows(rows: Iterable[Row], method: str) -> dict[str, Row]:
    """The rows of a method's best, median and worst deployed Dice; best and worst of two rows, the best of one."""
    ranked = sorted(
        (row for row in rows if row["method"] == method and row["level"] == "deployed"), key=lambda row: row["dice"]
    )
    if not ranked:
        return {}
    places = {(len(ranked) - 1) // 2: "median", 0: "worst", len(ranked) - 1: "best"}
    return {places[place]: ranked[place] for place in sorted(places, reverse=True)}


def draw_example(item: Mapping[str, Any], folder: str | Path) -> bytes:
    """One image, its clusters, and its mask beside the truth, as a JPEG of at most 1400 pixels a side.

    Args:
        item: an image with `image`, `label`, `file` and `name`.
        folder: the folder of its prediction, see `score_folder`.
    """
    truth = load_truth(item)
    results = load_results(folder, item["name"], truth.image)
    row = PanelRow(
        image=truth.image.numpy(),
        clusters=results.clusters - results.clusters.min() + 1,
        mask=results.mask,
        label=truth.label.numpy()[0],
        affine=affine_of(truth.image),
        note=read_summary(folder).get(item["file"], {}).get("choice", "").replace("; ", "\n"),
    )
    drawn, small = io.BytesIO(), io.BytesIO()
    draw_panels([row], [item["file"]]).savefig(drawn, dpi=150)
    picture = Image.open(drawn).convert("RGB")
    picture.thumbnail((EXAMPLE_PIXELS, EXAMPLE_PIXELS))
    picture.save(small, "JPEG", quality=88, subsampling=0)
    return small.getvalue()
