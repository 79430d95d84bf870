"""Background work on the whole folder, in processes that MONAI Label starts, and its progress."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from monailabel.utils.async_tasks.task import AsyncTask

from monai_fusenet.label.annotations import Annotations, State

__all__ = ["BusyError", "Jobs"]

POLL = 0.5  # seconds
FINISHED = re.compile(r"=> (\d+) / (\d+)\s*$")  # how MONAI Label's batch counts
BAR = re.compile(r"^(?P<what>[\w -]+?):? *\[(?P<done>\d+)/(?P<total>\d+)\]")  # how Ignite's bar does
FAILED = re.compile(r"(?P<image>\S[^:]*?) failed: (?P<reason>.+)$")  # how the batch names an image
FAULT = re.compile(r"^[\w.]*(?:Error|Exception): (?P<reason>.+)$")
FITTING, TRAINING, PROPOSING = "fitting images", "training", "proposing masks"


class BusyError(RuntimeError):
    """Another job runs."""


@dataclass
class Progress:
    """The progress of a job.

    Attributes:
        what: the job in words; "" if none has run.
        running: whether it still does.
        done: how many images or steps of `total`.
        total: number of images or steps; 0 if unknown.
        error: why it ended early; "" if it did not.
        seconds: since it began.
        note: what a person should know of its result; "" if nothing.
    """

    what: str = ""
    running: bool = False
    done: int = 0
    total: int = 0
    error: str = ""
    seconds: float = 0.0
    note: str = ""


class Jobs:
    """One job at a time.

    Args:
        annotations: the images and their states.
        expected_dice: tells that of masks of the trained network; `None` if unknown.
    """

    def __init__(self, annotations: Annotations, expected_dice: Callable[[], float | None]) -> None:
        self._annotations = annotations
        self._expected_dice = expected_dice
        self._progress = Progress()
        self._begun = 0.0
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def progress(self) -> dict[str, Any]:
        """The progress of the last job, see `Progress`."""
        if self._progress.running:
            self._progress.seconds = round(time.monotonic() - self._begun, 1)
        return asdict(self._progress)

    def fit_all(self) -> None:
        """Proposes masks for all images that have none, by a fit to each; raises `BusyError`."""
        self._start(lambda: self._batch("fusenet_mask", self._images("new"), FITTING))

    def propose_all(self) -> None:
        """Trains on the accepted masks, and proposes masks for all other images with the trained network.

        Proposals that are there already stay if they came nearer to the accepted masks than the network comes to those
        that it has not learnt from. Then only images without a proposal get one.

        Raises:
            BusyError: while another job runs.
        """

        def run() -> None:
            before = self._annotations.proposal_dice()
            self._follow("train", {"model": "fusenet_feedforward"}, TRAINING)
            expected = self._expected_dice()
            if before is None or expected is None or before < expected:
                self._batch("fusenet_feedforward", self._images("new", "proposed"), PROPOSING)
                return
            self._progress.note = (
                f"earlier proposals are kept: their Dice with the accepted masks is {before:.2f}, that of the trained "
                f"network {expected:.2f}"
            )
            self._batch("fusenet_feedforward", self._images("new"), PROPOSING)

        self._start(run)

    def stop(self) -> None:
        """Ends the running job, if any; its saved results stay."""
        self._stopped.set()

    def _start(self, run: Callable[[], None]) -> None:
        with self._lock:
            if self._progress.running:
                raise BusyError(f"the server is still {self._progress.what}: wait, or stop it first")
            self._progress, self._begun = Progress("starting", running=True), time.monotonic()
            self._stopped.clear()
        threading.Thread(target=self._guarded, args=(run,), daemon=True).start()

    def _guarded(self, run: Callable[[], None]) -> None:
        try:
            run()
        except Exception as error:  # a person reads it
            self._progress.error = str(error) or type(error).__name__
        self._progress.seconds = round(time.monotonic() - self._begun, 1)
        self._progress.running = False

    def _images(self, *states: State) -> list[str]:
        return [one["id"] for one in self._annotations.images() if one["state"] in states]

    def _batch(self, model: str, images: Sequence[str], what: str) -> None:
        if images:
            params = {"multi_gpu": False, "save_label": True, "label_tag": "original", "max_workers": 1}
            lines = self._follow("batch_infer", {"model": model, "images": list(images), **params}, what, len(images))
            self._annotations.refresh()
            left = [image for image in images if self._annotations.state(image) == "new"]
            told = {found["image"].split()[-1]: found["reason"] for line in lines if (found := FAILED.search(line))}
            if left:
                why = next((f"; {image}: {told[image]}" for image in left if image in told), "")
                raise RuntimeError(f"{len(left)} of {len(images)} images have no proposal{why}")

    def _follow(self, method: str, request: dict[str, Any], what: str, total: int = 0) -> list[str]:
        """Runs a task of MONAI Label's until it ends; returns what it said; raises `RuntimeError` with the reason."""
        if self._stopped.is_set():
            raise RuntimeError("stopped")
        self._progress.what, self._progress.done, self._progress.total = what, 0, total
        task, reason = AsyncTask.run(method, request=request)
        if task is None:
            raise BusyError(f"MONAI Label says: {reason}")
        while task["status"] in ("SUBMITTED", "RUNNING"):
            time.sleep(POLL)
            if self._stopped.is_set():  # again until it ends: MONAI Label forgets a stop before its process has begun
                AsyncTask.stop(method)
            self._look(list(task.get("details", ())), what)
        if task["status"] == "STOPPED" or self._stopped.is_set():
            raise RuntimeError("stopped")
        if task["status"] != "DONE":
            faults = [found["reason"] for line in task.get("details", ()) if (found := FAULT.match(line.strip()))]
            raise RuntimeError(faults[-1] if faults else f"{what} failed: see the server's log")
        return list(task.get("details", ()))

    def _look(self, lines: Sequence[str], what: str) -> None:
        """Reads the newest count among the last lines of a process."""
        for line in reversed(lines):
            if found := FINISHED.search(line):
                self._progress.done, self._progress.total = int(found[1]), int(found[2])
                return
            if found := BAR.match(line.strip()):
                self._progress.what = f"{what}: {found['what'].strip()}"
                self._progress.done, self._progress.total = int(found["done"]), int(found["total"])
                return
