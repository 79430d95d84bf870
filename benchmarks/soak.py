"""Whether memory stays flat over many images: `python -m benchmarks.soak [--images 500]`.

Draws phantoms of sizes that vary a little, runs the workflow `inference` on them with its default settings, in one
process, and notes the resident memory after each image. Writes `soak.csv` (a row after each image, as it comes),
`soak.md` and `soak.png` into `benchmarks/results/`. Five to ten seconds an image on one core. Linux only.
"""

from __future__ import annotations

import argparse
import csv
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from ignite.engine import Engine, Events
from matplotlib.figure import Figure
from monai.bundle import run

from benchmarks.__main__ import RESULTS, machine
from monai_fusenet.data import draw_phantoms
from monai_fusenet.utils.files import atomic_path

CONFIG = Path(__file__).parents[1] / "bundles" / "fusenet_segmentation" / "configs" / "inference.json"
SIZES = [(height, width) for height in (128, 144, 160, 176) for width in (128, 151, 192)]
SETTLED = 50  # images after which memory should not grow any more
TOLERANCE = 0.05


class MemoryLog:
    """Handler that adds a row to a table after each image: how many are done, resident MiB, and seconds so far.

    Args:
        path: the table; made anew when the engine starts.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._note)

    def _start(self, engine: Engine) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("images,resident_mib,seconds\n", encoding="utf-8")
        self.started = time.perf_counter()

    def _note(self, engine: Engine) -> None:
        seconds = time.perf_counter() - self.started
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{engine.state.iteration},{resident_memory():.1f},{seconds:.1f}\n")


def resident_memory() -> float:
    """Memory of this process that is in the machine's main memory, in MiB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def draw(folder: Path, count: int) -> None:
    """So many phantoms, each of another seed, of `SIZES` in turn."""
    for index in range(count):
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            draw_phantoms(scratch, count=1, size=SIZES[index % len(SIZES)], seed=index)
            (Path(scratch) / "images" / "phantom_000.png").rename(folder / f"phantom_{index:04d}.png")


def report(path: Path) -> str:
    """What the table of a run says, as Markdown."""
    memory, seconds = (read(path, column) for column in ("resident_mib", "seconds"))
    text = [
        "# Memory over many images",
        "",
        f"`python -m benchmarks.soak --images {len(memory)}`, in one process with default settings:",
        *machine(),
        "",
        f"{len(memory)} phantoms from 128 x 128 to 176 x 192 in {seconds[-1] / 60:.0f} minutes. Resident memory after",
    ]
    if len(memory) > SETTLED:
        settled, most, last = memory[SETTLED - 1], memory[SETTLED:].max(), memory[-1]
        flat = most <= (1 + TOLERANCE) * settled
        text += [
            f"image {SETTLED}: {settled:.0f} MiB; the most after any later image: {most:.0f} MiB "
            f"({100 * (most / settled - 1):+.1f} %); at the end: {last:.0f} MiB ({100 * (last / settled - 1):+.1f} %).",
            "",
            f"{'Flat' if flat else 'NOT flat'} within {TOLERANCE:.0%} after the first {SETTLED} images.",
        ]
    else:
        text += [f"the first: {memory[0]:.0f} MiB, the last: {memory[-1]:.0f} MiB."]
    return "\n".join(text) + "\n"


def read(path: Path, column: str) -> np.ndarray:
    """A column of the table."""
    with path.open(newline="", encoding="utf-8") as file:
        return np.array([float(row[column]) for row in csv.DictReader(file)])


def plot(path: Path) -> Figure:
    """Resident memory over images."""
    memory = read(path, "resident_mib")
    figure = Figure(figsize=(7, 3.2), layout="constrained", dpi=100)
    axes = figure.subplots()
    axes.plot(np.arange(1, len(memory) + 1), memory)
    if len(memory) > SETTLED:
        settled = memory[SETTLED - 1]
        axes.axhspan(settled * (1 - TOLERANCE), settled * (1 + TOLERANCE), color="#dbe7f5", label=f"± {TOLERANCE:.0%}")
        axes.legend(loc="lower right")
    axes.set(xlabel="images done", ylabel="resident memory, MiB", ylim=(0, 1.2 * memory.max()))
    axes.grid(color="#e4e8ee")
    return figure


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--images", type=int, default=500, help="how many (default: 500)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--report-only", action="store_true", help="report what the table says so far")
    options = parser.parse_args()
    table = options.results.resolve() / "soak.csv"
    if not options.report_only:
        with tempfile.TemporaryDirectory() as scratch:
            images = Path(scratch) / "images"
            images.mkdir()
            draw(images, options.images)
            run(
                "inference",
                config_file=str(CONFIG),
                dataset_dir=str(images),
                output_dir=str(Path(scratch) / "results"),
                handlers=["@writer", {"_target_": "benchmarks.soak.MemoryLog", "path": str(table)}],
            )
    text = report(table)
    with atomic_path(table.with_suffix(".md")) as temporary:
        temporary.write_text(text, encoding="utf-8")
    with atomic_path(table.with_suffix(".png")) as temporary:
        plot(table).savefig(temporary)
    print(text)


if __name__ == "__main__":
    main()
