"""Memory and time of large images: `python -m benchmarks.big [--cases NAME ...]`.

Draws images of 20 000 x 20 000 as tiled TIFF and a CT of 512 x 512 x 600, runs the workflow `inference` on each in a
process of its own, and prints the most main memory that this process and those it started have had (the sum of their
`VmHWM`), its seconds by the clock and of the processor, and what was written. Linux only; 5 GB of disk; some minutes a
case on one core.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import tifffile

from tests.dicom_tools import AXIAL, write_ct_series

ROOT = Path(__file__).parents[1]
CONFIG = str(ROOT / "bundles" / "fusenet_segmentation" / "configs" / "inference.json")
TILE = 256
SCALES = (1, 2, 4, 8)  # of the levels of a pyramid
CT_SHAPE = (512, 512, 600)


class Case(NamedTuple):
    """An image, and how it is segmented.

    Attributes:
        draw: writes it into a folder, given the side of pictures in pixels.
        overlays: configs beside that of `inference`.
        gib: the memory that should do.
    """

    draw: Callable[[Path, int], None]
    overlays: tuple[str, ...] = ()
    gib: int = 4


def picture(y: int, x: int, side: int, scale: int, channels: int, noise: np.ndarray) -> np.ndarray:
    """The tile (TILE, TILE, channels) of a drawn picture at (y, x): a lobed dark thing on bright ground; uint8."""
    rows = ((np.arange(y, y + TILE) + 0.5) * scale / side - 0.5)[:, None]
    columns = ((np.arange(x, x + TILE) + 0.5) * scale / side - 0.5)[None]
    distance = np.hypot(rows, 1.3 * columns) + 0.03 * np.sin(40 * rows) * np.cos(35 * columns)
    inside = (distance < 0.28).astype(np.float32)
    values = 200 - 90 * inside + 12 * np.sin(200 * rows) * np.sin(230 * columns)
    colours = np.array([1.0, 0.8, 0.9][:channels], dtype=np.float32)
    start = (7 * y + 13 * x) % (len(noise) - TILE)
    return np.clip(values[..., None] * colours + noise[start : start + TILE, :TILE, None] / scale, 0, 255).astype("u1")


def tiles(side: int, scale: int, channels: int, dtype: str) -> Iterator[np.ndarray]:
    """All tiles of a level of the picture, row by row."""
    noise = np.random.default_rng(0).normal(0, 8, (4 * TILE, TILE)).astype(np.float32)
    level = -(-side // scale)
    factor = 257 if dtype == "u2" else 1
    for y in range(0, level, TILE):
        for x in range(0, level, TILE):
            tile = picture(y, x, side, scale, channels, noise).astype(dtype) * np.array(factor, dtype)
            yield tile if channels > 1 else tile[..., 0]


def draw_tiff(folder: Path, side: int, channels: int, dtype: str, compression: str, levels: int = 1) -> None:
    """A tiled TIFF; with `levels`, a pyramid whose reduced images are SubIFDs."""
    with tifffile.TiffWriter(folder / "large.tif", bigtiff=True) as writer:
        for place, scale in enumerate(SCALES[:levels]):
            level = -(-side // scale)
            writer.write(
                tiles(side, scale, channels, dtype),
                shape=(level, level, channels) if channels > 1 else (level, level),
                dtype=dtype,
                tile=(TILE, TILE),
                compression=compression,
                photometric="rgb" if channels > 1 else "minisblack",
                subifds=levels - 1 if place == 0 and levels > 1 else None,
                subfiletype=int(place > 0),
                metadata=None,
                maxworkers=1,
            )


def ct_slice(place: float) -> np.ndarray:
    """A slice (x, y) of a drawn body: HU, int16; `place` in [0, 1] from the feet to the head."""
    generator = np.random.default_rng(int(place * 1e6))
    x, y = np.meshgrid(*(np.linspace(-1, 1, side) for side in CT_SHAPE[:2]), indexing="ij")
    values = np.where(x**2 / 0.7 + y**2 / 0.4 < 1, 40.0, -1000.0)
    lung = max(0.0, 1 - ((place - 0.65) / 0.25) ** 2)
    for centre in (-0.4, 0.4):
        values[(x - centre) ** 2 / 0.08 + y**2 / 0.15 < lung] = -850
    values[(x + 0.35) ** 2 / 0.1 + (y - 0.1) ** 2 / 0.08 < max(0.0, 1 - ((place - 0.3) / 0.15) ** 2)] = 110
    values[x**2 + (y + 0.45) ** 2 < 0.01] = 500
    return (values + generator.normal(0, 12, values.shape)).astype(np.int16)


def ct_volume() -> np.ndarray:
    """The CT, (x, y, z), HU."""
    return np.stack([ct_slice(index / CT_SHAPE[2]) for index in range(CT_SHAPE[2])], axis=-1)


def draw_nifti(folder: Path, side: int) -> None:
    """The CT as one packed NIfTI file with a place."""
    image = nib.Nifti1Image(ct_volume(), np.diag([0.8, 0.8, 1.0, 1.0]))
    image.header.set_slope_inter(1, 0)
    nib.save(image, folder / "ct.nii.gz")


def draw_series(folder: Path, side: int) -> None:
    """The CT as a folder of one DICOM file for each slice; its rescaling is that of `write_ct_series`."""
    slices = ((ct_volume() + 1024) // 2).clip(0, 4095).transpose(2, 1, 0)
    write_ct_series(folder / "ct", slices, orientation=AXIAL, spacing=(0.8, 0.8), gap=1.0)


CASES = {
    "rgb-deflate": Case(partial(draw_tiff, channels=3, dtype="u1", compression="zlib")),
    "rgb-jpeg": Case(partial(draw_tiff, channels=3, dtype="u1", compression="jpeg")),
    "rgb-jpeg-pyramid": Case(partial(draw_tiff, channels=3, dtype="u1", compression="jpeg", levels=4)),
    "rgb-jpeg-skin": Case(partial(draw_tiff, channels=3, dtype="u1", compression="jpeg"), ("skin",)),
    "grey16-lzw": Case(partial(draw_tiff, channels=1, dtype="u2", compression="lzw")),
    "ct-volume": Case(draw_nifti, ("volume", "ct"), 8),
    "ct-slices": Case(draw_nifti, ("slices", "ct"), 8),
    "ct-dicom-volume": Case(draw_series, ("volume", "ct"), 8),
}


def family(root: int) -> list[int]:
    """A process and all that it started, and they."""
    found = [root]
    for process in found:
        try:
            for task in Path(f"/proc/{process}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
        except OSError:
            continue
    return found


def peak_of(process: int) -> int:
    """`VmHWM` of a process in KiB; 0 of one that has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def measure(command: list[str], log: Path, most_gib: float) -> dict[str, Any]:
    """Runs a command and returns its status, GiB at most, and seconds; it may take so much address space."""
    limit = int(most_gib * 2**30)
    started, peaks = time.perf_counter(), dict[int, int]()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with log.open("wb") as told:
        limited = ["prlimit", f"--as={limit}", *command]
        child = subprocess.Popen(limited, stdout=told, stderr=subprocess.STDOUT)
        while child.poll() is None:
            peaks |= {one: max(peaks.get(one, 0), peak_of(one)) for one in family(child.pid)}
            time.sleep(0.1)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "status": child.returncode,
        "gib": sum(peaks.values()) / 2**20,
        "seconds": time.perf_counter() - started,
        "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    }


