"""One training of a network on masks, as in every round and every fold."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader, DistributedSampler
from monai.engines import SupervisedTrainer
from monai.inferers import Inferer
from torch import Tensor, nn
from torch.nn import functional as F

from monai_fusenet.data import SeededCacheDataset
from monai_fusenet.distillation.lesson import KnownFolder, Lesson
from monai_fusenet.handlers import EpochSeed, ProgressHandler, ResumableCheckpoint
from monai_fusenet.utils.arrays import plain

__all__ = ["InBfloat16", "Schooling", "follow_cosine"]

DECAY = 1e-4
ACCEPTED_SHARE = 0.35
LEAST_BATCHES = 8  # of an epoch that holds accepted masks: a handful is repeated, each time augmented otherwise


class Schooling:
    """Trains networks on masks, and lets them predict.

    Args:
        augmentation: random transform of images (B, C, *size) and targets (B, K, *size), as `AugmentBatch`.
        inferer: how a network predicts.
        mask: dictionary transform of a probability (1, *spatial) in `pred` to a mask.
        loss_function: called with logits and target.
        output_dir: folder in which each training has its own folder for its checkpoint, from which it continues.
        device: where to run.
        batch_size: images in a step.
        learning_rate: of AdamW at the start of a training; it falls to 0 along a cosine.
        seed: seed of all random numbers.
        overwrite: start from the beginning and replace existing files.
        amp: whether networks compute in bfloat16 where this is precise enough, with channels last, which is fastest.
    """

    def __init__(
        self,
        augmentation: Callable,
        inferer: Inferer,
        mask: Callable,
        loss_function: Callable,
        output_dir: Path,
        device: torch.device,
        batch_size: int,
        learning_rate: float,
        seed: int,
        overwrite: bool,
        amp: bool,
    ) -> None:
        self.augmentation = augmentation
        self.inferer = inferer
        self.mask = mask
        self.loss_function = loss_function
        self.output_dir = output_dir
        self.device = device
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.seed = seed
        self.overwrite = overwrite
        self.amp = amp

    def teach(
        self,
        network: nn.Module,
        name: str,
        number: int,
        samples: Sequence[dict[str, Any]],
        steps: int,
        settings: Mapping[str, Any],
        title: str,
    ) -> None:
        """Trains a network, in place.

        Args:
            network: (B, C, *spatial) -> (B, K, *spatial), logits.
            name: of the training, which is that of its folder.
            number: of the training, so that each draws otherwise.
            samples: each with `image` (C, *size) and `target` (K, *size).
            steps: optimisation steps, filled up to whole epochs.
            settings: what the result depends on; a training of other settings is not continued.
            title: of the progress bar.
        """
        length = math.ceil(len(samples) / self.batch_size)
        trainer = self.trainer(network, title, number, samples, math.ceil(steps / length))
        folder = self.output_dir / name
        ResumableCheckpoint(folder, network, trainer.optimizer, settings, self.overwrite).attach(trainer)
        trainer.run()

    def trainer(
        self, network: nn.Module, title: str, number: int, samples: Sequence[dict[str, Any]], epochs: int
    ) -> SupervisedTrainer:
        """A trainer that trains a network in place: for `epochs` epochs, and as many again each time it is run again.

        Args:
            network: as in `teach`.
            title: of the progress bar.
            number: as in `teach`.
            samples: as in `teach`.
            epochs: over which the learning rate falls to 0.
        """
        seed = self.seed + 1_000_003 * number
        dataset = SeededCacheDataset(list(samples), dict, seed=seed, progress=False)
        sampler = DistributedSampler(dataset, num_replicas=1, rank=0, shuffle=True, seed=seed)
        loader = DataLoader(dataset, batch_size=self.batch_size, sampler=sampler)
        optimizer = torch.optim.AdamW(network.parameters(), self.learning_rate, weight_decay=DECAY)
        trainer = SupervisedTrainer(
            device=self.device,
            max_epochs=epochs,
            train_data_loader=loader,
            network=network,
            optimizer=optimizer,
            loss_function=self.loss_function,
            inferer=in_bfloat16 if self.amp else None,  # type: ignore[arg-type]
            prepare_batch=self._augment,
            train_handlers=[EpochSeed(seed, dataset), ProgressHandler(desc=title)],
            decollate=False,
        )
        steps = epochs * len(loader)
        trainer.add_event_handler(Events.ITERATION_STARTED, follow_cosine, optimizer, self.learning_rate, steps)
        return trainer

    def _augment(
        self, batchdata: Mapping[str, Tensor], device: torch.device, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Takes image and target out of a batch and onto the device, and augments them there."""
        image, target = (plain(batchdata[key]).to(device, non_blocking=non_blocking) for key in ("image", "target"))
        return self.augmentation(image, target)

    def lessons(
        self, folder: KnownFolder, lesson: Lesson | None, chosen: Sequence[int], persons: Mapping[int, Tensor]
    ) -> list[dict[str, Any]]:
        """The samples of a training.

        Masks of a person are few, and right. They are repeated until they are a third of all samples and fill an epoch.

        Args:
            folder: all images.
            lesson: their targets; `None`: only accepted masks are used.
            chosen: indices of the images to use.
            persons: accepted masks to use unchanged, by index.
        """
        others = [
            {**folder.samples[place], "target": lesson.targets[place]}
            for place in chosen
            if lesson is not None and place not in persons
        ]
        own = [{**folder.samples[place], "target": target} for place, target in persons.items()]
        if own:
            wanted = max(
                LEAST_BATCHES * self.batch_size - len(others), len(others) * ACCEPTED_SHARE / (1 - ACCEPTED_SHARE)
            )
            own = own * math.ceil(wanted / len(own))
        return others + own

    def decide(self, probabilities: Tensor) -> Tensor:
        """Masks (N, K, *size), boolean, of probabilities: by the rule where there is one class, else the likeliest."""
        if probabilities.shape[1] > 1:
            winners = F.one_hot(probabilities.argmax(dim=1), probabilities.shape[1])
            return winners.movedim(-1, 1).bool()
        return torch.stack([plain(self.mask({"pred": one})["pred"]) > 0 for one in probabilities])

    @torch.no_grad()
    def ask(self, network: nn.Module, samples: Sequence[Mapping[str, Any]]) -> Tensor:
        """Predicted probabilities of each image (N, K, *size), on the CPU; K above 1: of classes."""
        network = InBfloat16(network.eval()) if self.amp else network.eval()
        batches = torch.stack([sample["image"] for sample in samples]).split(self.batch_size)
        logits = torch.cat([self.inferer(batch.to(self.device), network).cpu() for batch in batches])
        return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)


class InBfloat16(nn.Module):
    """A network that computes in bfloat16 where this is precise enough, with channels last; its logits are float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """The logits of images (B, C, *spatial)."""
        layout = torch.channels_last if images.ndim == 4 else torch.channels_last_3d
        with torch.autocast(images.device.type, torch.bfloat16):
            return self.network(images.contiguous(memory_format=layout)).float()


def in_bfloat16(images: Tensor, network: nn.Module) -> Tensor:
    """The logits of `InBfloat16`, of a network whose weights keep their names."""
    return InBfloat16(network)(images)


def follow_cosine(engine: Engine, optimizer: torch.optim.Optimizer, learning_rate: float, steps: int) -> None:
    """Sets the learning rate of this iteration; it falls to 0 in `steps` steps, then starts again.

    It depends only on the number of the iteration, so a resumed training gives the same result.
    """
    place = (engine.state.iteration - 1) % steps
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * (1 + math.cos(math.pi * place / steps)) / 2
