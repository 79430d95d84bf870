"""What a few accepted masks are worth: `python -m benchmarks.few_masks DATASET OUT --preset skin`.

For each number of accepted masks and each seed, images with masks are drawn, an annotator of three clicks at most makes
their masks (see `benchmarks.accepted`; `--true True` takes the true ones), and the workflow `distillation` learns from
them and from all other images. The Dice of the masks of the others, on their own grids, stands beside that of the masks
given, that of the same network with the same augmentation that sees nothing but the accepted images (`alone`; not
measured with `--alone False`), and what the run itself expects. No other truth is read before the scores. Adds a row
for each run to OUT/few_masks.csv, where what is there already is not measured again, and prints a table.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.bundle import run

from benchmarks import accepted
from benchmarks.clicks import dice
from benchmarks.quality import INFERENCE, ROOT, add_rows, mean, read_rows, spread, truth
from monai_fusenet.data import find_images
from monai_fusenet.label.clustering import presets
from monai_fusenet.results.layout import result_path

KIND = ("set", "masks", "true", "preset", "sample", "options")  # rows that differ in one of these are never mixed
SCORES = ("dice", "median", "below_half", "worst", "alone", "expected", "seconds")
COLUMNS = (*KIND, "seed", "images", "given", *SCORES)


def distil(dataset: Path, output: Path, masks: Path | None, preset: str, options: Mapping[str, Any]) -> None:
    """Runs the workflow as a user does."""
    overlays = [] if preset == "generic" else [ROOT / "configs" / f"{preset}.yaml"]
    files = [str(path) for path in (INFERENCE.with_name("distill.json"), *overlays)]
    given = {} if masks is None else {"accepted_dir": str(masks)}
    run("distillation", config_file=files, dataset_dir=str(dataset), output_dir=str(output), **given, **options)


def lay_out(items: Sequence[Mapping[str, Any]], folder: Path) -> Path:
    """A folder of the images alone."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for item in items:
        source = Path(item["image"]).resolve()
        (folder / source.name).symlink_to(source)
    return folder


def scores_of(items: Sequence[Mapping[str, Any]], folder: Path) -> list[float]:
    """The Dice of the masks in a folder; of an image that has none, 0."""
    found = []
    for item in items:
        mask, right = result_path(folder, item["name"], "mask"), truth(item)
        said = truth({**item, "label": str(mask)}) if mask else np.zeros_like(right)
        found.append(dice(said, right) if said.any() or right.any() else 1.0)
    return found


