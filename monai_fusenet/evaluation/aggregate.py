"""Summaries of the scores of all images and seeds: a line for each method at each level."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from monai_fusenet.evaluation.levels import LEVELS, METRICS, Row

__all__ = ["totals"]


def totals(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Summarises the rows of every method at every level.

    Args:
        rows: a row per image, seed, method and level, as :py:func:`score_image` gives them, with the image's name under
            ``file`` and, if known, ``seed``, ``seconds`` and ``peak_mib``.

    Returns:
        a dictionary per method and level, in the order of ``LEVELS`` and then of first appearance, with ``method``,
        ``level``, ``images``, ``seeds`` (how many), ``collapse_rate`` in [0, 1] over images and seeds, ``dice_worst``
        (the smallest) and ``dice_worst_file``, ``dice_seed_std`` (sample standard deviation over the seeds of the mean
        over the images), ``dice_worst_seed`` (the smallest of these means) and ``worst_seed`` (its seed),
        ``seconds_mean`` and ``peak_mib`` (the largest). For every metric M of ``METRICS`` there are ``M_mean`` and
        ``M_std`` over the images, where each image has its mean over the seeds (sample standard deviation; nan for
        fewer than two images). Values of nan are left out; an infinite value makes the mean infinite.

    Raises:
        ValueError: a row has an unknown level.
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
    files, seeds = _Groups(row.get("file") for row in rows), _Groups(row.get("seed") for row in rows)
    of_seeds = seeds.means([row["dice"] for row in rows])
    worst_seed = min(of_seeds, key=lambda seed: of_seeds[seed])
    total = {
        "method": rows[0]["method"],
        "level": rows[0]["level"],
        "images": len(files.names),
        "seeds": len(of_seeds),
        "collapse_rate": _mean([row["collapsed"] for row in rows]),
        "dice_worst": worst["dice"],
        "dice_worst_file": worst.get("file", ""),
        "dice_seed_std": _spread(list(of_seeds.values())),
        "dice_worst_seed": of_seeds[worst_seed],
        "worst_seed": worst_seed,
        "seconds_mean": _mean([row["seconds"] for row in rows if "seconds" in row]),
        "peak_mib": max((row["peak_mib"] for row in rows if "peak_mib" in row), default=math.nan),
    }
    for metric in METRICS:
        values = list(files.means([row[metric] for row in rows]).values())
        total |= {f"{metric}_mean": _mean(values), f"{metric}_std": _spread(values)}
    return total


class _Groups:
    """Rows by what they have in common, in the order of first appearance.

    Args:
        names: of each row, its file or its seed.
    """

    def __init__(self, names: Iterable[Any]) -> None:
        places: dict[Any, int] = {}
        self.places = np.array([places.setdefault(name, len(places)) for name in names])
        self.names = list(places)

    def means(self, values: Sequence[float]) -> dict[Any, float]:
        """The mean of a value for each group; nan is left out, and a group that has nothing else."""
        numbers = np.asarray(values, dtype=float)
        known = ~np.isnan(numbers)
        counts = np.bincount(self.places[known], minlength=len(self.names))
        sums = np.bincount(self.places[known], numbers[known], minlength=len(self.names))
        groups = zip(self.names, sums.tolist(), counts.tolist(), strict=True)
        return {name: total / count for name, total, count in groups if count}


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _spread(values: Sequence[float]) -> float:
    """Sample standard deviation, nan where there is none."""
    return float(np.std(values, ddof=1)) if len(values) > 1 and np.isfinite(values).all() else math.nan
