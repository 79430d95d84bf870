"""The four methods side by side: `python -m benchmarks.family DATA OUT`.

For each set below DATA and each method, our default form and the published one, runs the workflow `evaluation` in a
process of its own: three seeds, the overlay of the set, and no partitions of k-means beside the fit, so that a mask is
the method's own (`--votes`: with those of the workflow, as users have them). Images are those at odd places (sorted by
name, counted from 0): `--count` of a set that has a preset of its kind, half as many of the others. The published forms
need minutes an image: they run on the first `--published_count` of the same images, as `PUBLISHED_SETS` says; feature
clustering with one seed.

What is finished in OUT is kept. Writes `family.csv`, `family.md` and `family.png` (Dice against seconds), with votes
`family_votes.*`, into `benchmarks/results/`: all four levels, the baselines, seconds, memory, steps, clusters and
collapse.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.objects import link
from benchmarks.quality import mean, read_rows, spread
from monai_fusenet.data import find_images
from monai_fusenet.evaluation.levels import LEVELS
from monai_fusenet.shipped import config_files

RESULTS = Path(__file__).parent / "results"
METHODS = {
    "FuseNet": (),
    "MS-Former": ("msformer",),
    "S3-Net": ("s3net",),
    "feature clustering": ("feature_clustering",),
}
AS_PUBLISHED = ", as published"
PUBLISHED = {
    f"FuseNet{AS_PUBLISHED}": ("paper",),
    f"MS-Former{AS_PUBLISHED}": ("msformer_paper",),
    f"S3-Net{AS_PUBLISHED}": ("s3net_paper",),
    f"feature clustering{AS_PUBLISHED}": ("feature_clustering_paper",),
}
SETS = {
    "dermoscopy": ("skin",),
    "chest_xray": ("lung",),
    "nuclei": ("nuclei",),
    "breast_ultrasound": (),
    "glands_glas": (),
    "polyps_cvc": (),
    "retina_disc_drishti": (),
    "hippocampus_mr_3d": ("volume",),
}
PRESETS = {"skin", "lung", "nuclei"}
LARGER_SETS = {  # for one question at a time
    "dermoscopy_isic2018": ("skin",),
    "chest_xray_shenzhen": ("lung",),
    "nuclei_dsb2018_more": ("nuclei",),
}
PUBLISHED_SETS = {  # feature clustering takes 1000 steps at the size of the image: on the smallest ones alone
    "dermoscopy": ("FuseNet", "MS-Former", "S3-Net"),
    "nuclei": ("feature clustering",),
}
ONE_SEED = f"feature clustering{AS_PUBLISHED}"  # a quarter of an hour a fit
COLUMNS = ("set", "method", "images", "seeds", *LEVELS, "deployed_sd", "worst", "below_half", "ari")
SECONDS = (1, 3, 10, 30, 100, 300, 1000, 3000)  # of the axis of the plot
MORE = ("steps", "clusters", "collapsed", "seconds", "peak_mib")


def evaluate(
    items: Sequence[Mapping[str, Any]], dataset: Path, overlays: Sequence[str], out: Path, *options: str
) -> None:
    """Runs the workflow on some images. Some may fail, which its log says."""
    if (out / "scores.csv").is_file():
        return
    with tempfile.TemporaryDirectory() as scratch:
        link(items, dataset, Path(scratch))
        command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "evaluation", *options]
        command += ["--config_file", str(config_files("evaluate", *overlays))]
        command += ["--dataset_dir", scratch, "--output_dir", str(out.resolve())]
        status = subprocess.run(command).returncode
    if status not in (0, 2):
        sys.exit(status)


def rows_of(out: Path, name: str, method: str, with_baselines: bool) -> list[dict[str, Any]]:
    """A row for the method, and where asked for one for each baseline."""
    scores = read_rows(out / "scores.csv")
    own = scores[0]["method"]
    steps = [
        int(row["steps"]) for path in sorted(out.glob("seed_*/summary.csv")) for row in read_rows(path) if row["steps"]
    ]
    found = []
    for title in dict.fromkeys(row["method"] for row in scores):
        if title == own or with_baselines:
            part = [row for row in scores if row["method"] == title]
            found.append(_row(name, method if title == own else title, part, steps if title == own else []))
    return found


def _row(name: str, method: str, scores: Sequence[Mapping[str, str]], steps: Sequence[int]) -> dict[str, Any]:
    levels = {level: [row for row in scores if row["level"] == level] for level in LEVELS}
    deployed, partition = levels["deployed"], levels["partition"]
    dice = [float(row["dice"]) for row in deployed]
    row: dict[str, Any] = {"set": name, "method": method, "images": len({one["file"] for one in scores})}
    row |= {"seeds": len({one["seed"] for one in scores})}
    row |= {level: round(mean(rows, "dice"), 4) if rows else "" for level, rows in levels.items()}
    row |= {"deployed_sd": _or_none(spread(deployed, "dice")), "worst": round(min(dice), 4)}
    row |= {"below_half": round(float(np.mean(np.array(dice) < 0.5)), 4)}
    row |= {"ari": _or_none(mean(partition, "ari")) if partition else ""}
    row |= {"steps": round(float(np.mean(steps)), 1) if steps else ""}
    for column in ("clusters", "collapsed", "seconds"):
        values = [float(one[column]) for one in deployed if one[column] not in ("", "nan")]
        row[column] = round(float(np.mean(values)), 3) if values else ""
    row["peak_mib"] = max((int(one["peak_mib"]) for one in deployed if one["peak_mib"].isdigit()), default="")
    return row


def _or_none(value: float) -> float | str:
    return round(value, 4) if np.isfinite(value) else ""


def overview(rows: Sequence[Mapping[str, Any]]) -> str:
    """Dice at level deployed, a line for each set and a column for each method, and seconds an image below."""
    titles = [title for title in (*METHODS, *PUBLISHED) if any(row["method"] == title for row in rows)]
    lines = [f"| set | images | {' | '.join(titles)} | best of the baselines |", "|---" * (len(titles) + 3) + "|"]
    for name, images in dict.fromkeys((row["set"], row["images"]) for row in rows):
        own = {row["method"]: row for row in rows if (row["set"], row["images"]) == (name, images)}
        others = [row for title, row in own.items() if title not in titles]
        best = max(others, key=lambda row: row["deployed"], default=None)
        cells = [_shown(own.get(title)) for title in titles]
        cells.append(f"{best['deployed']:.3f} ({best['method']})" if best else "")
        lines.append(f"| {name} | {images} | {' | '.join(cells)} |")
    seconds = [
        np.mean([row["seconds"] for row in rows if row["method"] == title and row["seconds"] != ""]) for title in titles
    ]
    lines.append(f"| seconds an image | | {' | '.join(f'{value:.0f}' for value in seconds)} | |")
    return "\n".join(lines)


def _shown(row: Mapping[str, Any] | None) -> str:
    """Mean and spread over the seeds; nothing where nothing was measured."""
    if row is None:
        return ""
    return f"{row['deployed']:.3f}" + (f" ± {row['deployed_sd']:.3f}" if row["deployed_sd"] != "" else "")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """One part for each set, as Markdown."""
    titles = ["method", "images", *LEVELS, "worst", "below 0.5", "ARI"]
    titles += ["steps", "clusters", "collapse", "seconds", "MiB"]
    lines = []
    for name in dict.fromkeys(row["set"] for row in rows):
        own = [row for row in rows if row["set"] == name]
        lines += [f"\n{name}:\n", f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
        for row in own:
            cells = [row["method"], row["images"]]
            cells += [_shown(row)]
            cells += [f"{row[level]:.3f}" if row[level] != "" else "" for level in LEVELS if level != "deployed"]
            cells += [f"{row['worst']:.2f}", f"{row['below_half']:.0%}", row["ari"]]
            cells += [row["steps"], row["clusters"], row["collapsed"], row["seconds"], row["peak_mib"]]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def draw(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Dice at level deployed against seconds, a panel for each set."""
    names = list(dict.fromkeys(row["set"] for row in rows))
    figure = Figure(figsize=(4 * min(4, len(names)), 3.4 * -(-len(names) // 4)), layout="constrained")
    axes = np.atleast_1d(figure.subplots(-(-len(names) // 4), min(4, len(names)), squeeze=False)).ravel()
    titles = [*METHODS, *PUBLISHED]
    for axis, name in zip(axes, names, strict=False):
        for row in rows:
            if row["set"] == name and row["method"] in titles and row["seconds"] != "":
                index = titles.index(row["method"])
                style = {"color": f"C{index % len(METHODS)}", "marker": "o" if row["method"] in METHODS else "x"}
                sd = float(row["deployed_sd"] or 0)
                axis.errorbar(row["seconds"], row["deployed"], sd, label=row["method"], linestyle="", **style)
        baselines = [row for row in rows if row["set"] == name and row["method"] not in titles]
        if baselines:
            best = max(baselines, key=lambda row: row["deployed"])
            axis.axhline(best["deployed"], color="grey", linewidth=0.8, label=f"best baseline: {best['method']}")
        axis.set(title=name, xscale="log", xlabel="seconds an image", ylabel="Dice, level deployed", ylim=(0, 1))
        axis.set_xticks(SECONDS, list(map(str, SECONDS)), minor=False)
        axis.set_xticks([], minor=True)
        axis.set_xlim(SECONDS[0], SECONDS[-1])
        axis.legend(fontsize=6)
    for axis in axes[len(names) :]:
        axis.set_axis_off()
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.family", description=__doc__)
    parser.add_argument("data", type=Path, help="folder of the sets")
    parser.add_argument("out", type=Path, help="folder for the results of the evaluations")
    parser.add_argument("--count", type=int, default=4, help="images of a set with a preset of its kind")
    parser.add_argument("--published_count", type=int, default=1, help="of them, those of the published forms; 0: none")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), metavar="METHOD")
    parser.add_argument("--votes", action="store_true", help="partitions of k-means vote beside the fit")
    parser.add_argument("--seeds", type=json.loads, default=[0, 1, 2])
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=[*SETS, *LARGER_SETS], metavar="SET")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where family.* go")
    given = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    for name in given.sets:
        dataset, preset = given.data / name, {**SETS, **LARGER_SETS}[name]
        count = given.count if PRESETS.intersection(preset) else -(-given.count // 2)
        items = [item for item in find_images(dataset) if "label" in item][1::2][:count]
        counts = {method: len(items) for method in given.methods}
        if given.published_count and not given.votes:
            published = [method for method in PUBLISHED_SETS.get(name, ()) if method in given.methods]
            counts |= dict.fromkeys((f"{method}{AS_PUBLISHED}" for method in published), given.published_count)
        for method, count in counts.items():
            overlays = (*preset, *{**METHODS, **PUBLISHED}[method])
            seeds = given.seeds[:1] if method == ONE_SEED else given.seeds
            kind = f"{count}_images_seeds_{'_'.join(map(str, seeds))}"  # rows of other ones are never mixed
            kind += "_with_votes" * given.votes
            options = ("--seeds", str(seeds), *(() if given.votes else ("--partitions", "[]")))
            out = given.out / kind / name / method.replace(" ", "_").replace(",", "")
            evaluate(items[:count], dataset, overlays, out, *options)
            rows += rows_of(out, name, method, with_baselines=method == given.methods[0])
        _write(rows, given)
    print(table(rows))


def _write(rows: Sequence[Mapping[str, Any]], given: argparse.Namespace) -> None:
    given.results.mkdir(parents=True, exist_ok=True)
    stem = "family_votes" if given.votes else "family"
    with (given.results / f"{stem}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, (*COLUMNS, *MORE))
        writer.writeheader()
        writer.writerows(rows)
    command = f"python -m benchmarks.family DATA OUT --count {given.count}"
    command += " --votes" if given.votes else f" --published_count {given.published_count}"
    command += f" --sets {' '.join(given.sets)} --methods {shlex.join(given.methods)}"
    voters = "partitions of k-means vote" if given.votes else "no partitions of k-means"
    head = f"`{command}`, seeds {given.seeds}, images at odd places, {voters} beside the fit. Dice at four levels.\n"
    (given.results / f"{stem}.md").write_text(
        f"# The four methods\n\n{head}\n{overview(rows)}\n{table(rows)}\n", encoding="utf-8"
    )
    draw(rows).savefig(given.results / f"{stem}.png", dpi=110)


if __name__ == "__main__":
    main()
