"""Handles the inputs of `benchmarks.fuzz`, one after another, and answers each with a line; see there."""

from __future__ import annotations

import json
import os
import resource
import sys
import traceback
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow
from monai.data import MetaTensor

from monai_fusenet.bundle import faults, images
from monai_fusenet.data import (
    CheckImaged,
    ScaleByPercentilesd,
    ToChannelsd,
    find_images,
    load_image,
    load_mask_on_grid_of,
)

CONFIGS = Path(__file__).parents[1] / "bundles" / "fusenet_segmentation" / "configs"
CONFIG_OF = {
    "training": "train.json",
    "inference": "inference.json",
    "evaluation": "evaluate.json",
    "distillation": "distill.json",
}
FRONT_DOOR = ("options", "overlay", "dataset.json")
MEMORY = 2**31  # bytes of address space beyond what the imports took
OUT_OF_MEMORY = ("MemoryError", "bad_alloc", "allocate")


def prepare(path: str) -> None:
    """Finds, loads and prepares an image as the workflows do, and reads it as a mask, which it might be as well."""
    find_images(path if os.path.isdir(path) else os.path.dirname(path))
    image = load_image(path)
    load_mask_on_grid_of(path, image)
    if not isinstance(image, MetaTensor):
        raise TypeError(f"got a {type(image).__name__}")
    sample: dict[Any, Any] = {"image": image}
    for transform in (CheckImaged("image", 3 if image.ndim == 4 else 2, 1), ToChannelsd("image", 3)):
        sample = transform(sample)
    ScaleByPercentilesd("image")(sample)


def start(run_id: str, files: list[str], **options: Any) -> None:
    """Starts a workflow, up to where images would be read."""
    workflow = ConfigWorkflow(
        config_file=[str(CONFIGS / CONFIG_OF[run_id]), *files], logging_file=False, run_id=run_id, **options
    )
    workflow.initialize()


def handle(kind: str, path: str) -> None:
    """Does with one input what a workflow does with it."""
    if kind == "options":
        run_id, options = json.loads(Path(path).read_text())
        start(run_id, [], **options)
    elif kind == "overlay":
        start((Path(path).parent / "run_id").read_text(), [path])
    elif kind == "dataset.json":
        images(Path(path).parent, "/nowhere")
    else:
        prepare(path)


def is_ours(error: BaseException) -> bool:
    """Whether this package was at work when an error came up."""
    return any("monai_fusenet" in frame.filename for frame in traceback.extract_tb(error.__traceback__))


def judge(kind: str, path: str) -> tuple[str, str]:
    """What came of one input: `loaded`, `refused` with one line, `memory` or `error`.

    `before` is an error of MONAI before anything of this package ran.
    """
    try:
        handle(kind, path)
    except (ValueError, SystemExit) as error:
        message = str(error)
        if any(word in message for word in OUT_OF_MEMORY):
            return "memory", message
        if isinstance(error, ValueError) and kind in FRONT_DOOR and not is_ours(error):
            return "before", message
        return ("refused" if message and message.isprintable() else "error"), message
    except BaseException as error:
        return "error" if is_ours(error) else "before", f"{type(error).__name__}: {error}"
    return "loaded", ""


def peak() -> float:
    """The most memory taken so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Answers each line `[kind, path]` on stdin with a line `[outcome, message, MiB taken beyond before]`."""
    faults.is_program = lambda: True  # as under `python -m monai.bundle`: an error is one line
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is noise
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        kind, path = json.loads(line)
        before = peak()
        outcome, message = judge(kind, path)
        print(json.dumps([outcome, message, peak() - before]), file=answers, flush=True)


if __name__ == "__main__":
    main()
