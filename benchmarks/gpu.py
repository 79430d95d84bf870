"""What the library does on a GPU, in one run of at most eight minutes: `python -m benchmarks.gpu OUT`.

Tests that need a GPU, the agreement of GPU and CPU, step times (eager, bfloat16, compiled, as a CUDA graph), many fits
at once, a folder from end to end, distillation, and two processes over NCCL. A package that is missing costs the
measurements that need it, which are skipped by name; without ITK and nibabel these are the folder, the distillation and
the processes. Writes `gpu.csv` and `gpu.md` into OUT, anew after each row. `--device cpu --tiny` checks this program
where there is no GPU: its figures mean nothing.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import os
import platform
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.gpu_job import ROOT, Case, Found, Job, pictures
from benchmarks.gpu_workflows import distillation, folder, processes
from monai_fusenet.shipped import config_files

GUARDED = (
    "tests/networks/test_networks_in_half_precision.py",
    "tests/networks/test_deformable.py",
    "tests/losses/test_losses_in_half_precision.py",
    "tests/inferers/test_fits_in_half_precision.py",
    "tests/inferers/test_fit_of_any_method.py",
    "tests/inferers/test_per_image.py",
)


class Row(NamedTuple):
    section: str
    case: str
    value: str = ""
    unit: str = ""
    target: str = ""
    note: str = ""


def tests(job: Job) -> Iterator[Case]:
    """Tests that are guarded for a GPU."""
    importlib.import_module("pytest")

    def count() -> Found:
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
        files = GUARDED[:1] if job.tiny else GUARDED
        process = [*command, "-W", "ignore", "-k", "cuda or gpu", *files]
        try:
            _, text = job.run(["sh", "-c", '"$@"; test $? -lt 2', "sh", *process])  # failed tests are a figure, too
        except RuntimeError as error:
            raise RuntimeError(f"pytest: {error}") from error
        counts = {what: int(number) for number, what in re.findall(r"(\d+) (passed|failed|skipped|errors?)\b", text)}
        failures = re.findall(r"^(?:FAILED|ERROR) (.*)$", text, re.MULTILINE)
        others = [f"{counts.get(what, 0)} {what}" for what in ("failed", "skipped")]
        return counts.get("passed", 0), "; ".join([", ".join(others), *failures[:3]])

    yield Case("tests guarded for a GPU", count, "passed", 90)


def parity(job: Job) -> Iterator[Case]:
    """The same weights and images on both devices."""
    fusenet, losses = (importlib.import_module(f"monai_fusenet.{name}") for name in ("networks", "losses"))
    side = 24 if job.tiny else 128

    def results(device: torch.device, dtype: torch.dtype) -> tuple[list[torch.Tensor], ...]:
        torch.manual_seed(0)
        network = fusenet.FuseNet(features=4 if job.tiny else 64, dropout=0.0).train().to(device, dtype)
        pair = torch.rand(2, 1, 3, side, side).to(device, dtype).unbind()
        output = network(*pair)
        losses.FuseNetLoss()(output).backward()
        gradients = [one.grad for one in network.parameters() if one.grad is not None]
        return [output.scores.detach().cpu()], [one.cpu() for one in gradients]

    def deviation(which: int, dtype: torch.dtype, tf32: bool) -> Found:
        before = torch.backends.cudnn.allow_tf32
        torch.backends.cudnn.allow_tf32 = tf32
        try:
            here, there = results(job.device, dtype)[which], results(torch.device("cpu"), dtype)[which]
        finally:
            torch.backends.cudnn.allow_tf32 = before
        largest = max(one.abs().max().item() for one in there)
        farthest = max((one - other).abs().max().item() for one, other in zip(here, there, strict=True))
        return farthest / largest, "largest difference, divided by the largest value"

    forms = (("float64", torch.float64, False), ("float32", torch.float32, False))
    for name, dtype, tf32 in (*forms, ("float32, convolutions in TF32", torch.float32, True)):
        for which, what in enumerate(("scores", "gradient")):
            yield Case(
                f"{what}, {name}, {side} x {side}",
                lambda which=which, dtype=dtype, tf32=tf32: deviation(which, dtype, tf32),
                "relative",
                20,
            )


def step_of(job: Job, side: int, amp: bool = False, compiled: bool = False) -> Callable[[], torch.Tensor]:
    """A step of FuseNet: network, loss, backward pass and SGD; it returns the loss."""
    networks, losses = (importlib.import_module(f"monai_fusenet.{name}") for name in ("networks", "losses"))
    torch.manual_seed(0)
    pair = torch.rand(2, 1, 3, side, side, device=job.device).unbind()
    network = networks.FuseNet(features=4 if job.tiny else 64).train().to(job.device)
    loss = losses.FuseNetLoss()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.005, momentum=0.9)

    def forward() -> torch.Tensor:
        # Casts that autocast remembers would hide the updates of the weights from a graph.
        with torch.autocast(job.device.type, torch.bfloat16, enabled=amp, cache_enabled=False):
            return loss(network(*pair))

    if compiled:
        torch.compiler.reset()
        forward = torch.compile(forward, backend="eager" if job.tiny else "inductor")

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        value = forward()
        value.backward()
        optimizer.step()
        return value.detach()

    return step


def time_of_step(job: Job, step: Callable[[], torch.Tensor], graph: bool = False) -> Found:
    """Milliseconds of a step, many of which run before anybody waits; the loss must fall."""
    start = time.perf_counter()
    first = step().item()
    note = f"first step {time.perf_counter() - start:.1f} s, loss {first:.3f}"
    one = captured(job, step) if graph else step
    milliseconds = 1000 * job.fastest(one, 2 if job.tiny else 50)
    return milliseconds, f"{note}, and {one().item():.3f} at the end"


def waits(job: Job, step: Callable[[], torch.Tensor]) -> Found:
    """Whether anything in a step waits for the GPU; if so, where first."""
    if job.device.type != "cuda":
        raise RuntimeError("of a GPU only")
    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    except RuntimeError as error:
        frames = traceback.extract_tb(error.__traceback__)
        where = next(one for one in reversed(frames) if one.filename.startswith(str(ROOT)))
        return 1, f"{str(error).splitlines()[0]}, {Path(where.filename).name}:{where.lineno}"
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return 0, "nothing in it waits for the device"


def steps(job: Job) -> Iterator[Case]:
    """Steps of FuseNet, and whole fits."""
    importlib.import_module("monai_fusenet.losses")
    for side in (24,) if job.tiny else (128, 256):
        size = f"{side} x {side}"
        for name, amp in (("", False), ("bfloat16, ", True)):

            def eager(side: int = side, amp: bool = amp, graph: bool = False) -> Found:
                return time_of_step(job, step_of(job, side, amp), graph)

            yield Case(f"eager, {name}{size}", eager, "ms", 15)
            yield Case(f"CUDA graph, {name}{size}", partial(eager, graph=True), "ms", 15)
        yield Case(f"waits for the device, {size}", lambda side=side: waits(job, step_of(job, side)), "waits", 10)
        compiled = partial(step_of, job, side, compiled=True)
        yield Case(f"torch.compile, {size}", lambda make=compiled: time_of_step(job, make()), "ms", 75)
    yield from fits(job)


def captured(job: Job, step: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """The step as one CUDA graph, which is replayed; it returns the loss, always in the same memory."""
    if job.device.type != "cuda":
        raise RuntimeError("CUDA graphs are of a GPU only")
    stream = torch.cuda.Stream(job.device)
    stream.wait_stream(torch.cuda.current_stream(job.device))
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    job.wait()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        loss = step()

    def replay() -> torch.Tensor:
        graph.replay()
        return loss

    return replay


def fits(job: Job) -> Iterator[Case]:
    """Whole fits of one image by `FuseNetTrainer`, as `PerImageInferer` makes them, none of which ends early."""
    fit = importlib.import_module("monai_fusenet.inferers.fit")
    inferer, network = inferer_of(job, steps=2 if job.tiny else 50, min_clusters=0)
    side = 24 if job.tiny else 256
    images = pictures(job, 1, side)

    def whole(amp: bool) -> Found:
        inferer.amp = amp
        return 1000 * job.fastest(lambda: inferer(images, network)), f"{inferer.record[0].steps} steps"

    def view() -> Found:
        draw = partial(fit.draw_views, inferer.augmentation, images, [side, side], 0)
        return 1000 * job.fastest(draw), "part of the fit: drawn on the CPU"

    size = f"{side} x {side}"
    yield Case(f"fit, {size}", lambda: whole(False), "ms", 15, "50")
    yield Case(f"fit, bfloat16, {size}", lambda: whole(True), "ms", 15, "50")
    yield Case(f"second view of a fit, {size}", view, "ms", 5)


def inferer_of(job: Job, **options: Any) -> tuple[Any, Any]:
    inferers, networks = (importlib.import_module(f"monai_fusenet.{name}") for name in ("inferers", "networks"))
    importlib.import_module("monai_fusenet.transforms.augment_pair")
    return inferers.PerImageInferer(**options), networks.FuseNet(features=4 if job.tiny else 64).to(job.device)


def at_once(job: Job) -> Iterator[Case]:
    """Many images in one pass, at the schedule of the bundle."""
    defaults = json.loads(Path(config_files("inference")[0]).read_text(encoding="utf-8"))
    side, count, most = (24, 2, 2) if job.tiny else (128, 64, 64)
    options = {name: defaults[name] for name in ("steps", "lr", "min_clusters", "first_step")}
    options |= {"steps": defaults["fit_steps"], "resolutions": [side // 2, side], "final_steps": 0}
    inferer, network = inferer_of(job, **options, amp=job.device.type == "cuda")
    images = pictures(job, count, side)

    def measure(together: int) -> Found:
        inferer.at_once = together
        inferer(images[:together], network)  # warms up
        job.wait()
        if job.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(job.device)
        start = time.perf_counter()
        inferer(images, network)
        job.wait()
        seconds = time.perf_counter() - start
        steps = sum(record.steps for record in inferer.record) / count
        note = f"{steps:.1f} steps on average"
        if job.device.type == "cuda":
            note += f"; peak {torch.cuda.max_memory_allocated(job.device) / 2**30:.2f} GiB"
        return count / seconds, note

    for together in [2**power for power in range(most.bit_length())]:
        yield Case(f"at_once {together}, {count} images", lambda n=together: measure(n), "images/s", 20)


SECTIONS: dict[str, Callable[[Job], Iterator[Case]]] = {
    one.__name__: one for one in (tests, parity, steps, at_once, folder, distillation, processes)
}


def rows_of(job: Job, name: str) -> Iterator[Row]:
    """The rows of a section; what cannot be measured says why, and the others go on."""
    cases = SECTIONS[name](job)
    while True:
        case = None
        try:
            case = next(cases, None)
            if case is None:
                return
            if job.left() < case.seconds:
                raise RuntimeError(f"{max(0.0, job.left()):.0f} s are left, and it may take {case.seconds:.0f}")
            value, note = case.measure()
            yield Row(name, case.name, f"{value:.4g}", case.unit, case.target, note)
        except Exception as error:  # a lent machine does not wait for a mended program
            kind = "skipped" if isinstance(error, ImportError | RuntimeError) else f"failed: {type(error).__name__}"
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            yield Row(name, case.name if case else "all", note=f"{kind}: {reason.strip()}")
            if case is None:
                return


def machine(device: torch.device) -> str:
    """What the measurements are made on."""
    names = [platform.processor() or platform.machine()]
    if device.type == "cuda":
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    cuda = f", CUDA {torch.version.cuda}" if device.type == "cuda" else ""
    versions = f"Python {platform.python_version()}, torch {torch.__version__}{cuda}"
    return f"{', '.join(names)}; {os.cpu_count()} CPU cores; {versions}"


def write(out: Path, rows: Sequence[Row], what: str) -> None:
    """The rows as `gpu.csv` and `gpu.md`."""
    with (out / "gpu.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([Row._fields, *rows])
    lines = [what, "", f"| {' | '.join(Row._fields)} |", "|---" * len(Row._fields) + "|"]
    lines += [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]
    (out / "gpu.md").write_text("\n".join([*lines, ""]), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the results")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="small networks and images, to check this program")
    parser.add_argument(
        "--seconds", type=float, default=480, help="nothing begins that would run longer (default: 480)"
    )
    parser.add_argument("--images", type=int, default=200, help="of the folder (default: 200; 1,000 if time is left)")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="default: all")
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no GPU: torch.cuda.is_available() is False")
    device, end = torch.device(given.device), time.perf_counter() + given.seconds
    what = machine(device)
    print(what, flush=True)
    given.out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        job = Job(device, given.tiny, end, given.images, Path(scratch))
        for name in given.sections:
            for row in rows_of(job, name):
                rows.append(row)
                print(" | ".join(filter(None, row)), flush=True)
                write(given.out, rows, what)  # a run that is cut off leaves what it has


if __name__ == "__main__":
    main()
