"""One measurement in a process of its own, so that its peak memory is its own: `python -m benchmarks.cases CASE`.

CASE is a JSON object of arguments for `measure`; the answer is a JSON object on the last line.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from benchmarks.steps import build
from benchmarks.transcription import TranscribedFuseNet, transcribed_step
from monai_fusenet.data import sample_images
from monai_fusenet.inferers import PerImageInferer
from monai_fusenet.losses import FuseNetLoss
from monai_fusenet.networks import FuseNet

BUNDLE = Path(__file__).parents[1] / "bundles" / "fusenet_segmentation" / "configs"


def measure(what: str, **options: Any) -> dict[str, Any]:
    """Runs a case of this module by its name; adds the process's memory in MiB: at the start, and its peak."""
    cases = {case.__name__: case for case in (transcription, step, published_step, fit, default, forward, student)}
    start = _held_mib()
    result = cases[what](**options)
    return {**result, "start_mib": start, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def _held_mib() -> float:
    """Memory of the process now, imports included; nan where the system does not tell."""
    table = Path("/proc/self/statm")
    if not table.is_file():
        return math.nan
    return int(table.read_text(encoding="ascii").split()[1]) * resource.getpagesize() / 2**20


def _seconds(step: Callable[[], Any], repeats: int) -> list[float]:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return times


def _pair(size: list[int], batch: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return tuple(torch.rand(2, batch, 3, *size).unbind())  # type: ignore[return-value]


def transcription(side: int, repeats: int) -> dict[str, Any]:
    """Steps of the published formulas as they are written down."""
    pair = _pair([side, side])
    network = TranscribedFuseNet(side).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.005, momentum=0.9)
    return {"seconds": _seconds(lambda: transcribed_step(network, optimizer, *pair), repeats)}


def step(size: list[int], repeats: int, amp: bool = False, checkpoint: bool = False, exact: bool = False) -> dict:
    """Steps of the library; `exact`: with the published patch projection and edge term."""
    return {"seconds": _seconds(step_of(size, amp, checkpoint, exact), repeats)}


def step_of(size: list[int], amp: bool = False, checkpoint: bool = False, exact: bool = False) -> Callable[[], None]:
    """One step of the library, to be taken as often as one likes."""
    pair = _pair(size)
    img_size = size if exact else None
    network = FuseNet(len(size), 3, img_size=img_size, use_checkpoint=checkpoint).train()
    loss = FuseNetLoss(edge_mode="published" if exact else "soft")
    optimizer = torch.optim.SGD(network.parameters(), lr=0.005, momentum=0.9)

    def one() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16) if amp else nullcontext():
            output = network(*pair)
        loss(output).backward()
        optimizer.step()

    return one


def published_step(method: str, form: str, repeats: int, side: int | None = None) -> dict[str, Any]:
    """Steps of a method of `benchmarks.steps`, in the library's published form or as transcribed."""
    step, seconds, cpu_seconds = build(method, form, side), [], []
    for _ in range(repeats):
        start = time.process_time()
        seconds += _seconds(step, 1)
        cpu_seconds.append(time.process_time() - start)
    return {"seconds": seconds, "cpu_seconds": cpu_seconds}


def fit(side: int, images: int, steps: int, at_once: int = 1, amp: bool = False, checkpoint: bool = False) -> dict:
    """Whole fits of `PerImageInferer`, none of which ends early; seconds for each image."""
    batch = _pair([side, side], images)[0]
    inferer = PerImageInferer(steps=steps, min_clusters=0, at_once=at_once, amp=amp)
    network = FuseNet(use_checkpoint=checkpoint)
    return {"seconds": [seconds / images for seconds in _seconds(lambda: inferer(batch, network), 2)]}


def forward(side: int, repeats: int) -> dict[str, Any]:
    """A trained network as it is: no fit."""
    image, _ = _pair([side, side])
    network, inferer = FuseNet(), PerImageInferer(steps=0)
    return {"seconds": _seconds(lambda: inferer(image, network), repeats)}


def student(side: int, repeats: int) -> dict[str, Any]:
    """The network that `distillation` trains by default: one image, mirror images included."""
    parser = ConfigParser()
    parser.read_config(str(BUNDLE / "distill.json"))
    parser["student_size"] = [side, side]
    network, inferer = (parser.get_parsed_content(name) for name in ("student_def", "student#inferer"))
    image, _ = _pair([side, side])
    network.eval()
    with torch.inference_mode():
        return {"seconds": _seconds(lambda: inferer(image, network), repeats)}


def default(images: int) -> dict[str, Any]:
    """From the file to the mask with the shipped inference config, for so many of scikit-image's sample images."""
    parser = ConfigParser()
    parser.read_config(str(BUNDLE / "inference.json"))
    parser.update({"inferer#progress": False, "device": "$torch.device('cpu')", "amp": False})
    preprocessing, postprocessing, network, inferer = (
        parser.get_parsed_content(name) for name in ("preprocessing", "postprocessing", "network_def", "inferer")
    )
    items = sample_images()

    def one(item: dict[str, Any]) -> None:
        sample = preprocessing(dict(item))
        with torch.no_grad():
            sample["pred"] = inferer(sample["image"].unsqueeze(0), network)[0]
        postprocessing(sample)

    times, steps = [], []
    for index in range(images):
        times += _seconds(lambda index=index: one(items[index % len(items)]), 1)
        steps.append(inferer.record[0].steps)
    return {"seconds": times, "steps": steps}


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[1]))))
