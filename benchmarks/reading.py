"""How long finding and loading images takes: `python -m benchmarks.reading [--against CHECKOUT]`.

Draws 10,000 files (5,000 PNG and their masks) for `find_images`, 100 PNG and 100 NIfTI for `load_image`, and prints
the median of the rounds. With `--against`, the code of another checkout takes turns with this one, round by round,
so that both see the same machine; its column comes first.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

# Runs in a process of its own, in whichever checkout; its imports are not timed.
WORK = """
import json, sys, time
from pathlib import Path
from monai_fusenet.data import find_images, load_image

folder = Path(sys.argv[1])
load_image(next((folder / "png").iterdir())), load_image(next((folder / "nifti").iterdir()))
times = {}
start = time.perf_counter()
assert len(find_images(folder / "many")) == 5000
times["find_images, 10,000 files"] = time.perf_counter() - start
for kind in ("png", "nifti"):
    start = time.perf_counter()
    for path in sorted((folder / kind).iterdir()):
        load_image(path)
    times[f"load_image, 100 {kind}"] = time.perf_counter() - start
print(json.dumps(times))
"""


def draw(folder):
    """Writes the files."""
    for kind in ("images", "masks"):
        for part in range(5):
            (folder / "many" / kind / f"part{part}").mkdir(parents=True)
    for number in range(5000):
        for kind in ("images", "masks"):
            (folder / "many" / kind / f"part{number % 5}" / f"case{number:04d}.png").touch()
    random = np.random.default_rng(0)
    for kind in ("png", "nifti"):
        (folder / kind).mkdir()
    for number in range(100):
        pixels = random.integers(0, 256, (241, 317, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "png" / f"{number}.png")
        voxels = random.integers(0, 1000, (41, 37, 29)).astype(np.int16)
        nib.save(nib.Nifti1Image(voxels, np.diag([1, 1.2, 2, 1])), folder / "nifti" / f"{number}.nii.gz")


def measure(checkout, folder):
    """Seconds of each task with the code of a checkout."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", WORK, str(folder)]
    done = subprocess.run(command, env=environment, cwd=checkout, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=Path, help="another checkout of this project")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    here = Path(__file__).parents[1]
    checkouts = [here] if arguments.against is None else [arguments.against.resolve(), here]
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder))
        rounds = [[measure(checkout, folder) for checkout in checkouts] for _ in range(arguments.rounds)]
    for task in rounds[0][0]:
        medians = [statistics.median(times[place][task] for times in rounds) for place in range(len(checkouts))]
        print(task, *(f"{seconds:.3f} s" for seconds in medians), sep=" | ")


if __name__ == "__main__":
    main()
