"""`python -m benchmarks`: how long the library takes beside the published formulas as they are written down.

Every case runs in a process of its own, one after the other; the step time of a case is the fastest of its steps, which
other programs on the machine disturb least. Writes `speed.csv`, `speed.md` and `speed.png` into `benchmarks/results/`.
About ten minutes on two cores. Timings decide no test.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import monai
import torch
from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"
TRANSCRIPTION = "transcription"
FIT_STEPS = 50  # of the published procedure

SIDES = (64, 128, 256, 512)
CASES: dict[str, dict[str, Any]] = {
    TRANSCRIPTION: {"what": "transcription", "side": 256, "repeats": 5},
    "exact step, float32": {"what": "step", "size": [256, 256], "repeats": 8, "exact": True},
    "exact step, bfloat16": {"what": "step", "size": [256, 256], "repeats": 8, "exact": True, "amp": True},
    "step, bfloat16": {"what": "step", "size": [256, 256], "repeats": 8, "amp": True},
    "fit, bfloat16": {"what": "fit", "side": 256, "images": 1, "steps": 4, "amp": True},
    "fit, bfloat16, checkpointing": {
        **{"what": "fit", "side": 256, "images": 1, "steps": 4},
        **{"amp": True, "checkpoint": True},
    },
    "default, file to mask": {"what": "default", "images": 4},
    "feed-forward": {"what": "forward", "side": 256, "repeats": 5},
    "distilled network": {"what": "student", "side": 256, "repeats": 10},
    **{f"step, float32, {side}": {"what": "step", "size": [side, side], "repeats": 4} for side in SIDES},
    **{f"step, bfloat16, {side}": {"what": "step", "size": [side, side], "repeats": 4, "amp": True} for side in SIDES},
    **{
        f"step, float32, checkpointing, {side}": {
            **{"what": "step", "size": [side, side], "repeats": 2 if side > 512 else 3},
            "checkpoint": True,
        }
        for side in (*SIDES, 1024)
    },
    "step, float32, checkpointing, 128 x 128 x 64": {
        **{"what": "step", "size": [128, 128, 64], "repeats": 2},
        "checkpoint": True,
    },
    **{
        f"{images} images, 64, one by one": {"what": "fit", "side": 64, "images": images, "steps": 10}
        for images in (1, 4, 8)
    },
    **{
        f"{images} images, 64, at once": {"what": "fit", "side": 64, "images": images, "steps": 10, "at_once": images}
        for images in (4, 8)
    },
    "transcription again": {"what": "transcription", "side": 256, "repeats": 4},
}


def machine(threads: int | None = None) -> list[str]:
    """What the measurements were made on, and with how many threads (`None`: as many as torch takes here)."""
    threads = torch.get_num_threads() if threads is None else threads
    model = platform.processor() or platform.machine()
    if os.path.isfile("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), model)
    return [
        f"{datetime.date.today():%Y-%m-%d}, {model}, {threads} thread{'s' * (threads != 1)}, no GPU used",
        f"Python {platform.python_version()}, torch {torch.__version__}, monai {monai.__version__}",
    ]


def run(case: dict[str, Any], threads: int | None = None) -> dict[str, Any]:
    """Measures one case in a process of its own, on so many threads (`None`: as many as torch takes)."""
    command = [sys.executable, "-m", "benchmarks.cases", json.dumps(case)]
    root = Path(__file__).parents[1]
    env = {**os.environ, **({} if threads is None else {"OMP_NUM_THREADS": str(threads)})}
    process = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=root, env=env, check=False)
    if process.returncode:
        raise SystemExit(f"error: {case} failed:\n{process.stderr.splitlines()[-1]}")
    return json.loads(process.stdout.splitlines()[-1])


def table(results: dict[str, dict[str, Any]]) -> str:
    """Seconds, ratios to the transcription and memory as Markdown."""
    transcribed = min(results[TRANSCRIPTION]["seconds"] + results["transcription again"]["seconds"])
    lines = ["| case | seconds | of a transcription step | peak memory, MiB |", "|---|---|---|---|"]
    for name, result in results.items():
        seconds = min(result["seconds"])
        lines.append(f"| {name} | {seconds:.3f} | 1/{transcribed / seconds:.1f} | {result['peak_mib']:.0f} |")
    whole = results["default, file to mask"]
    mean = sum(whole["seconds"]) / len(whole["seconds"])
    lines += [
        "",
        f"Default fit, from file to mask, mean of {len(whole['seconds'])} sample images ({whole['steps']} steps): "
        f"{mean:.2f} s, 1/{FIT_STEPS * transcribed / mean:.0f} of {FIT_STEPS} transcription steps at 256 x 256.",
    ]
    return "\n".join(lines)


def plot(results: dict[str, dict[str, Any]]) -> Figure:
    """How time and memory of a step grow with the image, and time with the number of images."""
    figure = Figure(figsize=(13, 4.2), layout="constrained", dpi=100)
    time_axes, memory_axes, images_axes = figure.subplots(1, 3)
    for kind in ("float32", "bfloat16", "float32, checkpointing"):
        named = {name: result for name, result in results.items() if name.startswith(f"step, {kind}, ")}
        points = [
            (int(name.rsplit(" ", 1)[1]), min(result["seconds"]), result["peak_mib"])
            for name, result in named.items()
            if " x " not in name and name.removeprefix(f"step, {kind}, ").isdigit()
        ]
        sides, seconds, memory = zip(*points, strict=True)
        time_axes.loglog(sides, seconds, "o-", label=kind)
        memory_axes.loglog(sides, memory, "o-", label=kind)
    time_axes.loglog([256], [min(results[TRANSCRIPTION]["seconds"])], "k*", markersize=12, label="transcription")
    memory_axes.loglog([256], [results[TRANSCRIPTION]["peak_mib"]], "k*", markersize=12, label="transcription")
    time_axes.set(title="one step", xlabel="pixels a side", ylabel="seconds")
    memory_axes.set(title="peak memory, imports included", xlabel="pixels a side", ylabel="MiB")
    for how in ("one by one", "at once"):
        points = [
            (int(name.split(" ")[0]), min(result["seconds"]))
            for name, result in results.items()
            if name.endswith(f"64, {how}")
        ]
        images_axes.plot(*zip(*points, strict=True), "o-", label=how)
    images_axes.set(title="10 steps at 64 x 64", xlabel="images", ylabel="seconds an image", ylim=(0, None))
    for axes in (time_axes, memory_axes):
        axes.set_xticks((64, 128, 256, 512, 1024), ("64", "128", "256", "512", "1024"))
        axes.minorticks_off()
    for axes in (time_axes, memory_axes, images_axes):
        axes.grid(color="#e4e8ee")
        axes.legend()
    return figure


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    folder = parser.parse_args().results
    results = {}
    for name, case in CASES.items():
        results[name] = run(case)
        print(f"{name}: {min(results[name]['seconds']):.3f} s, {results[name]['peak_mib']:.0f} MiB", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "speed.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "fastest_seconds", "all_seconds", "peak_mib"])
        for name, result in results.items():
            times = " ".join(f"{seconds:.4f}" for seconds in result["seconds"])
            writer.writerow([name, f"{min(result['seconds']):.4f}", times, f"{result['peak_mib']:.0f}"])
    text = "\n".join([*machine(), "", table(results), ""])
    (folder / "speed.md").write_text(text, encoding="utf-8")
    plot(results).savefig(folder / "speed.png")
    print(text)


if __name__ == "__main__":
    main()
