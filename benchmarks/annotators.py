"""Simulated annotators at the page: `python -m benchmarks.annotators clicks DATASET OUT --preset skin`.

Both measurements start the server as README says, on copies of the images alone, and send the page's own requests; the
truth moves the annotator's hand and scores, and the server never sees it.

- `clicks`: how many clicks a mask of Dice 0.9 takes, at most 20 (NoC@90): on an image without a mask; with the mask
  that the page proposes, where no click counts if that is as good; and by the random walker of scikit-image. Each click
  is in the middle of the largest error. A row for each image goes to OUT/noc.csv, and the table is printed.
- `loop`: five images are accepted after at most three clicks each, "Propose all others" is pressed, and all others are
  scored. A row goes to OUT/loop.csv.
- `latency`: how long a click takes on a cached image of 1024 x 768 pixels; printed.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import requests
from PIL import Image

from benchmarks.accepted import draw
from benchmarks.clicks import Method, Points, annotate, dice, walk_randomly
from benchmarks.quality import add_rows, read_rows, truth
from monai_fusenet.clicks import next_click
from monai_fusenet.data import ScaleByPercentilesd, find_images, load_image, sample_images

MOST, ENOUGH = 20, 0.9
CLICKS = 3  # until an annotator of the loop accepts
NOC = ("set", "preset", "seed", "file", "proposed", "nothing", "proposal", "walker", "milliseconds")
LOOP = ("set", "preset", "seed", "images", "given", "clicks", "dice", "median", "below_half", "expected")
LOOP += ("seconds_accepting", "seconds_proposing")


class Page:
    """What the page asks the server for, and its images by name."""

    def __init__(self, address: str, folder: Path) -> None:
        self.address, self.folder = address, folder
        self.milliseconds: list[float] = []

    def get(self, what: str, **query: Any) -> requests.Response:
        """An answer, which is awaited."""
        answer = requests.get(f"{self.address}/annotate/{what}", params=query, timeout=600)
        answer.raise_for_status()
        return answer

    def mask(self, image: str) -> np.ndarray:
        """The mask that is shown (*spatial), bool; one is proposed where there is none."""
        shape = self.get("image", image=image).json()["shape"]
        return np.frombuffer(self.get("mask", image=image).content, dtype=np.uint8).reshape(shape) > 0

    def clicker(self, image: str, from_mask: bool) -> Method:
        """From clicks on an image to a mask."""
        shape = self.get("image", image=image).json()["shape"]

        def mask(foreground: Points, background: Points, *_: Any) -> np.ndarray:
            body = {"image": image, "foreground": foreground, "background": background, "from_mask": from_mask}
            start = time.perf_counter()
            answer = requests.post(f"{self.address}/annotate/click", json=body, timeout=600)
            self.milliseconds.append(1000 * (time.perf_counter() - start))
            answer.raise_for_status()
            return np.frombuffer(answer.content, dtype=np.uint8).reshape(shape) > 0

        return mask

    def accept(self, image: str, mask: np.ndarray) -> None:
        """Accepts a mask."""
        body = mask.astype(np.uint8).tobytes()
        requests.post(f"{self.address}/annotate/accept", params={"image": image}, data=body).raise_for_status()

    def propose_all(self) -> Mapping[str, Any]:
        """Presses the button, and waits for the end; returns the last status."""
        requests.post(f"{self.address}/annotate/propose", timeout=600).raise_for_status()
        while (status := self.get("status").json())["job"]["running"]:
            time.sleep(1)
        return status


@contextmanager
def served(items: Sequence[Mapping[str, Any]], preset: str, seed: int) -> Iterator[Page]:
    """The page of a server on copies of images, in a process of its own with an app folder that is thrown away."""
    with tempfile.TemporaryDirectory() as scratch, socket.socket() as free:
        studies = Path(scratch, "studies")
        studies.mkdir()
        for item in items:
            shutil.copy(item["image"], studies)
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
        free.close()
        command = [sys.executable, "-m", "monai_fusenet.label", "--studies", str(studies), "--app", f"{scratch}/app"]
        command += ["--preset", preset, "--port", port, "--conf", "seed", str(seed)]
        with Path(scratch, "log").open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            page = Page(f"http://127.0.0.1:{port}", studies)
            while True:
                try:
                    page.get("status")
                    break
                except requests.ConnectionError:
                    if process.poll() is not None:
                        raise RuntimeError(Path(scratch, "log").read_text("utf-8", errors="replace")[-2000:]) from None
                    time.sleep(0.5)
            yield page
        finally:
            process.terminate()
            process.wait()


def scaled(path: str) -> np.ndarray:
    """An image (C, *spatial), in [0, 1] as the walker's weights want it."""
    return np.asarray(ScaleByPercentilesd("image")({"image": load_image(path)})["image"])


def number_of_clicks(scores: Sequence[float]) -> int:
    """The first click after which the mask is good enough; `MOST` where none is."""
    return next((count for count, score in enumerate(scores, start=1) if score >= ENOUGH), MOST)


def until_enough(method: Method, right: np.ndarray) -> list[float]:
    """Dice after each click on an image without a mask, until it is enough."""
    scores: list[float] = []
    clicks: dict[bool, Points] = {True: [], False: []}
    mask = np.zeros_like(right)
    while len(scores) < MOST and (not scores or scores[-1] < ENOUGH):
        click = next_click(right, mask)
        if click is None:
            break
        clicks[click[1]].append(click[0])
        mask = method(clicks[True], clicks[False])
        scores.append(dice(mask, right))
    return scores


