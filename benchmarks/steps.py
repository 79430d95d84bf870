"""One published-size step of each method beside its formulas as they are written down: `python -m benchmarks.steps`.

The library's published form and the transcription begin with the same weights, on the same image. Each runs in a
process of its own, one after the other, on one thread; the fastest of its steps counts. Memory is the peak above what
the process held before the network was made. Writes `steps.csv` and `steps.md` into `benchmarks/results/`. About three
minutes on an idle core. Timings decide no test.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from benchmarks import transcription as fusenet
from benchmarks import transcription_feature_clustering as feature_clustering
from benchmarks import transcription_msformer as msformer
from benchmarks import transcription_s3net as s3net
from benchmarks.__main__ import RESULTS, machine, run
from monai_fusenet.losses import FeatureClusteringLoss, FuseNetLoss, MSFormerLoss, S3NetLoss, grey_values
from monai_fusenet.networks import FeatureClusteringNet, FuseNet, MSFormer, S3Net
from monai_fusenet.utils.scores import count_clusters

MOMENTUM = 0.9
COLOURS = torch.randint(0, 255, (100, 3), generator=torch.Generator().manual_seed(0))  # of S3-Net's labels
FORMS = ("ours", "transcription")
COLUMNS = ("method", "side", *(f"{form}_{what}" for what in ("cpu_s", "wall_s", "mib") for form in FORMS))
Step = Callable[[], tuple[float, ...]]


class Method(NamedTuple):
    """The published form of a method, twice: makers of networks for images of `side` x `side`, and their steps.

    `transcribed_step(network, optimizer, *views)` returns weighted terms and the number of clusters at its end.
    """

    side: int
    lr: float
    network: Callable[[int], Any]
    loss: Callable[[], Any]
    transcribed: Callable[[int], nn.Module]
    transcribed_step: Callable[..., tuple[float, ...]]
    two_views: bool = False


METHODS = {
    "FuseNet": Method(
        side=256,
        lr=0.005,
        network=lambda side: FuseNet(img_size=side),
        loss=lambda: FuseNetLoss(edge_mode="published"),
        transcribed=fusenet.TranscribedFuseNet,
        transcribed_step=fusenet.transcribed_step,
        two_views=True,
    ),
    "MS-Former": Method(
        side=257,
        lr=0.1,
        network=lambda side: MSFormer(img_size=side),
        loss=MSFormerLoss,
        transcribed=msformer.TranscribedMSFormer,
        transcribed_step=msformer.transcribed_step,
    ),
    "S3-Net": Method(
        side=256,
        lr=0.2,
        network=lambda side: S3Net(img_size=side, offsets="free", second_view=False),
        loss=lambda: S3NetLoss(
            transform_mode="published", spatial_mode="published", greys=grey_values(COLOURS).tolist()
        ),
        transcribed=lambda side: s3net.TranscribedS3Net(side, side),
        transcribed_step=lambda *arguments: s3net.transcribed_step(*arguments, COLOURS),
    ),
    "feature clustering": Method(
        side=257,
        lr=0.1,
        network=lambda side: FeatureClusteringNet(),
        loss=FeatureClusteringLoss,
        transcribed=lambda side: feature_clustering.TranscribedFeatureClustering(),
        transcribed_step=feature_clustering.transcribed_step,
    ),
}


def build(name: str, form: str, side: int | None = None) -> Step:
    """What makes one step of a method, "ours" or "transcription"; it returns terms and number of clusters."""
    method = METHODS[name]
    side = method.side if side is None else side
    torch.manual_seed(0)
    views = torch.rand(2 if method.two_views else 1, 1, 3, side, side).unbind()
    transcribed = method.transcribed(side).train()
    if form == "transcription":
        optimizer = torch.optim.SGD(transcribed.parameters(), method.lr, MOMENTUM)
        return lambda: method.transcribed_step(transcribed, optimizer, *views)
    network, loss = method.network(side).train(), method.loss()
    network.load_published_state_dict(transcribed.state_dict())
    return _our_step(network, loss, torch.optim.SGD(network.parameters(), method.lr, MOMENTUM), views[0], views[-1])


def _our_step(network: nn.Module, loss: Any, optimizer: torch.optim.Optimizer, *pair: torch.Tensor) -> Step:
    def step() -> tuple[float, ...]:
        optimizer.zero_grad()
        output = network(*pair)
        terms = loss.terms(output)
        terms.total.backward()
        optimizer.step()
        return (*(term.item() for term in terms[1:]), int(count_clusters(output.scores.detach())))

    return step


def row_of(name: str, steps: int, side: int | None = None) -> dict[str, Any]:
    """Measures both forms of a method, each in a process of its own."""
    row: dict[str, Any] = {"method": name, "side": METHODS[name].side if side is None else side}
    for form in FORMS:
        case = {"what": "published_step", "method": name, "form": form, "side": side, "repeats": steps}
        result = run(case, threads=1)
        row[f"{form}_cpu_s"] = round(min(result["cpu_seconds"]), 3)
        row[f"{form}_wall_s"] = round(min(result["seconds"]), 3)
        row[f"{form}_mib"] = round(result["peak_mib"] - result["start_mib"], 1)
    return row


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Seconds and memory of both forms, and their ratios, as Markdown."""
    lines = ["| method | image | ours, CPU s | transcription | ratio | ours, wall s | transcription | ratio "]
    lines[0] += "| ours, MiB | transcription | ratio |"
    lines.append("|---" * 11 + "|")
    for row in rows:
        cells = [row["method"], f"{row['side']} x {row['side']}"]
        for what, digits in (("cpu_s", 2), ("wall_s", 2), ("mib", 0)):
            ours, theirs = (row[f"{form}_{what}"] for form in FORMS)
            cells += [f"{ours:.{digits}f}", f"{theirs:.{digits}f}", f"**{ours / theirs:.2f}**"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steps", description=__doc__)
    parser.add_argument("methods", nargs="*", metavar="METHOD", help=f"some of {', '.join(METHODS)}; none: all")
    parser.add_argument("--steps", type=int, default=5, help="of each form, of which the fastest counts")
    parser.add_argument("--side", type=int, help="of the image, in the place of the published one")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    given = parser.parse_args(arguments)
    unknown = sorted(set(given.methods) - set(METHODS))
    if unknown:
        parser.error(f"unknown method {unknown[0]}: choose from {', '.join(METHODS)}")
    load = f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    rows = []
    for name in given.methods or METHODS:
        rows.append(row_of(name, given.steps, given.side))
        print(rows[-1], flush=True)
    given.results.mkdir(parents=True, exist_ok=True)
    with (given.results / "steps.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    what = f"`python -m benchmarks.steps --steps {given.steps}`: the fastest step counts. Load average before: {load}."
    text = "\n".join([what, *machine(threads=1), "", table(rows), ""])
    (given.results / "steps.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
