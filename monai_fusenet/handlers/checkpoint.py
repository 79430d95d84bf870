"""Checkpoints: a training may be killed at any moment, and goes on as if it had not been interrupted."""

from __future__ import annotations

import io
import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.optim import Optimizer

from monai_fusenet.utils import distributed
from monai_fusenet.utils.files import atomic_path

__all__ = ["EpochSeed", "ResumableCheckpoint", "load_tensors"]

logger = logging.getLogger(__name__)

CONTENT = {"network", "optimizer", "epoch", "iteration", "settings", "finished", "stopped_early"}


class EpochSeed:
    """Makes the random numbers of an epoch depend only on the seed and the number of the epoch.

    So a resumed training draws the same numbers as an uninterrupted one.

    Args:
        seed: seed of the whole training.
        dataset: its `set_epoch` is called at each epoch.
    """

    def __init__(self, seed: int, dataset: Any) -> None:
        self.seed = seed
        self.dataset = dataset

    def attach(self, engine: Engine) -> None:
        """Reseeds at the start of each epoch."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Seeds torch, for dropout, which no two ranks have alike, and the dataset, for augmentation."""
        own = (distributed.rank(),) if distributed.rank() > 0 else ()
        torch.manual_seed(hash((self.seed, engine.state.epoch, *own)) % 2**63)
        self.dataset.set_epoch(engine.state.epoch)


def load_tensors(path: str | Path, device: str | torch.device = "cpu") -> Any:
    """Loads what `torch.save` has written, if it consists of tensors, numbers, strings and collections of them.

    Nothing in the file is executed. No more memory is used than the file has bytes: torch writes zip archives without
    compression, so a file that claims to unpack to more than its own size is refused.

    Raises:
        ValueError: when the file is anything else.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > Path(path).stat().st_size:
                raise ValueError("it unpacks to more than its own size")
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # a damaged file makes torch raise anything, IndexError included
        raise ValueError(f"{path} holds no weights that torch can read") from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a `checkpoint.pt`, on the CPU.

    Raises:
        ValueError: when it is unreadable.
    """
    try:
        state = load_tensors(path)
        if not isinstance(state, dict) or not state.keys() >= CONTENT:
            raise ValueError(f"expected {sorted(CONTENT)}")
    except ValueError as error:
        raise ValueError(f"{path} is no checkpoint of a training; --overwrite True starts over") from error
    return state


def changed_settings(checkpoint: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """The names of the settings that the training of this checkpoint lacked or had with another value."""
    return [name for name, value in settings.items() if checkpoint["settings"].get(name) != value]


def save_tensors(state: Any, path: Path) -> None:
    """Writes anything that `torch.save` accepts; the file is complete or absent.

    Raises:
        CannotWriteError: as `atomic_path`; `torch.save` itself does not report what is wrong with a disk.
    """
    content = io.BytesIO()
    torch.save(state, content)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.getbuffer())


class ResumableCheckpoint:
    """Saves `checkpoint.pt` after each epoch, and `model.pt` at the end; continues from `checkpoint.pt` if it exists.

    Both files are complete or absent at any moment. A finished training is not repeated: it runs no epoch and says so.
    A trainer that has run before goes on from its own state. With several ranks, only the first reads and writes, for
    all of them. A training may continue with another number of ranks. It then warns that the weights will differ from
    those of a training with either number throughout. Ignite's
    `Checkpoint` would not overwrite a file of the same name, and MONAI's `CheckpointSaver` does not write atomically.

    Args:
        output_dir: folder of both files.
        network: weights to keep.
        optimizer: state to keep.
        settings: everything that the result depends on, as plain numbers, strings and lists. A checkpoint of other
            settings is not continued.
        overwrite: start from the beginning and replace existing files.

    Raises:
        ValueError: at the start of the training, when the checkpoint is unreadable or comes from other settings.
    """

    def __init__(
        self,
        output_dir: str | Path,
        network: nn.Module,
        optimizer: Optimizer,
        settings: Mapping[str, Any],
        overwrite: bool = False,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.path = self.output_dir / "checkpoint.pt"
        self.network = network
        self.optimizer = optimizer
        self.settings = dict(settings)
        self.overwrite = overwrite

    def attach(self, engine: Engine) -> None:
        """Loads at the start, saves after each epoch and at the end."""
        engine.add_event_handler(Events.STARTED, self._resume)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _resume(self, engine: Engine) -> None:
        self._already_finished = False
        if engine.state.epoch > 0:  # it goes on in memory, perhaps with weights that others have brought
            return
        state = distributed.from_first(self._read)
        if state is None:
            return
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        engine.state.epoch, engine.state.iteration = state["epoch"], state["iteration"]
        if state["stopped_early"] or (state["finished"] and state["epoch"] >= engine.state.max_epochs):
            self._already_finished = True
            done = state["epoch"]
            logger.info(
                "the training in %s is finished (%d epochs); --overwrite True starts over", self.output_dir, done
            )
            engine.terminate()
        else:
            logger.info("resuming after epoch %d of %d from %s", state["epoch"], engine.state.max_epochs, self.path)
            before = state.get("ranks", 1)
            if before != distributed.size():  # epochs have another number of steps now
                engine.state.iteration = state["epoch"] * (engine.state.epoch_length or 0)
                logger.warning(
                    "trained in %d process%s so far, from here on in %d: the weights will differ from both",
                    *(before, "" if before == 1 else "es", distributed.size()),
                )

    def _read(self) -> dict[str, Any] | None:
        """What the checkpoint holds; `None` where there is none to go on from."""
        if self.overwrite or not self.path.is_file():
            return None
        state = load_checkpoint(self.path)
        changed = changed_settings(state, self.settings)
        if changed:
            raise ValueError(
                f"{self.path} comes from a training with another {' and '.join(changed)}; "
                "choose another --output_dir, or start anew with --overwrite True"
            )
        return state

    def _save(self, engine: Engine, finished: bool = False) -> None:
        if distributed.rank() > 0:
            return
        state = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "settings": self.settings,
            "ranks": distributed.size(),
            "finished": finished,
            "stopped_early": finished and bool(engine.should_terminate),
        }
        save_tensors(state, self.path)

    def _finish(self, engine: Engine) -> None:
        if distributed.rank() > 0:
            return
        # model.pt first: a checkpoint that says "finished" promises that it is there.
        if not (self._already_finished and (self.output_dir / "model.pt").is_file()):
            save_tensors(self.network.state_dict(), self.output_dir / "model.pt")
        if not self._already_finished:
            self._save(engine, finished=True)
            logger.info("trained %d epochs; weights: %s", engine.state.epoch, self.output_dir / "model.pt")
