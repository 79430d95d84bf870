"""What the sections of `benchmarks.gpu` share: cases, the clock, processes that end with it, and pictures."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

ROOT = Path(__file__).parents[1]
DRAWN = 200  # pictures of a folder; more of them are these again
Found = tuple[float, str]  # a figure, and what is to be said of it


class Case(NamedTuple):
    """A measurement: what it takes in seconds on a GPU at most, so that it is not begun too late."""

    name: str
    measure: Callable[[], Found]
    unit: str
    seconds: float
    target: str = ""


class Job(NamedTuple):
    device: torch.device
    tiny: bool
    end: float  # by time.perf_counter
    images: int
    scratch: Path

    def left(self) -> float:
        return self.end - time.perf_counter()

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def fastest(self, work: Callable[[], Any], times: int = 1, rounds: int = 4) -> float:
        """Seconds of `work`, done so many times in a row, which only their end waits for; the first round warms up."""
        seconds = []
        for _ in range(1 if self.tiny else rounds):
            self.wait()
            start = time.perf_counter()
            for _ in range(times):
                work()
            self.wait()
            seconds.append((time.perf_counter() - start) / times)
        return min(seconds)

    def run(self, command: Sequence[str]) -> tuple[float, str]:
        """Seconds of a process, and what it printed; it and all that it started end with the time that is left."""
        torch.cuda.empty_cache()  # what this process keeps for later, the other one may need
        start = time.perf_counter()
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "errors": "replace"}
        with subprocess.Popen(command, cwd=ROOT, env=env, text=True, start_new_session=True, **pipes) as process:
            try:
                text, _ = process.communicate(timeout=max(1.0, self.left()))
            except BaseException as error:
                os.killpg(process.pid, signal.SIGKILL)
                if isinstance(error, subprocess.TimeoutExpired):
                    raise RuntimeError(f"stopped after {error.timeout:.0f} s, when time was over") from None
                raise
        if process.returncode:
            lines = [line for line in re.split(r"[\r\n]+", text) if line.strip()]
            told = next((line for line in reversed(lines) if "rror:" in line), lines[-1] if lines else "no output")
            raise RuntimeError(f"status {process.returncode}: {told.strip()}")
        return time.perf_counter() - start, text

    def bundle(self, run_id: str, files: Sequence[str], program: Sequence[str] = (), **options: Any) -> list[str]:
        """The command line of a workflow of the bundle, small where all is tiny."""
        if self.tiny:
            options |= {"network_def#features": 4, "working_size": [24, 24]}
        command = [sys.executable, *program, "-m", "monai.bundle", "run", run_id, "--config_file", str(list(files))]
        return command + [word for key, value in options.items() for word in (f"--{key}", str(value))]


def pictures(job: Job, count: int, side: int) -> torch.Tensor:
    """Dark discs of different sizes on noisy bright ground, (count, 3, side, side), values in [0, 1]."""
    return torch.stack([_picture(index, side) for index in range(count)]).to(job.device)


def _picture(index: int, side: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(index)
    place = torch.linspace(-1, 1, side)
    inside = (place[:, None] ** 2 + place**2).sqrt() < 0.2 + 0.5 * torch.rand(1, generator=generator)
    colours = torch.tensor([0.85, 0.7, 0.65]).view(3, 1, 1)
    return (colours - 0.4 * inside + 0.04 * torch.randn(3, side, side, generator=generator)).clamp(0, 1)


def draw_folder(job: Job, count: int, side: int) -> Path:
    """A folder of PNG files."""
    from PIL import Image

    folder = job.scratch / f"images{count}"
    folder.mkdir(exist_ok=True)
    for index in range(count):
        path = folder / f"image{index:04}.png"
        if index >= DRAWN:
            os.link(folder / f"image{index % DRAWN:04}.png", path)
        else:
            pixels = (255 * _picture(index, side)).byte().permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(path, compress_level=1)
    return folder
