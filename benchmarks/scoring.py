"""CPU seconds of scoring one image with all baselines at four levels: `python -m benchmarks.scoring`.

A drawn image of 768 x 576 in colour, with its truth and a mask and clusters to score, is read from files and scored as
in the workflow `evaluation`, with the choice of its config, on one thread; the fastest of five times counts. A minute
at most. `--volume` scores a drawn volume of 128 x 128 x 64 instead. Timings decide no test.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from threadpoolctl import threadpool_limits

from benchmarks.__main__ import machine
from monai_fusenet.data import draw_phantoms, find_images
from monai_fusenet.evaluation import score_folder
from monai_fusenet.transforms import ClustersToMaskd, kmeans_clusters

REPEATS = 5
SIDES, VOLUME = (576, 768), (128, 128, 64)


def draw_picture(data: Path, results: Path) -> None:
    """A phantom in colour, and three clusters of it, of which the smallest is the mask."""
    draw_phantoms(data, count=1, size=SIDES)
    (item,) = find_images(data)
    image = np.asarray(Image.open(item["image"]).convert("RGB")) / 255
    clusters = kmeans_clusters(np.moveaxis(image, -1, 0), 3, seed=1)
    for kind, array in {"clusters": clusters, "mask": (clusters == 3) * np.uint8(255)}.items():
        Image.fromarray(array).save(results / f"{item['name']}_{kind}.png")


def draw_volume(data: Path, results: Path) -> None:
    """A bright ellipsoid in noise, and three clusters of it, of which the smallest is the mask."""
    axes = np.ogrid[tuple(slice(-1, 1, side * 1j) for side in VOLUME)]
    truth = sum(axis**2 for axis in axes) < 0.3
    image = 0.5 * truth + gaussian_filter(np.random.default_rng(0).normal(0, 2, VOLUME), 2)
    image = (image - image.min()) / np.ptp(image)
    clusters = kmeans_clusters(image[None], 3, seed=1)
    for folder in (data / "images", data / "masks"):
        folder.mkdir(parents=True)
    for path, array in {
        data / "images" / "a.nii.gz": (1000 * image).astype(np.int16),
        data / "masks" / "a.nii.gz": truth.astype(np.uint8),
        results / "a_clusters.nii.gz": clusters,
        results / "a_mask.nii.gz": (clusters == 3).astype(np.uint8),
    }.items():
        nib.save(nib.Nifti1Image(array, np.diag([1.0, 1.0, 2.0, 1.0])), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volume", action="store_true", help="score a volume instead of a picture")
    volume = parser.parse_args().volume
    torch.set_num_threads(1)
    threadpool_limits(1)
    choose_mask = ClustersToMaskd(keys="clusters", image_key="original").choose
    with tempfile.TemporaryDirectory() as folder:
        data, results = Path(folder) / "set", Path(folder) / "results"
        results.mkdir()
        (draw_volume if volume else draw_picture)(data, results)
        seconds = []
        for _ in range(REPEATS):
            start = time.process_time()
            rows, failures = score_folder(find_images(data), {0: results}, choose_mask, field="device")
            seconds.append(time.process_time() - start)
            assert not failures
    print("\n".join(machine(threads=1)))
    shape = " x ".join(map(str, VOLUME if volume else SIDES[::-1]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"scoring an image of {shape}, {len(rows)} rows: {min(seconds):.2f} CPU s, peak of the process {peak:.0f} MiB"
    )


if __name__ == "__main__":
    main()