def measure(
    items: Sequence[Mapping[str, Any]],
    count: int,
    seed: int,
    out: Path,
    preset: str,
    options: Mapping[str, Any],
    true: bool,
    with_alone: bool,
) -> dict[str, Any]:
    """One run, and its row."""
    images, masks = lay_out(items, out / "images"), None
    drawn, given = accepted.draw(items, count, seed), 0.0
    if count:
        masks = out / "accepted"
        given = float(np.mean(accepted.accept(drawn, masks, preset if preset in presets() else "generic", seed, true)))
    start = time.perf_counter()
    distil(images, out / "all", masks, preset, {"seed": seed, **options})
    seconds = time.perf_counter() - start
    names = {item["name"] for item in drawn}
    others = [item for item in items if item["name"] not in names]
    dice = scores_of(others, out / "all" / "masks")
    expectation = out / "all" / "expectation.json"
    expected = json.loads(expectation.read_text("utf-8"))["expected_dice"] if expectation.is_file() else ""
    alone: float | str = ""
    if masks is not None and with_alone:
        distil(lay_out(drawn, out / "few"), out / "alone", masks, preset, {"seed": seed, **options})
        config = out / "alone" / "model" / "configs" / "inference.json"
        run(config_file=str(config), dataset_dir=str(images), output_dir=str(out / "alone_masks"))
        alone = round(float(np.mean(scores_of(others, out / "alone_masks"))), 4)
    return {
        "masks": count,
        "true": true,
        "preset": preset,
        "options": json.dumps(options, sort_keys=True),
        "seed": seed,
        "images": len(others),
        "given": round(given, 4) if count else "",
        "dice": round(float(np.mean(dice)), 4),
        "median": round(float(np.median(dice)), 4),
        "below_half": int(np.sum(np.array(dice) < 0.5)),
        "worst": round(float(np.min(dice)), 4),
        "alone": alone,
        "expected": expected,
        "seconds": round(seconds),
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Means over seeds, as Markdown."""
    titles = [
        "set",
        "overlay",
        "accepted masks",
        "their Dice",
        "seeds",
        "images",
        "Dice, mean ± sd",
        "below 0.5",
        "these masks alone",
        "expected",
    ]
    lines = [f"| {' | '.join([*titles, 'seconds'])} |", "|---" * (len(titles) + 1) + "|"]
    kinds = sorted(
        {tuple(str(row[column]) for column in KIND) for row in rows}, key=lambda kind: (kind[0], int(kind[1]))
    )
    for kind in kinds:
        own = [row for row in rows if tuple(str(row[column]) for column in KIND) == kind]
        masks = f"{kind[1]} true" if kind[2] == "True" else kind[1]
        cells = [kind[0], kind[3], masks, _mean_of(own, "given"), str(len(own)), str(own[0]["images"])]
        cells += [f"{mean(own, 'dice'):.3f} ± {spread(own, 'dice'):.3f}", f"{mean(own, 'below_half'):.1f}"]
        cells += [_mean_of(own, column) for column in ("alone", "expected")]
        lines.append(f"| {' | '.join([*cells, format(mean(own, 'seconds'), '.0f')])} |")
    return "\n".join(lines)


def _mean_of(rows: Sequence[Mapping[str, Any]], column: str) -> str:
    """Of the rows that have a value."""
    measured = [row for row in rows if row[column] != ""]
    return f"{mean(measured, column):.3f}" if measured else ""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.few_masks", description=__doc__)
    parser.add_argument("dataset", type=Path, help="folder of images and masks")
    parser.add_argument("out", type=Path)
    parser.add_argument("--preset", default="generic")
    parser.add_argument("--counts", type=json.loads, default=[0, 1, 3, 5, 10], help="as [1,5]")
    parser.add_argument("--seeds", type=json.loads, default=[0, 1, 2])
    parser.add_argument("--images", type=int, help="of the set, drawn once and for all; all by default")
    parser.add_argument("--true", choices=("True", "False"), default="False", help="the true masks, not clicked ones")
    parser.add_argument("--alone", choices=("True", "False"), default="True", help="whether that is measured, too")
    parser.add_argument("--options", type=json.loads, default={}, help='of the workflow, as {"rounds": 2}')
    given = parser.parse_args(arguments)
    items: list[Mapping[str, Any]] = [item for item in find_images(given.dataset) if "label" in item]
    if given.images is not None:
        items = accepted.draw(items, min(given.images, len(items)), seed=99)
    path = given.out / "few_masks.csv"
    given.out.mkdir(parents=True, exist_ok=True)
    rows = read_rows(path)
    if rows and set(rows[0]) != set(COLUMNS):
        parser.error(f"{path} is of another version of this benchmark: choose another OUT")
    done = {tuple(row[column] for column in (*KIND, "seed")) for row in rows}
    sample = "all" if given.images is None else str(given.images)
    options = json.dumps(given.options, sort_keys=True)
    for seed in given.seeds:
        for count in given.counts:
            about = (given.dataset.name, str(count), given.true, given.preset, sample, options, str(seed))
            if about not in done:
                kind = f"{sample}_{count}_{seed}{'_true' * (given.true == 'True')}"  # no two share what a run left
                folder = given.out / f"{given.dataset.name}_{kind}"
                kinds = given.true == "True", given.alone == "True"
                row = measure(items, count, seed, folder, given.preset, given.options, *kinds)
                add_rows(path, COLUMNS, [{"set": given.dataset.name, "sample": sample, **row}])
    print(table(read_rows(path)))


if __name__ == "__main__":
    main()
