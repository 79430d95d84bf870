"""Logs of a training: curves, and results of the first images."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from torch.utils.tensorboard import SummaryWriter

from monai_fusenet.data import affine_of
from monai_fusenet.engines.trainer import FuseNetTrainer
from monai_fusenet.metrics.partition import majority_mask
from monai_fusenet.results.panel import PanelRow, draw_panels
from monai_fusenet.transforms.acquisition import field_of
from monai_fusenet.utils import distributed
from monai_fusenet.utils.errors import failure_reason
from monai_fusenet.utils.files import atomic_path

__all__ = ["TensorBoardMetrics", "ValidationPanel"]

logger = logging.getLogger(__name__)

CLOSING = 2.0  # seconds; a writer that can close does so within some milliseconds


class TensorBoardMetrics:
    """Writes the numbers in `state.metrics` to TensorBoard after each iteration and each epoch.

    MONAI's `TensorBoardStatsHandler` creates its file as soon as it is built, even if a config is only inspected. This
    one creates the file when there is something to write.

    Args:
        log_dir: where the event files go.
    """

    def __init__(self, log_dir: str | Path) -> None:
        self.log_dir = str(log_dir)
        self._writer: SummaryWriter | None = None

    def attach(self, engine: Engine) -> None:
        """Writes while the engine runs, on the first rank."""
        if distributed.rank() > 0:
            return
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._write, "iteration")
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write, "epoch")
        engine.add_event_handler(Events.COMPLETED | Events.EXCEPTION_RAISED, self._close)

    def _write(self, engine: Engine, axis: str) -> None:
        if self._writer is None:
            self._writer = SummaryWriter(self.log_dir)
        for name, value in engine.state.metrics.items():
            self._writer.add_scalar(f"{name}/{axis}", value, getattr(engine.state, axis))

    def _close(self, engine: Engine, error: BaseException | None = None) -> None:
        if self._writer is not None:
            if isinstance(error, Exception | None):
                self._writer.close()
            else:  # an interrupt in the midst of `_write` may leave a lock taken, for which closing waits for ever
                closing = threading.Thread(target=self._writer.close, daemon=True)
                closing.start()
                closing.join(CLOSING)
            self._writer = None
        if error is not None:  # Ignite leaves it to the handlers of an exception to raise it
            raise error


class ValidationPanel:
    """Draws `panel.png` of the first images; if they have masks, it also measures how well the clusters fit them.

    The training does not use the masks. They serve for an outline in the panel, and for
    `state.metrics["majority_dice"]`: the Dice of the union of the clusters that lie mostly inside the mask (level
    "partition", feed-forward, mean over the first images).

    Args:
        items: images, each with `image`, `file` and optionally `label`.
        preprocessing: transform of an item to `image` (C, *spatial) and optionally `label` (1, *spatial).
        inferer: called as `inferer(image, network)` with a batch of one.
        postprocessing: transform that adds `clusters` and `pred` to a sample with `scores`.
        output_dir: where `panel.png` goes.
        count: how many images.
        interval: epochs between two panels; there is always one at the end.
    """

    def __init__(
        self,
        items: Sequence[Mapping[str, Any]],
        preprocessing: Callable,
        inferer: Callable,
        postprocessing: Callable,
        output_dir: str | Path,
        count: int = 4,
        interval: int = 10,
    ) -> None:
        self.items = items
        self.preprocessing = preprocessing
        self.inferer = inferer
        self.postprocessing = postprocessing
        self.output_dir = Path(output_dir)
        self.count = count
        self.interval = interval

    def attach(self, engine: FuseNetTrainer) -> None:
        """Draws every `interval` epochs and at the end, on the first rank."""
        if distributed.rank() > 0:
            return
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self)
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: FuseNetTrainer) -> None:
        """Draws and measures, unless this run has not trained at all."""
        if engine.state.output is None:
            return
        rows: list[PanelRow] = []
        titles: list[str] = []
        dice: list[float] = []
        for item in self.items:
            if len(rows) == self.count:
                break
            sample = self._prepare(item)
            if sample is None:
                continue
            image = sample["image"].as_tensor().unsqueeze(0).to(engine.state.device)
            with torch.no_grad():
                sample["scores"] = self.inferer(image, distributed.bare(engine.network))[0].cpu()
            sample = self.postprocessing(sample)
            clusters = np.asarray(sample["clusters"])[0]
            label = np.asarray(sample["label"])[0] if "label" in sample else None
            if label is not None and label.shape != clusters.shape:
                logger.warning("%s: its mask is left out, it has the size %s", item["file"], label.shape)
                label = None
            if label is not None:
                union = majority_mask(clusters, label)
                total = union.sum() + (label > 0).sum()
                dice.append(float(2 * (union & (label > 0)).sum() / total) if total else 1.0)
            rows.append(
                PanelRow(
                    image=np.asarray(sample["original"]),
                    clusters=clusters,
                    mask=np.asarray(sample["pred"])[0],
                    label=label,
                    affine=affine_of(sample["clusters"]),
                    field=field_of(sample, "field"),
                )
            )
            titles.append(item["file"])
        if not rows:
            return
        if dice:
            engine.state.metrics["majority_dice"] = float(np.mean(dice))
        with atomic_path(self.output_dir / "panel.png") as temporary:
            draw_panels(rows, titles).savefig(temporary)

    def _prepare(self, item: Mapping[str, Any]) -> dict[str, Any] | None:
        """The sample, without a mask that cannot be read; `None` for an image that the training has left out."""
        try:
            return dict(self.preprocessing(item))
        except (RuntimeError, ValueError) as error:
            if "label" not in item:
                return None
            sample = self._prepare({key: value for key, value in item.items() if key != "label"})
            if sample is not None:
                logger.warning("%s: its mask is left out: %s", item["file"], failure_reason(error))
            return sample
