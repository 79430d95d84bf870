"""Masks as a person accepts them, by few clicks: `python -m benchmarks.accepted DATASET OUT --count 5 --seed 0`.

Draws images that have a mask, and lets a simulated annotator make a mask of each by three clicks at most, as in the
label app: either the mask that the preset's rule proposes is corrected, each click in the middle of the largest error,
or the first click, farthest from the truth's border, chooses anew. Of the masks after each click, and the one that is
proposed, the best is accepted, as a person sees it. Masks are never copied from the truth, unless `--true True` asks
for that, for comparison. OUT is what `--accepted_dir` of a distillation takes.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from benchmarks.clicks import annotate, dice
from monai_fusenet.clicks import ClickSelector
from monai_fusenet.data import find_images, load_image, load_mask_on_grid_of
from monai_fusenet.label.cache import ClusterCache
from monai_fusenet.label.clustering import Clusterer
from monai_fusenet.results.layout import write_label_map

CLICKS = 3


def draw(items: Sequence[Mapping[str, Any]], count: int, seed: int) -> list[Mapping[str, Any]]:
    """So many of the images that have a mask, by the seed alone; more of one seed hold the fewer."""
    with_masks = [item for item in items if "label" in item]
    if len(with_masks) < count:
        raise ValueError(f"expected {count} images with masks, got {len(with_masks)}")
    return [with_masks[index] for index in np.random.default_rng(seed).permutation(len(with_masks))[:count]]


def clicked(selector: ClickSelector, proposed: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, int]:
    """The best of the mask proposed (*spatial) and of those after each click, and how many clicks it took."""
    if not truth.any():  # nothing to click on, and a person sees so
        return np.zeros_like(truth), 0
    best = proposed, 0
    for start in (proposed, None):
        scores, history = annotate(selector, truth, CLICKS, start)
        clicks = int(np.argmax(scores)) + 1
        if scores[clicks - 1] > dice(best[0], truth):
            best = selector(*history[clicks - 1], start), clicks
    return best


def _clicked_on(clusterer: Clusterer, path: str, truth: np.ndarray) -> tuple[np.ndarray, int]:
    found = clusterer.clusters(path)
    return clicked(found.selector, clusterer.mask(path, found.clusters), truth)


def accept(
    items: Sequence[Mapping[str, Any]], out: Path, preset: str = "generic", seed: int = 0, true: bool = False
) -> list[float]:
    """Writes the mask of each image, by clicks or as it is; returns the Dice of each."""
    out.mkdir(parents=True, exist_ok=True)
    scores = []
    with tempfile.TemporaryDirectory() as scratch:
        clusterer = Clusterer(ClusterCache(scratch), preset, seed=seed)
        for item in items:
            image = load_image(item["image"])
            truth = np.asarray(load_mask_on_grid_of(item["label"], image))[0] > 0
            mask, clicks = (truth, 0) if true else _clicked_on(clusterer, item["image"], truth)
            labels = MetaTensor(torch.from_numpy(mask[None].astype(np.uint8)), meta=image.meta)
            write_label_map(labels, out, f"{item['name']}_mask", foreground=255)
            scores.append(dice(mask, truth) if truth.any() else float(not mask.any()))
            print(f"{item['name']}: Dice {scores[-1]:.3f} after {clicks} clicks", flush=True)
    print(f"{len(scores)} masks in {out}: Dice {np.mean(scores):.3f}, worst {np.min(scores):.3f}")
    return scores


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accepted", description=__doc__)
    parser.add_argument("dataset", help="folder of images and masks")
    parser.add_argument("out", type=Path, help="folder for the accepted masks")
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--preset", default="generic", help="overlay that the fits need, by name or as a file")
    parser.add_argument("--true", choices=("True", "False"), default="False", help="the true masks instead")
    given = parser.parse_args(arguments)
    drawn = draw(find_images(given.dataset), given.count, given.seed)
    accept(drawn, given.out, given.preset, given.seed, given.true == "True")


if __name__ == "__main__":
    main()
