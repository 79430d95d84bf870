"""Sums up the scores of all images and seeds: a line for each method at each level."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from monai_fusenet.evaluation.levels import LEVELS, METRICS, Row

__all__ = ["totals"]


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
