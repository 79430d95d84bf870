"""Label-free masks of a folder: a pass through it for each seed of a fit, and one with k-means."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from monai.inferers import SimpleInferer
from monai.transforms import Transform
from torch import nn

from monai_fusenet.distillation.passes import FolderPass
from monai_fusenet.inferers import PerImageInferer
from monai_fusenet.utils.checks import check_whole

__all__ = ["Teacher", "check_seeds"]


class Teacher:
    """Label-free masks of each image: one from a fit for each seed, one from k-means, all chosen by the same rule.

    Args:
        output_dir: folder for the results; each pass has its own folder in it: `seed_<seed>`, `classical`.
        seeds: seeds of the fits; none: only k-means, which takes seconds.
        network: the network that is fitted to each image.
        inferer: the inferer that fits it; `seeds` replace its own seed.
        preprocessing: transform of an item to `image` and `original`.
        postprocessing: transform of the scores in `pred` to `clusters` and a mask in `pred`.
        classical: transform of `original` to the same.
        device: where to run.
        settings: everything besides images and seeds that the masks depend on.
        overwrite: make all masks again.
        num_workers: processes that load images, if `workers` is 0.
        workers: processes that do images, see `FolderEvaluator`.
        panels: see `ResultWriter`.

    Attributes:
        fits: the passes through the folder with fits, one per seed.
        passes: all passes, with that of k-means last.

    Raises:
        ValueError: when `seeds` is not a list of distinct whole numbers.
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
        workers: int = 0,
        panels: str = "some",
    ) -> None:
        folder = Path(output_dir)
        fit = FolderPass(
            output_dir=folder,
            preprocessing=preprocessing,
            network=network,
            inferer=inferer,
            postprocessing=postprocessing,
            device=device,
            settings=settings,
            overwrite=overwrite,
            num_workers=num_workers,
            workers=workers,
            panels=panels,
        )
        clustering = replace(
            fit,
            output_dir=folder / "classical",
            network=nn.Identity(),
            inferer=SimpleInferer(),
            postprocessing=classical,
        )
        self.fits = [fit.with_seed(seed) for seed in check_seeds(seeds)]
        self.passes = [*self.fits, clustering]


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
