"""What each choice is worth: `python -m benchmarks.ablation DATA`.

The shipped defaults, and variants that differ in one thing, on even images (sorted by name, counted from 0) of
`dermoscopy`, `nuclei`, `chest_xray` and `breast_ultrasound` below DATA, each with the preset of its kind: Dice at the
levels deployed (nothing chosen with the truth), partition (majority) and oracle; and one network trained on all images
of a set by the workflow `training`, without labels, in `output/ablation`, as it is and adapted to each image. Writes
`ablation.csv`, a row for each fit, and `ablation.md` into `benchmarks/results/`; what is there already is not measured
again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import run

from benchmarks.quality import INFERENCE, RESULTS, ROOT, add_rows, mean, read_rows, shipped, spread, truth
from monai_fusenet.data import find_images
from monai_fusenet.evaluation.levels import score_mask
from monai_fusenet.metrics.partition import majority_mask, oracle_mask

COLUMNS = ("setting", "set", "file", "seed", "deployed", "majority", "oracle", "clusters", "steps", "refits", "seconds")
PRESETS = {
    "dermoscopy": [ROOT / "configs" / "skin.yaml"],
    "nuclei": [ROOT / "configs" / "nuclei.yaml"],
    "chest_xray": [ROOT / "configs" / "lung.yaml"],
    "breast_ultrasound": [],
}
DEFAULT = "default"
PUBLISHED_PATCHES = {"network_def#img_size": [128, 128], "inferer#resolutions": None}  # they fit one size only
SETTINGS: dict[str, Mapping[str, Any]] = {
    DEFAULT: {},
    "64, then 128": {"final_steps": None},
    "128 alone": {"inferer#resolutions": None},
    "128 alone, published patch tokens": PUBLISHED_PATCHES,
    "64 alone": {"working_size": [64, 64], "inferer#resolutions": None},
    "96, then 192": {"working_size": [192, 192], "final_steps": None},
    "6 steps": {"inferer#steps": 6},
    "25 steps": {"inferer#steps": 25},
    "stop at 8 clusters": {"inferer#min_clusters": 8},
    "no edge term": {"loss_function#lambda_edge": 0.0},
    "edge term of weight 1.5": {"loss_function#lambda_edge": 1.5},
    "published edge term": {"loss_function#edge_mode": "published"},
    "no cross-modal term": {"loss_function#lambda_cross": 0.0},
    "detached targets": {"loss_function#detach_targets": True},
    "grey input": {"in_channels": 1},
    "values as they are": {"scaling#lower": 0, "scaling#upper": 100},
    "no dropout": {"network_def#dropout": 0.0},
    "twins apart": {"merge_twins": False},
    "plain upsampling": {"postprocessing#transforms#1#guide_key": None},
    "regions as they are, none cut": {"foreground#opening": 0.0},
    "no margin and no growth": {"foreground#margin": 0.0, "foreground#growth": 0.0},
    "no refinement": {"foreground#refinement": 0.0},
    "no convex hulls": {"foreground#convex": False},
    "trained on the set, as it is": {},
    "trained on the set, then adapted": {},
}
OVERLAYS = {
    "trained on the set, as it is": ROOT / "configs" / "feedforward.yaml",
    "trained on the set, then adapted": ROOT / "configs" / "adapt.yaml",
}


AFTER_THE_FIT = ("foreground#", "postprocessing#", "merge_twins")  # options of what shares a fit


def trained_on(folder: Path, seed: int) -> str:
    """The weights that the workflow `training` leaves for a folder; trained unless they lie there."""
    output_dir = Path("output") / "ablation" / f"{folder.name}_{seed}"
    weights = output_dir / "model.pt"
    if not weights.is_file():
        config = str(INFERENCE.with_name("train.json"))
        run("training", config_file=config, dataset_dir=str(folder), output_dir=str(output_dir), seed=seed)
    return str(weights)


def score_setting(
    setting: str, folder: Path, items: Sequence[Mapping[str, Any]], seed: int, fits: dict[Any, Any]
) -> Iterator[dict[str, Any]]:
    """Fits every image with the defaults but for `setting` and the preset of its kind, and scores what comes out.

    Settings that differ only in what follows the fit share that of the default, through `fits`.
    """
    kind = folder.name
    options = {"seed": seed, "bundle_root": str(INFERENCE.parents[1]), **SETTINGS[setting]}
    overlays = list(PRESETS[kind])
    if setting in OVERLAYS:
        overlays.append(OVERLAYS[setting])
        options["checkpoint"] = trained_on(folder, seed)
    preprocessing, network, inferer, postprocessing = shipped(
        overlays, options, "preprocessing", "network", "inferer", "postprocessing"
    )
    shares_the_default_fit = setting not in OVERLAYS and all(
        name.startswith(AFTER_THE_FIT) for name in SETTINGS[setting]
    )
    for item in items:
        start = time.perf_counter()
        sample = preprocessing(dict(item))
        seconds = time.perf_counter() - start
        fit = fits.get((item["image"], seed)) if shares_the_default_fit else None
        if fit is None:
            with torch.no_grad():
                scores = inferer(sample["image"].unsqueeze(0), network)[0]
            fit = scores, inferer.record[0]
            if shares_the_default_fit:
                fits[item["image"], seed] = fit
        sample["pred"], record = fit
        start = time.perf_counter()
        sample = postprocessing(sample)
        seconds += record.seconds + time.perf_counter() - start
        label, clusters = truth(item), sample["clusters"][0].numpy()
        masks = {"deployed": sample["pred"][0].numpy() > 0}
        masks |= {"majority": majority_mask(clusters, label), "oracle": oracle_mask(clusters, label)}
        yield {
            **{"setting": setting, "set": kind, "file": Path(item["file"]).name, "seed": seed},
            **{level: round(score_mask(mask, label)["dice"], 4) for level, mask in masks.items()},
            **{"clusters": int(clusters.max()), "steps": record.steps, "refits": record.refits},
            "seconds": round(seconds, 2),
        }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line for each setting as Markdown: means over images and seeds, with the spread of the seeds."""
    kinds = [kind for kind in PRESETS if any(row["set"] == kind for row in rows)]
    titles = ["setting", *(f"{kind}, deployed" for kind in kinds), "all, deployed", "majority", "oracle"]
    titles += ["clusters", "one cluster", "fitted again", "steps", "seconds"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for setting in dict.fromkeys(row["setting"] for row in rows):
        group = [row for row in rows if row["setting"] == setting]
        cells = [setting]
        for kind in kinds:
            of_kind = [row for row in group if row["set"] == kind]
            cells.append(f"{mean(of_kind, 'deployed'):.3f}" if of_kind else "")
        for level in ("deployed", "majority", "oracle"):
            between_seeds = spread(group, level)
            cells.append(f"{mean(group, level):.3f}" + ("" if np.isnan(between_seeds) else f" ± {between_seeds:.3f}"))
        collapsed, again = (
            sum(found) / len(group)
            for found in zip(*((int(row["clusters"]) == 1, int(row["refits"]) > 0) for row in group), strict=True)
        )
        cells += [f"{mean(group, 'clusters'):.1f}", f"{collapsed:.0%}", f"{again:.0%}", f"{mean(group, 'steps'):.0f}"]
        cells.append(f"{mean(group, 'seconds'):.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablation", description=__doc__)
    parser.add_argument("data_dir", type=Path, help="folder that holds the sets")
    parser.add_argument("--sets", nargs="+", default=list(PRESETS), choices=list(PRESETS), metavar="SET")
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS), metavar="SETTING")
    parser.add_argument("--images", type=int, default=4, help="even images of each set, from the first on")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    arguments = parser.parse_args()
    for kind in arguments.sets:
        if not (arguments.data_dir / kind).is_dir():
            parser.error(f"there is no folder {arguments.data_dir / kind}; --sets chooses among {', '.join(PRESETS)}")
    if arguments.images < 1:
        parser.error(f"--images must be at least 1, got {arguments.images}")
    path = arguments.results / "ablation.csv"
    arguments.results.mkdir(parents=True, exist_ok=True)
    images = {
        kind: [item for item in find_images(arguments.data_dir / kind) if "label" in item][::2][: arguments.images]
        for kind in arguments.sets
    }
    names = {kind: [Path(item["file"]).name for item in items] for kind, items in images.items()}

    def asked_for(row: Mapping[str, Any]) -> bool:
        is_setting = row["setting"] in arguments.settings and int(row["seed"]) in arguments.seeds
        return is_setting and row["file"] in names.get(row["set"], ())

    fits: dict[Any, Any] = {}
    for setting in arguments.settings:
        for seed in arguments.seeds:
            for kind, items in images.items():
                done = {(row["setting"], row["set"], row["file"], row["seed"]) for row in read_rows(path)}
                left = [item for item in items if (setting, kind, Path(item["file"]).name, str(seed)) not in done]
                for row in score_setting(setting, arguments.data_dir / kind, left, seed, fits) if left else ():
                    add_rows(path, COLUMNS, [row])
        print(table([row for row in read_rows(path) if row["setting"] == setting and asked_for(row)]), flush=True)
    text = "; ".join(f"{kind}: {', '.join(files)}" for kind, files in names.items())
    heading = f"Dice at the level deployed, and at partition (majority) and oracle; seeds {arguments.seeds}, images at"
    heading += f" even places ({text}); ± is the standard deviation of the means of the seeds. Made by"
    heading += f" `python -m benchmarks.ablation DATA --images {arguments.images}`."
    lines = table([row for row in read_rows(path) if asked_for(row)])
    (arguments.results / "ablation.md").write_text(f"{heading}\n\n{lines}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