def run_case(name: str, scratch: Path, side: int, most_gib: float) -> None:
    """Draws the image of a case, unless it lies there, segments it, and prints what that took."""
    case = CASES[name]
    images, results = scratch / name, scratch / f"{name}-results"
    if not images.exists():
        images.mkdir(parents=True)
        case.draw(images, side)
    configs = [CONFIG, *(str(ROOT / "configs" / f"{overlay}.yaml") for overlay in case.overlays)]
    command = [sys.executable, "-m", "monai.bundle", "run", "inference", "--config_file", str(configs)]
    command += ["--dataset_dir", str(images), "--output_dir", str(results), "--overwrite", "True"]
    found = measure(command, scratch / f"{name}.log", most_gib)
    written = [f"{path.name} {path.stat().st_size / 2**20:.1f} MiB" for path in sorted(results.glob("*"))]
    stored = sum(path.stat().st_size for path in images.rglob("*") if path.is_file()) / 2**20
    print(
        f"{name}: {stored:.0f} MiB stored; status {found['status']}, peak {found['gib']:.2f} GiB of {case.gib}, "
        f"{found['seconds']:.0f} s, {found['cpu']:.0f} s of the processor; {', '.join(written)}",
        flush=True,
    )


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.big", description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="which (default: all)")
    parser.add_argument("--side", type=int, default=20000, help="of the pictures, in pixels (default: 20000)")
    parser.add_argument("--scratch", type=Path, help="folder to keep what is drawn in (default: none is kept)")
    parser.add_argument("--most-gib", type=float, default=32, help="address space of a run (default: 32)")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as temporary:
        for name in options.cases:
            run_case(name, options.scratch or Path(temporary), options.side, options.most_gib)


if __name__ == "__main__":
    main()
