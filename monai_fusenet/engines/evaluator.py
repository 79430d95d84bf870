"""Goes through a folder image by image."""

from __future__ import annotations

import logging
import signal
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from ignite.engine import Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import Subset

from monai_fusenet.utils.checks import check_whole
from monai_fusenet.utils.errors import failure_reason, is_worker_death
from monai_fusenet.utils.files import CannotWriteError, content_digest
from monai_fusenet.utils.memory import collecting_is_cheap, release_memory
from monai_fusenet.utils.threads import one_thread
from monai_fusenet.utils.workers import Lost, spread

__all__ = ["FolderEvaluator", "ForgivingDataset", "ForgivingLoader"]

logger = logging.getLogger(__name__)


class ForgivingDataset(Dataset):
    """Dataset where an image that cannot be prepared becomes a sample with the reason, and the others go on.

    Prepares images with one thread, as the workers of a data loader do. The last bits of a resized image depend on the
    number of threads, and a fit amplifies such differences.

    Args:
        data: samples with `file` (as shown to users) and `name` (of the results).
        transform: prepares a sample. An error that it raises is stored under `failure`, in one line. Where `image` is
            one path or several, `content` is the digest of the files before they were read.
    """

    def _transform(self, index: int) -> Any:
        try:
            content = _content(self.data[index].get("image"))
            with one_thread():
                return {**super()._transform(index), **content}
        except Exception as error:
            return self.failed(index, failure_reason(error))

    def failed(self, index: int, reason: str) -> dict[str, str]:
        """The sample of an image that cannot be prepared."""
        item = self.data[index]
        return {"file": item["file"], "name": item["name"], "failure": reason}


def _content(image: Any) -> dict[str, str]:
    try:
        return {"content": content_digest(image)}
    except (OSError, TypeError):  # a file that cannot be read fails elsewhere, with a reason; and it may be no file
        return {}


class ForgivingLoader:
    """Goes on when worker processes of a loader die, as when the system runs out of memory and kills them.

    A new worker loads the images that were not delivered yet. From then on there is only one worker, which needs the
    least memory. An image that crashes two workers becomes a sample that says so.

    Args:
        loader: of a `ForgivingDataset`, with batches of one image and with workers.
    """

    def __init__(self, loader: TorchDataLoader) -> None:
        self.loader = loader

    def __len__(self) -> int:
        """Number of images."""
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        """Yields the batches of the loader."""
        dataset, collate = self.loader.dataset, self.loader.collate_fn
        left, deaths = deque(self.loader.sampler), Counter[int]()
        workers, ahead = self.loader.num_workers, self.loader.prefetch_factor
        while left:
            rest: Any = Subset(dataset, list(left))
            loader = DataLoader(rest, workers, batch_size=1, prefetch_factor=ahead, collate_fn=collate)
            batches = iter(loader)
            _let_torch_look_for_itself()
            try:
                for batch in batches:
                    left.popleft()
                    yield batch
            except (RuntimeError, ConnectionError, EOFError) as error:
                if not is_worker_death(error):
                    raise
                # A worker that begins with an image once the one before is delivered dies of no other.
                workers = ahead = 1
                deaths[left[0]] += 1
                if deaths[left[0]] > 1:
                    reason = "the process that loaded it was killed, twice; perhaps memory does not suffice"
                    yield collate([dataset.failed(left.popleft(), reason)])  # type: ignore[attr-defined]
                else:
                    logger.warning("a process that loads images was killed; another one goes on")


def _let_torch_look_for_itself() -> None:
    """Has the loader find dead workers when it waits for the next image, seconds later but in no other place.

    Otherwise torch raises the news in the midst of whatever the main process does, a fit or the writing of a file.
    """
    if not hasattr(signal, "SIGCHLD"):  # Windows
        return
    handler = signal.getsignal(signal.SIGCHLD)
    if getattr(handler, "__module__", "") == "torch.utils.data._utils.signal_handling":
        with suppress(ValueError):  # another thread than the main one may not
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)


