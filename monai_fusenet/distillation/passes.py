"""A pass through a folder of images, as in the `inference` workflow, and the same with another seed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from monai.data import DataLoader
from monai.inferers import Inferer
from monai.transforms import Transform
from torch import nn

from monai_fusenet.engines import FolderEvaluator, ForgivingDataset
from monai_fusenet.handlers import ProgressHandler, ResultWriter

__all__ = ["FolderPass"]


@dataclass(frozen=True)
class FolderPass:
    """All that a pass through a folder needs, except the images. Use `dataclasses.replace` to change single fields.

    Args:
        output_dir: folder for the results.
        preprocessing: transform of an item to `image` and `original`.
        network: the network that the inferer calls.
        inferer: the inferer.
        postprocessing: transform of the scores in `pred` to `clusters` and a mask in `pred`.
        device: where to run.
        settings: what the results depend on besides the images, see `ResultWriter`.
        overwrite: do finished images again.
        num_workers: processes that load images, if `workers` is 0.
        workers: processes that do images, see `FolderEvaluator`.
        panels: see `ResultWriter`.
        dicom_output: see `ResultWriter`.
    """

    output_dir: Path
    preprocessing: Callable
    network: nn.Module
    inferer: Inferer
    postprocessing: Transform
    device: torch.device
    settings: Mapping[str, Any]
    overwrite: bool = False
    num_workers: int = 0
    dicom_output: str | None = None
    workers: int = 0
    panels: str = "some"

    def with_seed(self, seed: int) -> FolderPass:
        """The same with another seed of the inferer, and its results in the folder `seed_<seed>` of `output_dir`."""
        inferer: Any = copy.copy(self.inferer)  # callers use theirs with its own seed
        inferer.seed = seed
        folder = self.output_dir / f"seed_{seed}"
        return replace(self, output_dir=folder, inferer=inferer, settings={**self.settings, "seed": seed})

    def build(self, items: Sequence[Mapping[str, Any]]) -> tuple[FolderEvaluator, ResultWriter]:
        """The evaluator, ready to run, and the writer of its results.

        Args:
            items: images, each with `image`, `file` and `name`; finished ones are left out.
        """
        writer = ResultWriter(items, self.output_dir, self.overwrite, self.settings, self.dicom_output, self.panels)
        dataset = ForgivingDataset(writer.pending, self.preprocessing)
        evaluator = FolderEvaluator(
            device=self.device,
            val_data_loader=DataLoader(dataset, batch_size=1, num_workers=self.num_workers),
            network=self.network,
            inferer=self.inferer,
            postprocessing=self.postprocessing,
            val_handlers=[writer, ProgressHandler(desc=self.output_dir.name)],
            workers=self.workers,
        )
        return evaluator, writer
