"""How good the clusters of a setting are, and how long they take: `python -m benchmarks.quality`.

Majority Dice (level "partition") and oracle Dice of twelve named images, three seeds each, for the published procedure
and for schedules that cost less, each with plain and with edge-aware upsampling to the image's own grid. Needs a folder
with `dermoscopy` and `nuclei`, each with `images/` and `masks/`. Writes `quality.csv`, a row for each fit, and
`quality.md` into `benchmarks/results/`; rows that are there already are kept.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser

from monai_fusenet.data import find_images, load_image, load_mask_on_grid_of
from monai_fusenet.evaluation.levels import score_mask
from monai_fusenet.metrics.partition import majority_mask, oracle_mask
from monai_fusenet.transforms import ScoresToClustersd

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
INFERENCE = ROOT / "bundles" / "fusenet_segmentation" / "configs" / "inference.json"
PAPER = ROOT / "configs" / "paper.yaml"
COLUMNS = ("setting", "upsampling", "file", "seed", "majority", "oracle", "clusters", "steps", "seconds")


def schedule(steps: int, *resolutions: int) -> dict[str, Any]:
    """Options of a fit at these resolutions, the last of which is the working size."""
    sizes = {"working_size": [resolutions[-1]] * 2, "inferer#resolutions": list(resolutions)}
    return {**sizes, "inferer#steps": steps, "final_steps": None}


# Overlays and options on top of the shipped inference config.
SETTINGS: dict[str, tuple[Sequence[Path], Mapping[str, Any]]] = {
    "exact (paper.yaml)": ([PAPER], {}),
    "64, 25 steps": ([], schedule(25, 64)),
    "96, 25 steps": ([], schedule(25, 96)),
    "48 then 96, 12 steps each": ([], schedule(12, 48, 96)),
    "48 then 96, 25 steps each": ([], schedule(25, 48, 96)),
    "128, 12 steps": ([], schedule(12, 128)),
    "64 then 128, 12 steps each": ([], schedule(12, 64, 128)),
    "64, scored at 128, 12 steps": ([], {"fit_steps": 12}),
    "64, scored at 128, 8 steps (default)": ([], {}),
}


def named_images(data_dir: Path, count: int = 6) -> list[dict[str, Any]]:
    """The first images at even places (sorted by name, counted from 0) of `dermoscopy` and `nuclei`."""
    items = []
    for name in ("dermoscopy", "nuclei"):
        found = [item for item in find_images(data_dir / name) if "label" in item]  # sorted by name
        items += [{**item, "file": f"{name}/{Path(item['file']).name}"} for item in found[::2][:count]]
    return items


def shipped(overlays: Sequence[Path], options: Mapping[str, Any], *names: str) -> list[Any]:
    """Parts of the shipped inference config with overlays and options, on the CPU."""
    parser = ConfigParser()
    parser.read_config([str(INFERENCE), *map(str, overlays)])
    parser.update({"inferer#progress": False, "device": "$torch.device('cpu')", "amp": False, **options})
    parser.parse(reset=True)
    return [parser.get_parsed_content(name) for name in names]


def truth(item: Mapping[str, Any]) -> np.ndarray:
    """The mask that an image comes with, (*spatial) of the image, bool."""
    return load_mask_on_grid_of(item["label"], load_image(item["image"]))[0].numpy() > 0


def score_setting(setting: str, items: Sequence[Mapping[str, Any]], seed: int) -> Iterator[dict[str, Any]]:
    """Fits every image and scores its clusters on its own grid, upsampled plainly and along edges."""
    overlays, options = SETTINGS[setting]
    preprocessing, network, inferer, merge_twins = shipped(
        overlays, {"seed": seed, **options}, "preprocessing", "network_def", "inferer", "merge_twins"
    )
    for item in items:
        label = truth(item)
        sample = preprocessing(dict(item))
        start = time.perf_counter()
        with torch.no_grad():
            scores = inferer(sample["image"].unsqueeze(0), network)[0]
        seconds = time.perf_counter() - start
        for upsampling, guide in (("plain", None), ("guided", "original")):
            start = time.perf_counter()
            finish = ScoresToClustersd(merge_twins=merge_twins, guide_key=guide)
            clusters = finish({**sample, "scores": scores})["clusters"][0].numpy()
            yield {
                "setting": setting,
                "upsampling": upsampling,
                "file": item["file"],
                "seed": seed,
                "majority": round(score_mask(majority_mask(clusters, label), label)["dice"], 4),
                "oracle": round(score_mask(oracle_mask(clusters, label), label)["dice"], 4),
                "clusters": int(clusters.max()),
                "steps": inferer.record[0].steps,
                "seconds": round(seconds + time.perf_counter() - start, 2),
            }


def mean(rows: Sequence[Mapping[str, Any]], column: str) -> float:
    """Mean of a column."""
    return float(np.mean([float(row[column]) for row in rows]))


def spread(rows: Sequence[Mapping[str, Any]], column: str) -> float:
    """Standard deviation of the means of the seeds; NaN for one seed."""
    seeds = sorted({row["seed"] for row in rows})
    means = [mean([row for row in rows if row["seed"] == seed], column) for seed in seeds]
    return float(np.std(means, ddof=1)) if len(seeds) > 1 else float("nan")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Means over all rows of a setting, as Markdown, with the standard deviation of the means of the seeds."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["setting"], row["upsampling"]].append(row)
    titles = ["schedule", "upsampling", "fits", "majority Dice", "oracle Dice", "worst majority", "collapsed"]
    titles += ["clusters", "steps", "seconds"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for (setting, upsampling), group in groups.items():
        collapsed = np.mean([int(row["clusters"]) == 1 for row in group])
        worst = min(float(row["majority"]) for row in group)
        lines.append(
            f"| {setting} | {upsampling} | {len(group)} | {mean(group, 'majority'):.3f} ± "
            f"{spread(group, 'majority'):.3f} | {mean(group, 'oracle'):.3f} ± {spread(group, 'oracle'):.3f} | "
            f"{worst:.3f} | {collapsed:.0%} | {mean(group, 'clusters'):.1f} | {mean(group, 'steps'):.1f} | "
            f"{mean(group, 'seconds'):.1f} |"
        )
    return "\n".join(lines)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a table that an earlier run left, or none."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def add_rows(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Appends rows to a table, which is begun where it does not exist."""
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        if file.tell() == 0:
            writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("data_dir", type=Path, help="folder that holds dermoscopy/ and nuclei/")
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS), metavar="SETTING")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    arguments = parser.parse_args()
    items = named_images(arguments.data_dir)
    path = arguments.results / "quality.csv"
    done = {(row["setting"], int(row["seed"])) for row in read_rows(path)}
    arguments.results.mkdir(parents=True, exist_ok=True)
    for setting in arguments.settings:
        for seed in arguments.seeds:
            if (setting, seed) in done:
                continue
            new = list(score_setting(setting, items, seed))
            add_rows(path, COLUMNS, new)
            print(table([row for row in read_rows(path) if row["setting"] == setting]), flush=True)
    names = ", ".join(item["file"] for item in items)
    text = f"Level partition and oracle, seeds {arguments.seeds}, images: {names}.\n\n{table(read_rows(path))}\n"
    (arguments.results / "quality.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