def count_clicks(dataset: Path, out: Path, preset: str, seed: int, count: int) -> None:
    """Adds a row for each image of a sample."""
    items = draw(find_images(dataset), min(count, sum("label" in item for item in find_images(dataset))), seed=0)
    kind = {"set": dataset.name, "preset": preset, "seed": str(seed)}
    with served(items, preset, seed) as page:
        for item in items:
            right, name = truth(item), Path(item["image"]).name.split(".")[0]
            if not right.any():
                continue
            page.milliseconds.clear()
            proposed = page.mask(name)
            scores = until_enough(page.clicker(name, from_mask=False), right)
            row: dict[str, Any] = {**kind, "file": item["file"], "proposed": round(dice(proposed, right), 4)}
            row["nothing"] = number_of_clicks(scores)
            corrected, _ = annotate(page.clicker(name, from_mask=True), right, MOST, proposed)
            row["proposal"] = 0 if dice(proposed, right) >= ENOUGH else number_of_clicks(corrected)
            row["milliseconds"] = round(float(np.median(page.milliseconds)), 1)
            before = [one for one in read_rows(out / "noc.csv") if one["set"] == dataset.name]
            walked = [one["walker"] for one in before if one["file"] == item["file"]]  # whatever the seed
            walker = walk_randomly(scaled(item["image"]))
            row["walker"] = walked[0] if walked else number_of_clicks(until_enough(walker, right))
            add_rows(out / "noc.csv", NOC, [row])
            print(row, flush=True)


def annotate_five(dataset: Path, out: Path, preset: str, seed: int, count: int) -> None:
    """Adds the row of one loop."""
    items = [item for item in find_images(dataset) if "label" in item]
    items = draw(items, min(count, len(items)), seed=0)
    five = draw(items, 5, seed)
    names = {id(item): Path(item["image"]).name.split(".")[0] for item in items}
    given, clicks = [], []
    start = time.perf_counter()
    with served(items, preset, seed) as page:
        for item in five:
            right, name = truth(item), names[id(item)]
            best, used = page.mask(name), 0
            for from_mask, first in ((True, best), (False, None)):
                clicker, history = page.clicker(name, from_mask), []
                scores, history = annotate(clicker, right, CLICKS, first)
                place = int(np.argmax(scores))
                if scores[place] > dice(best, right):
                    best, used = clicker(*history[place]), place + 1
            page.accept(name, best)
            given.append(dice(best, right))
            clicks.append(used)
        accepted = time.perf_counter()
        status = page.propose_all()
        proposed = time.perf_counter()
        found = [dice(page.mask(names[id(item)]), truth(item)) for item in items if item not in five]
    row = {"set": dataset.name, "preset": preset, "seed": seed, "images": len(found)}
    row |= {"given": round(float(np.mean(given)), 4), "clicks": sum(clicks), "dice": round(float(np.mean(found)), 4)}
    row |= {"median": round(float(np.median(found)), 4), "below_half": int(np.sum(np.array(found) < 0.5))}
    row |= {"expected": status["expected_dice"], "seconds_accepting": round(accepted - start)}
    add_rows(out / "loop.csv", LOOP, [row | {"seconds_proposing": round(proposed - accepted)}])
    print(row, flush=True)


def measure_latency() -> None:
    """Prints the median answer to a click on a cached image."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "large.png")
        Image.open(sample_images()[0]["image"]).convert("RGB").resize((1024, 768)).save(path)
        with served([{"image": str(path)}], "generic", 0) as page:
            page.mask("large")
            click = page.clicker("large", from_mask=False)
            rows = np.random.default_rng(0).integers(0, (768, 1024), (41, 2)).tolist()
            for point in rows:
                click([tuple(point)], [])
            times = page.milliseconds[1:]
            print(f"median {np.median(times):.0f} ms, worst {np.max(times):.0f} ms of {len(times)} clicks, 1024 x 768")


def table(path: Path) -> str:
    """Means over images and seeds, as Markdown."""
    rows = read_rows(path)
    lines = ["| set | preset | images | seeds | page, from nothing | page, from the proposal | random walker | ms |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for name, preset in dict.fromkeys((row["set"], row["preset"]) for row in rows):
        own = [row for row in rows if (row["set"], row["preset"]) == (name, preset)]
        seeds = sorted({row["seed"] for row in own})
        cells = []
        for way in ("nothing", "proposal", "walker"):
            means = [np.mean([float(row[way]) for row in own if row["seed"] == seed]) for seed in seeds]
            failed = np.mean([float(row[way]) >= MOST for row in own])
            cells.append(f"{np.mean(means):.1f} ± {np.std(means):.1f} ({failed:.0%})")
        wait = np.median([float(row["milliseconds"]) for row in own])
        images = len({row["file"] for row in own})
        lines.append(f"| {name} | {preset} | {images} | {len(seeds)} | {' | '.join(cells)} | {wait:.0f} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.annotators", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=("clicks", "loop", "latency"))
    parser.add_argument("dataset", nargs="?", type=Path, help="folder of images and masks")
    parser.add_argument("out", nargs="?", type=Path, help="folder for the rows")
    parser.add_argument("--preset", default="generic")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--images", type=int, default=40, help="at most so many, drawn")
    given = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")  # the walker tells of seeds that it cannot reach
    if given.what == "latency":
        measure_latency()
        return
    if given.out is None:
        parser.error("expected DATASET and OUT")
    given.out.mkdir(parents=True, exist_ok=True)
    for seed in given.seeds:
        measure = count_clicks if given.what == "clicks" else annotate_five
        measure(given.dataset, given.out, given.preset, seed, given.images)
    if given.what == "clicks":
        print(table(given.out / "noc.csv"))


if __name__ == "__main__":
    main()
