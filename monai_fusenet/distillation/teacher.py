"""Label-free masks of a folder: a pass through it for each seed of a fit, and one by k-means."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data import DataLoader
from monai.inferers import Inferer, SimpleInferer
from monai.transforms import Transform
from torch import nn

from monai_fusenet.engines import FolderEvaluator, ForgivingDataset
from monai_fusenet.handlers import ProgressHandler, ResultWriter
from monai_fusenet.inferers import PerImageInferer
from monai_fusenet.utils.checks import check_whole

__all__ = ["Teacher", "check_seeds", "folder_pass"]

Items = Sequence[Mapping[str, Any]]


def folder_pass(
    items: Items,
    output_dir: str | Path,
    preprocessing: Callable,
    network: nn.Module,
    inferer: Inferer,
    postprocessing: Transform,
    device: torch.device,
    settings: Mapping[str, Any],
    overwrite: bool = False,
    num_workers: int = 0,
) -> tuple[FolderEvaluator, ResultWriter]:
    """One pass through a folder, ready to run, as the `inference` workflow makes it, and what writes its results."""
    writer = ResultWriter(items, output_dir, overwrite, settings)
    dataset = ForgivingDataset(writer.pending, preprocessing)
    evaluator = FolderEvaluator(
        device=device,
        val_data_loader=DataLoader(dataset, batch_size=1, num_workers=num_workers),
        network=network,
        inferer=inferer,
        postprocessing=postprocessing,
        val_handlers=[writer, ProgressHandler(desc=Path(output_dir).name)],
    )
    return evaluator, writer


class Teacher:
    """Label-free masks of each image: one from a fit for each seed, one from k-means, all chosen by the same rule.

    Args:
        output_dir: each gets a folder in it: `seed_<seed>`, `classical`.
        seeds: of the fits; none: k-means alone teaches, in seconds.
        network: what is fitted to each image.
        inferer: how; its own seed gives way to `seeds`.
        preprocessing: transform of an item to `image` and `original`.
        postprocessing: transform of the scores in `pred` to `clusters` and a mask in `pred`.
        classical: transform of `original` to the same.
        device: where to run.
        settings: what the masks depend on besides images and seeds.
        overwrite: make all masks anew.
        num_workers: processes that load images.

    Raises:
        ValueError: when `seeds` is no list of different whole numbers.
    """

    def __init__(
        self,
        output_dir: str | Path,
        seeds: Sequence[int],
        network: nn.Module,
        inferer: PerImageInferer,
        preprocessing: Callable,
        postprocessing: Transform,
        classical: Transform,
        device: torch.device,
        settings: Mapping[str, Any],
        overwrite: bool = False,
        num_workers: int = 0,
    ) -> None:
        self.seeds = check_seeds(seeds)
        self.output_dir = Path(output_dir)
        self.network = network
        self.inferer = inferer
        self.preprocessing = preprocessing
        self.postprocessing = postprocessing
        self.classical = classical
        self.common: dict[str, Any] = {"device": device, "overwrite": overwrite, "num_workers": num_workers}
        self.settings = settings

    @property
    def folders(self) -> list[Path]:
        """Where the masks are, the classical ones last."""
        return [self.output_dir / name for name in (*(f"seed_{seed}" for seed in self.seeds), "classical")]

    def passes(self, items: Items) -> Iterator[tuple[FolderEvaluator, ResultWriter]]:
        """The passes through the folder, see `folder_pass`, in the order of `folders`."""
        for seed, folder in zip(self.seeds, self.folders, strict=False):
            inferer = copy.copy(self.inferer)
            inferer.seed = seed
            settings = {**self.settings, "seed": seed}
            fit = (self.preprocessing, self.network, inferer, self.postprocessing)
            yield folder_pass(items, folder, *fit, settings=settings, **self.common)
        clustering = (self.preprocessing, nn.Identity(), SimpleInferer(), self.classical)
        yield folder_pass(items, self.folders[-1], *clustering, settings=self.settings, **self.common)


def check_seeds(seeds: Any) -> list[int]:
    """The seeds as a list; raises `ValueError` unless they are different whole numbers."""
    listed = list(seeds) if isinstance(seeds, Sequence) and not isinstance(seeds, str) else None
    if listed is None or len(set(map(str, listed))) < len(listed):
        raise ValueError(f"teacher_seeds must be a list of different whole numbers, as [0,1], got {seeds}")
    for seed in listed:
        check_whole("each of teacher_seeds", seed, 0)
        if seed >= 2**32:
            raise ValueError(f"each of teacher_seeds must be below 2**32, got {seed}")
    return listed
