"""What a step of FuseNet spends its time on, by kind of operation: `python -m benchmarks.shares`.

Steps at 256 x 256 with the published patch projection and edge term, in float32 and in bfloat16, on one thread, seen by
torch's profiler. Writes `shares.md` into `benchmarks/results/`. Half a minute on an idle core. Timings decide no test.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.__main__ import RESULTS, machine
from benchmarks.cases import step_of

KINDS = {  # of the first one whose words are in its name an operation is
    "normalisation": ("norm",),
    "convolutions": ("conv",),
    "matrix products": ("mm", "linear", "matmul"),
    "softmax, GELU, exponentials": ("softmax", "gelu", "exp", "log", "tanh", "threshold", "relu"),
    "dropout and its random numbers": ("dropout", "bernoulli", "rand", "uniform"),
    "copies and casts": ("copy", "cat", "clone", "contiguous", "stack", "flip", "fill", "zero", "empty"),
    "sums and other arithmetic": ("add", "sum", "mul", "sub", "div", "mean", "pow", "sqrt", "neg", "max", "min"),
}
OTHERS = "others"
REPEATS = 3


def kind_of(operation: str) -> str:
    """The kind of an operation, by its name in a profile."""
    name = operation.removeprefix("aten::").lower()
    return next((kind for kind, words in KINDS.items() if any(word in name for word in words)), OTHERS)


def shares(amp: bool) -> tuple[float, dict[str, float]]:
    """Seconds of a step, and the part of each kind of operation."""
    step = step_of([256, 256], amp=amp, exact=True)
    step()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(REPEATS):
            step()
    spent = dict.fromkeys((*KINDS, OTHERS), 0.0)
    for event in profiled.key_averages():
        spent[kind_of(event.key)] += event.self_cpu_time_total / 1e6 / REPEATS
    seconds = sum(spent.values())
    return seconds, {kind: part / seconds for kind, part in spent.items()}


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shares", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    folder = parser.parse_args().results
    torch.set_num_threads(1)
    load = f"Load average before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores."
    (exact, parts), (narrow, narrow_parts) = shares(amp=False), shares(amp=True)
    lines = [f"`python -m benchmarks.shares`: seconds of a step, the profiler's own included. {load}", *machine(1), ""]
    lines += [f"| kind of operation | float32, {exact:.2f} s | bfloat16, {narrow:.2f} s |", "|---|---|---|"]
    for kind in sorted(parts, key=parts.__getitem__, reverse=True):
        seconds = parts[kind] * exact, narrow_parts[kind] * narrow
        lines.append(
            f"| {kind} | {seconds[0]:.2f} s, {parts[kind]:.0%} | {seconds[1]:.2f} s, {narrow_parts[kind]:.0%} |"
        )
    text = "\n".join([*lines, ""])
    (folder / "shares.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
