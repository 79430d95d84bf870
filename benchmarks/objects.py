"""How many nuclei are found one by one: `python -m benchmarks.objects DATASET OUT`.

Runs the workflow `evaluation` with the overlay `nuclei` on a folder of images and masks, and takes AP50 and AP75 from
the scores that it leaves in OUT: of FuseNet, k-means and Otsu, whose masks are all cut by the same watershed. Images on
a dark ground, as of fluorescence, have a column of their own. Writes `objects.md` into `benchmarks/results/`. Where the
true masks are unions, true objects are their connected parts: nuclei that touch are one. About ten seconds an image;
what is finished is kept. With `--count` only the first images that have a mask count.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_fusenet.data import find_images, load_image, without_alpha
from monai_fusenet.shipped import config_files

RESULTS = Path(__file__).parent / "results"
METRICS = ("ap50", "ap75")
GROUNDS = ("dark ground", "bright ground", "all")

Item = Mapping[str, Any]


def paths_of(value: Any) -> list[Path]:
    """The files of an image or of its mask, which may have several parts."""
    return [Path(path) for path in ([value] if isinstance(value, str | Path) else value)]


def link(items: Iterable[Item], dataset: Path, folder: Path) -> None:
    """Lays links to some images and their masks into a folder, in the layout of the data set."""
    for item in items:
        for path in (*paths_of(item["image"]), *paths_of(item["label"])):
            target = folder / path.resolve().relative_to(dataset.resolve())
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path.resolve())


def evaluate(dataset: Path, output: Path, seed: int) -> None:
    """Runs the workflow in a process of its own. Some images may fail, which its log says."""
    command = [sys.executable, "-m", "monai.bundle", "run", "evaluation"]
    command += ["--config_file", str(config_files("evaluate", "nuclei")), "--seeds", str([seed])]
    command += ["--dataset_dir", str(dataset), "--output_dir", str(output.resolve())]
    status = subprocess.run(command).returncode
    if status not in (0, 2):
        sys.exit(status)


def is_dark(image: np.ndarray) -> bool:
    """Whether more of an image (C, *spatial) is dark than bright: nuclei cover less than half of it."""
    grey = image.mean(axis=0)
    return bool(np.median(grey) < np.percentile(grey, (0.5, 99.5)).mean())


def read_scores(path: Path) -> list[dict[str, str]]:
    """The rows of a `scores.csv` that score objects."""
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["level"] == "deployed" and row.get("ap50")]


def table(rows: Sequence[Mapping[str, str]], ground: Mapping[str, str]) -> str:
    """Means over images, one line for each method, as Markdown.

    Args:
        rows: of `scores.csv`.
        ground: which of `GROUNDS` each file has.
    """
    scores: dict[str, dict[tuple[str, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        for name in (ground[row["file"]], "all"):
            for metric in METRICS:
                scores[row["method"]][name, metric].append(float(row[metric]))
    counts = {name: len({row["file"] for row in rows if name in (ground[row["file"]], "all")}) for name in GROUNDS}
    columns = [(name, metric) for name in GROUNDS if counts[name] for metric in METRICS]
    lines = [
        "| method | " + " | ".join(f"{metric.upper()}, {name} ({counts[name]})" for name, metric in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for method, of_method in scores.items():
        cells = [f"{np.mean(of_method[column]):.3f}" if of_method[column] else "" for column in columns]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.objects", description=__doc__)
    parser.add_argument("dataset", type=Path, help="folder of images and masks")
    parser.add_argument("out", type=Path, help="folder for the results of the evaluation")
    parser.add_argument("--count", type=int, help="only the first so many images that have a mask")
    parser.add_argument("--seed", type=int, default=0, help="seed of the fits")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where objects.md goes")
    options = parser.parse_args(arguments)
    items = [item for item in find_images(options.dataset) if "label" in item][: options.count]
    with tempfile.TemporaryDirectory() as scratch:
        link(items, options.dataset, Path(scratch))
        evaluate(Path(scratch), options.out, options.seed)
        ground = {
            item["file"]: GROUNDS[0 if is_dark(np.asarray(without_alpha(load_image(item["image"])))) else 1]
            for item in find_images(scratch)
        }
    text = (
        f"Level deployed, mean over images, overlay nuclei, seed {options.seed}, {len(items)} images of "
        f"{options.dataset.name}. All masks are cut into objects by the same watershed.\n\n"
    )
    text += table(read_scores(options.out / "scores.csv"), ground) + "\n"
    (options.results / "objects.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
