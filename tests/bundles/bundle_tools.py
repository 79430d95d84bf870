"""Runs the shipped configs as a user does, and draws the images that they run on."""

import csv
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from monai.bundle import ckpt_export
from monai.bundle import run as bundle_run
from PIL import Image

from monai_fusenet.bundle import faults

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "bundles" / "fusenet_segmentation"
CONFIGS = BUNDLE / "configs"
OVERLAYS = ROOT / "configs"
CONFIG_OF = {
    "training": "train.json",
    "inference": "inference.json",
    "evaluation": "evaluate.json",
    "distillation": "distill.json",
}
# Results are equal to the last bit only with equal numbers of threads.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}

# A network and images so small that two iterations take no time.
SMALL = {
    "device": "cpu",
    "network_def#features": 4,
    "working_size": [24, 24],
    "inferer#steps": 2,
    "inferer#min_clusters": 0,
    "inferer#progress": False,
}
# A student that learns enough of k-means' masks to have one of its own.
SMALL_STUDENT = {
    **SMALL,
    "student_def#features": [4, 4, 4, 4, 4, 4],
    "student_size": [32, 32],
    "teacher_seeds": [],
    "rounds": 1,
    "round_steps": 60,
}
SMALL_TRAINING = {
    "device": "cpu",
    "network_def#features": 4,
    "working_size": [24, 24],
    "max_epochs": 2,
    "batch_size": 2,
    "min_clusters": 0,
}


def command(run_id, *overlays, config=None, **options):
    """The command line of a run, as README writes it."""
    name = CONFIG_OF.get(run_id)
    files = [str(config or CONFIGS / name), *(str(OVERLAYS / overlay) for overlay in overlays)]
    arguments = [sys.executable, "-m", "monai.bundle", "run", run_id]
    arguments += ["--config_file", str(files) if len(files) > 1 else files[0]]
    for key, value in options.items():
        arguments += [f"--{key}", str(value)]
    return arguments


def run(run_id, *overlays, cwd, config=None, **options):
    """Runs a workflow in a process of its own, in the folder `cwd`; returns it with its output as text."""
    arguments = command(run_id, *overlays, config=config, **options)
    return subprocess.run(arguments, cwd=cwd, env=ENVIRONMENT, capture_output=True, encoding="utf-8", timeout=300)


def call(run_id, *overlays, config=None, **options):
    """Runs a workflow in this process, as if it were `python -m monai.bundle`; returns the exit status or message.

    It saves the time of importing.
    """
    name = CONFIG_OF[run_id]
    files = [str(config or CONFIGS / name), *(str(OVERLAYS / overlay) for overlay in overlays)]
    options = {key: str(value) if isinstance(value, Path) else value for key, value in options.items()}
    try:
        with (
            mock.patch.object(faults, "is_program", return_value=True),
            mock.patch("monai_fusenet.bundle.startup.end_on_signals"),  # this process keeps its own handlers
        ):
            bundle_run(run_id, config_file=files, **options)
    except SystemExit as status:
        return status.code
    return 0


def restored_logging():
    """Undoes what the bundle's logging.conf does to the loggers of this process; for fixtures."""
    loggers = [logging.getLogger(name) for name in ("", "monai_fusenet", "ignite")]
    before = [(logger.level, logger.propagate, list(logger.handlers)) for logger in loggers]
    yield
    for logger, (level, propagate, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.propagate = propagate
        logger.handlers[:] = handlers


def hear(caplog):
    """Lets `caplog` have our lines, which the bundle's logging.conf keeps to itself; use with logging_file=False."""
    logging.getLogger("monai_fusenet").propagate = True  # put back by `restored_logging`
    caplog.set_level(logging.INFO, "monai_fusenet")


def draw_image(height, width, seed=0, channels=3):
    """A dark ellipse on bright noisy ground, (H, W, C) uint8, and its mask (H, W) of 0 and 255."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    inside = ((rows / height - 0.5) / 0.25) ** 2 + ((columns / width - 0.45) / 0.3) ** 2 < 1
    image = np.where(inside[..., None], [90, 40, 50], [220, 180, 170])[..., :channels] + rng.normal(
        0, 8, (height, width, channels)
    )
    return np.clip(image, 0, 255).astype(np.uint8), np.where(inside, 255, 0).astype(np.uint8)


def draw_folder(folder, count=3, masks=True):
    """`images/` and `masks/` with PNGs of unequal odd sizes."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        image, mask = draw_image(41 + 6 * index, 53 - 4 * index, seed=index)
        Image.fromarray(image).save(folder / "images" / f"scan{index}.png")
        if masks:
            Image.fromarray(mask).save(folder / "masks" / f"scan{index}.png")
    if not masks:
        (folder / "masks").rmdir()
    return folder


def read_summary(folder):
    with (Path(folder) / "summary.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def same_files(folder, other):
    """Asserts that two folders of results hold the same, but for times, memory and places; returns how many files."""
    names = [
        sorted(
            str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and "events.out" not in path.name
        )
        for root in (Path(folder), Path(other))
    ]
    assert names[0] == names[1]
    for name in names[0]:
        assert _content(Path(folder), name) == _content(Path(other), name), name
    return len(names[0])


def _content(root, name):
    path = root / name
    if path.name == "report.html":  # made of the tables beside it, and of how long they took
        return None
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        measured = ("seconds", "seconds_mean", "peak_mib")
        return [{key: value for key, value in row.items() if key not in measured} for row in rows]
    content = path.read_bytes()
    return content.replace(str(root).encode(), b"") if path.suffix == ".json" else content


def last_line(process):
    """What a user reads last."""
    return [line for line in process.stderr.splitlines() if line.strip()][-1]


def copy_with_masks(folder, target, masks):
    """A copy of a folder of images whose masks are "absent" or "inverted"."""
    shutil.copytree(folder, target)
    for path in (target / "masks").iterdir():
        if masks == "absent":
            path.unlink()
        else:
            Image.fromarray(255 - np.asarray(Image.open(path))).save(path)


def export_torchscript(bundle, path, **options):
    """Writes the network of a bundle as TorchScript, by MONAI's command, and returns where."""
    configs = bundle / "configs"
    files = {"meta_file": str(configs / "metadata.json"), "config_file": str(configs / "inference.json")}
    weights = str(bundle / "models" / "model.pt")
    ckpt_export(net_id="network_def", filepath=str(path), ckpt_file=weights, **files, **options)
    return path
