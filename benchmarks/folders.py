"""How long whole folders take: `python -m benchmarks.folders fits DATA | student BUNDLE | resume [--count N]`.

`fits` makes masks of images of a folder with the default options, by 1 and by 2 processes (`--workers`). `student`
makes masks of drawn images of 512 x 512 with a distilled bundle, without panels, for each of `--counts`. `resume` runs
`inference` on a folder of finished images, drawn small, and has it find that nothing is left to do. Each run is a
process of its own; seconds are by the clock, from its start to its end; memory is the most that one process has had.
Prints a table, and appends it to `--table FILE`. Timings decide no test.
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from benchmarks.__main__ import machine
from monai_fusenet.data import find_images
from monai_fusenet.results.summary import Summary
from monai_fusenet.shipped import config_files

SIDE = 512


def draw(folder: Path, count: int, side: int = SIDE) -> None:
    """Draws pictures of a dark disk on bright ground; those from the thousandth on repeat the first."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:side, :side] / side
    for index in range(min(count, 1000)):
        row, column, radius = *rng.uniform(0.35, 0.65, 2), rng.uniform(0.1, 0.25)
        disk = gaussian_filter((np.hypot(rows - row, columns - column) < radius).astype(float), side / 170)[..., None]
        pixels = np.array([200, 160, 140]) * (1 - 0.5 * disk) + rng.normal(0, 6, (side, side, 1))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{index:06}.png", compress_level=1)
    for index in range(1000, count):
        shutil.copyfile(folder / f"{index % 1000:06}.png", folder / f"{index:06}.png")


def run(config: Sequence[str], data: Path, output: Path, **options: object) -> dict[str, float]:
    """Runs `inference`; returns its seconds, and the MiB of its largest process."""
    given = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "monai.bundle", "run", "inference", "--config_file", str(list(config))]
    command += ["--dataset_dir", str(data), "--output_dir", str(output), *given]
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "2"})
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10
    return {"seconds": round(seconds, 2), "MiB": round(peak)}


def fits(arguments: argparse.Namespace, scratch: Path) -> Iterator[dict]:
    """The default on real images, by one process and by several."""
    images = [item["image"] for item in find_images(arguments.data)][: arguments.count or 40]
    for place, image in enumerate(images):
        (scratch / "data").mkdir(exist_ok=True)
        shutil.copyfile(image, scratch / "data" / f"{place:03}{Path(image).suffix}")
    config = config_files("inference", *arguments.overlays)
    for workers in arguments.workers:
        output = scratch / f"workers{workers}"
        yield {"images": len(images), "workers": workers, **run(config, scratch / "data", output, workers=workers)}


def student(arguments: argparse.Namespace, scratch: Path) -> Iterator[dict]:
    """A distilled bundle on drawn images, without panels."""
    config = [str(arguments.bundle / "configs" / "inference.json")]
    for count in arguments.counts:
        draw(scratch / f"data{count}", count)
        for workers in arguments.workers:
            output = scratch / f"out{count}_{workers}"
            found = run(config, scratch / f"data{count}", output, workers=workers, panels="none")
            yield {
                "images": count,
                "workers": workers,
                **found,
                "ms an image": round(1000 * found["seconds"] / count, 1),
            }
            shutil.rmtree(output)
        shutil.rmtree(scratch / f"data{count}")


def resume(arguments: argparse.Namespace, scratch: Path) -> Iterator[dict]:
    """A run that finds all images finished; their rows and files are those of one, finished for real."""
    data, output, count = scratch / "data", scratch / "out", arguments.count or 100_000
    draw(data, 1, side=64)
    run(config_files("inference"), data, output, panels="none")
    with (output / "summary.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    for index in range(1, count):
        shutil.copyfile(data / "000000.png", data / f"{index:06}.png")
        for kind in ("clusters", "mask"):
            shutil.copyfile(output / f"000000_{kind}.png", output / f"{index:06}_{kind}.png")
    rows = {f"{index:06}.png": {**row, "file": f"{index:06}.png"} for index in range(count)}
    Summary(output, list(rows), rows).write()
    found = run(config_files("inference"), data, output, panels="none")
    with (output / "summary.csv").open(encoding="utf-8") as file:
        assert {one["status"] for one in csv.DictReader(file)} == {"kept"}
    yield {"images": count, "workers": "", **found}


def main() -> None:
    """Runs what is asked for, and prints a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.folders", description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, help="file to append the table to")
    kinds = parser.add_subparsers(dest="kind", required=True)
    of_fits = kinds.add_parser("fits")
    of_fits.add_argument("data", type=Path)
    of_fits.add_argument("--overlays", nargs="*", default=[], help="overlays by name, as skin")
    of_fits.add_argument("--count", type=int)
    of_fits.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    of_students = kinds.add_parser("student")
    of_students.add_argument("bundle", type=Path)
    of_students.add_argument("--counts", type=int, nargs="+", default=[2000, 20_000])
    of_students.add_argument("--workers", type=int, nargs="+", default=[2])
    kinds.add_parser("resume").add_argument("--count", type=int)
    arguments = parser.parse_args()
    lines = machine(threads=1)
    with tempfile.TemporaryDirectory() as scratch:
        for row in {"fits": fits, "student": student, "resume": resume}[arguments.kind](arguments, Path(scratch)):
            if len(lines) == len(machine(threads=1)):
                lines += ["", "| what | " + " | ".join(row) + " |", "|" + "---|" * (len(row) + 1)]
            lines.append(f"| {arguments.kind} | " + " | ".join(map(str, row.values())) + " |")
            print(lines[-1], flush=True)
    if arguments.table:
        with arguments.table.open("a", encoding="utf-8") as file:
            file.write("\n".join(["", *lines, ""]))


if __name__ == "__main__":
    main()
