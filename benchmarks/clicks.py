"""How many clicks a mask takes: `python -m benchmarks.clicks DATA` writes `benchmarks/results/clicks.{csv,md}`.

Simulated annotators click first at the point farthest from the truth's border, then in the middle of the largest error.
Beside the selector of the label app stands the random walker of scikit-image, on the selector's grid (where it did
better than on a finer one), with an annotator of its own and with the clicks that the selector got.
"""

from __future__ import annotations

import argparse
import csv
import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from skimage.segmentation import random_walker

from monai_fusenet.clicks import GRID_PIXELS, ClickSelector, next_click
from monai_fusenet.data import draw_phantoms, find_images, load_image
from monai_fusenet.label.cache import ClusterCache
from monai_fusenet.label.clustering import Clusterer
from monai_fusenet.utils.arrays import reduced_shape, resize_area, resize_linear
from monai_fusenet.utils.files import atomic_path

RESULTS = Path(__file__).parent / "results"
CLICKS = 5
SHOWN = (1, 3, 5)
SETS = {"dermoscopy": "skin", "drawn": "generic"}
METHODS = {
    "selector": "clicks on FuseNet's clusters",
    "walker": "random walker, own clicks",
    "walker_same": "random walker, the selector's clicks",
}

Points = list[tuple[int, ...]]
Method = Callable[..., np.ndarray]  # of foreground and background clicks, and perhaps of a mask to start from


def walk_randomly(image: np.ndarray) -> Method:
    """The random walker of scikit-image, with its default parameters, on an image (C, *spatial)."""
    shape = image.shape[1:]
    grid = reduced_shape(shape, GRID_PIXELS[len(shape)])
    small = np.moveaxis(resize_area(image, grid), 0, -1)

    def mask(foreground: Points, background: Points) -> np.ndarray:
        if not background:  # with seeds of one kind, all pixels are of that kind
            return np.ones(shape, dtype=bool)
        seeds = np.zeros(grid, dtype=np.int32)
        for points, value in ((background, 2), (foreground, 1)):
            for point in points:
                place = zip(point, grid, shape, strict=True)
                seeds[tuple(int((index + 0.5) * new / old) for index, new, old in place)] = value
        walked = random_walker(small, seeds, mode="cg_j", channel_axis=-1, return_full_prob=True)
        return resize_linear(np.asarray(walked[:1], dtype=np.float32), shape)[0] > 0.5

    return mask


def dice(mask: np.ndarray, truth: np.ndarray) -> float:
    """Dice of two masks, bool."""
    return float(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))


def annotate(
    method: Method, truth: np.ndarray, clicks_at_most: int = CLICKS, start: np.ndarray | None = None
) -> tuple[list[float], list[tuple[Points, Points]]]:
    """Dice after each click of an annotator who sees the method's mask, and the clicks until then.

    Args:
        method: from clicks to a mask.
        truth: (*spatial), bool.
        clicks_at_most: how often the annotator clicks.
        start: (*spatial), bool, the mask that the annotator corrects, handed on to the method; `None`: none.
    """
    scores: list[float] = []
    history: list[tuple[Points, Points]] = []
    clicks: dict[bool, Points] = {True: [], False: []}
    mask = np.zeros_like(truth) if start is None else start
    more = () if start is None else (start,)
    for _ in range(clicks_at_most):
        click = next_click(truth, mask)
        if click is not None:  # else the mask is perfect
            clicks[click[1]].append(click[0])
            mask = method(clicks[True], clicks[False], *more)
        scores.append(dice(mask, truth))
        history.append((list(clicks[True]), list(clicks[False])))
    return scores, history


def measure(name: str, folder: Path, seed: int, cache: ClusterCache) -> list[dict[str, object]]:
    """A row for each image and method of a set."""
    clusterer = Clusterer(cache, SETS[name], seed=seed)
    rows = []
    for index, item in enumerate(find_images(folder)):
        truth = (np.asarray(load_image(item["label"]))[0] > 127).astype(bool)
        found = clusterer.clusters(item["image"])
        image = np.asarray(clusterer.image(item["image"]))
        scores = {}
        scores["selector"], history = annotate(ClickSelector(found.clusters, image), truth)  # of the code as it is now
        walker = walk_randomly(image)
        scores["walker"], _ = annotate(walker, truth)
        scores["walker_same"] = [dice(walker(*clicks), truth) for clicks in history]
        for method, values in scores.items():
            dices = {f"dice_{clicks}": round(value, 4) for clicks, value in enumerate(values, start=1)}
            about = {"set": name, "image": item["name"], "even": index % 2 == 0, "seed": seed, "method": method}
            rows.append(about | dices)
        print(name, seed, item["name"], {method: np.round(values, 2).tolist() for method, values in scores.items()})
    return rows


def report(rows: list[dict[str, object]], seeds: list[int]) -> str:
    """Mean Dice by set, part of it, and method."""
    counts = [f"{clicks} click{'s' if clicks > 1 else ''}" for clicks in SHOWN]
    lines = [
        "# Clicks",
        "",
        "Mean Dice of simulated annotators after 1, 3 and 5 clicks; `python -m benchmarks.clicks DATA` repeats it.",
        f"Clusters of fits with seed {', '.join(map(str, seeds))}. The constants of the selector were chosen on the",
        "even images (sorted by name, counted from 0) with seed 0. A random walker with a single click has seeds of",
        "one kind, and takes the whole image.",
        "",
        f"| images | method | {' | '.join(counts)} | worst image after 3 |",
        f"|---|---|{'---|' * len(SHOWN)}---|",
    ]
    for name in SETS:
        for part, kept in (("all", (True, False)), ("even", (True,)), ("odd", (False,))):
            for method, description in METHODS.items():
                chosen = [row for row in rows if row["set"] == name and row["even"] in kept and row["method"] == method]
                if not chosen:
                    continue
                means = [np.mean([float(str(row[f"dice_{clicks}"])) for row in chosen]) for clicks in SHOWN]
                worst = min(float(str(row["dice_3"])) for row in chosen)
                images = len({row["image"] for row in chosen})
                cells = " | ".join(f"{mean:.3f}" for mean in means)
                lines.append(f"| {name}, {part} ({images}) | {description} | {cells} | {worst:.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clicks", description=__doc__)
    parser.add_argument("data", help="folder that holds dermoscopy/images and dermoscopy/masks")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--cache", help="folder of clusters that are kept from run to run")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")  # the walker tells of seeds that it cannot reach
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as scratch:
        cache = ClusterCache(options.cache or Path(scratch) / "cache")
        draw_phantoms(Path(scratch) / "drawn", count=8)
        folders = {"dermoscopy": Path(options.data) / "dermoscopy", "drawn": Path(scratch) / "drawn"}
        for seed in options.seeds:
            for name, folder in folders.items():
                rows += measure(name, folder, seed, cache)
    with atomic_path(RESULTS / "clicks.csv") as temporary, temporary.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    text = report(rows, options.seeds)
    with atomic_path(RESULTS / "clicks.md") as temporary:
        temporary.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