class Report(NamedTuple):
    """The outcome of an image, as a worker process passes it on.

    Attributes:
        item: `file` and `name` of the image.
        failure: why it failed, or `None`.
        report: the value that a handler put into `state.report`.
    """

    item: dict[str, str]
    failure: str | None
    report: Any = None


class FolderEvaluator(SupervisedEvaluator):
    """MONAI evaluator that a bad image does not stop: it names the failed image and goes on to the next.

    For batches of one image of a `ForgivingDataset`. A loader may lose its workers, see `ForgivingLoader`. During an
    iteration, `state.item` holds `file` and `name` of the image, and `state.failure` the reason why it failed, or
    `None`. An error in a handler of `IterationEvents.MODEL_COMPLETED` also makes the image fail. Only a
    `CannotWriteError` ends the run, because the next image would fail in the same way.

    With `workers`, that many processes do the images, from reading the file to the handlers of `IterationEvents`. A
    value that such a handler puts into `state.report` is sent to this process. The handlers of
    `Events.ITERATION_COMPLETED` find it there, in the order in which images are finished; `state.output` is empty
    there.

    Args:
        *args: as `SupervisedEvaluator`.
        workers: number of processes, of one thread each, see `spread`. 1: this process only, with one thread; the
            result is the same to the last bit. 0: this process, with all its threads.
        **kwargs: as `SupervisedEvaluator`.
    """

    def __init__(self, *args: Any, workers: int = 0, **kwargs: Any) -> None:
        check_whole("workers", workers, 0)
        self.workers = workers
        super().__init__(*args, **kwargs)

    def run(self, global_epoch: int = 1) -> None:  # type: ignore[override]
        """Goes through the folder."""
        loader = self.data_loader
        if self.workers > 0 and isinstance(loader, TorchDataLoader):
            self.data_loader = _Reports(self, loader, self.workers)
        elif isinstance(loader, TorchDataLoader) and loader.num_workers > 0:
            self.data_loader = ForgivingLoader(loader)
        try:
            with collecting_is_cheap():
                super().run(global_epoch)
        finally:
            self.data_loader = loader

    def report_on(self, batchdata: dict[str, Any]) -> Report:
        """Does one image outside of the loop; worker processes call this."""
        self.state.batch = batchdata
        self.fire_event(Events.ITERATION_STARTED)
        self.state.output = self._iteration(self, batchdata)
        return Report(self.state.item, self.state.failure, self.state.report)

    def _iteration(self, engine: SupervisedEvaluator, batchdata: dict[str, Any] | Report) -> Any:
        if isinstance(batchdata, Report):
            self.state.item, self.state.failure, self.state.report = batchdata
            return []
        try:
            return self._attempt(engine, batchdata)
        finally:
            release_memory()

    def _attempt(self, engine: SupervisedEvaluator, batchdata: dict[str, Any]) -> Any:
        self.state.item = {"file": batchdata["file"][0], "name": batchdata["name"][0]}
        self.state.failure = batchdata["failure"][0] if "failure" in batchdata else None
        self.state.report = None
        if self.state.failure is None:
            try:
                return super()._iteration(engine, batchdata)
            except CannotWriteError:
                raise
            except Exception as error:
                self.state.failure = failure_reason(error)
        return []


class _Reports:
    """In the place of a loader: what worker processes make of its images."""

    def __init__(self, evaluator: FolderEvaluator, loader: TorchDataLoader, workers: int) -> None:
        self.evaluator = evaluator
        self.loader = loader
        self.workers = workers

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Report]:
        dataset: Any = self.loader.dataset
        for place, report in spread(self._report, list(self.loader.sampler), self.workers):
            if isinstance(report, Lost):
                failed = dataset.failed(place, report.reason)
                report = Report({"file": failed["file"], "name": failed["name"]}, failed["failure"])
            yield report

    def _report(self, place: int) -> Report:
        return self.evaluator.report_on(self.loader.collate_fn([self.loader.dataset[place]]))
