"""One fit: start a network, train it on the views of its image, and return its scores."""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.dropout import _DropoutNd

from monai_fusenet.engines.contract import VIEWS, named_output, network_inputs
from monai_fusenet.engines.stopping import ends
from monai_fusenet.engines.trainer import FuseNetTrainer
from monai_fusenet.losses.scribble import NO_SCRIBBLE, scribbled_classes
from monai_fusenet.utils import distributed
from monai_fusenet.utils.precision import at_least_float32
from monai_fusenet.utils.scores import guided_upsampling
from monai_fusenet.utils.workers import is_worker

__all__ = [
    *("Descent", "Fit", "begin", "content_seed", "descend", "draw_views", "finish", "random_state", "resized"),
    *("resized_scribble", "set_random_state"),
]

LOOK_EVERY = {"cuda": 5}  # steps from one wait for the device to the next; otherwise one

QUIET = logging.getLogger(f"{__name__}.quiet")
QUIET.disabled = True  # not by its level, which a bundle's logging.conf would reset


def content_seed(image: Tensor, seed: int = 0) -> int:
    """A seed in [0, 2**32) from an image's shape and values; an image always gets the same seed.

    It depends on the mean values of the image's quarters (eighths of a volume), to three decimals. The last bits of an
    image depend on the machine and on the number of threads that resized it, and must not change the seed.

    Args:
        image: (C, *spatial), 2-D or 3-D.
        seed: another value gives another seed for every image.
    """
    values = image.detach().to("cpu", torch.float64)
    pool = {3: F.adaptive_avg_pool2d, 4: F.adaptive_avg_pool3d}[values.ndim]
    means = (pool(values, 2) * 1000).round().to(torch.int64).flatten().tolist()
    digest = hashlib.sha256(f"{seed} {tuple(values.shape)} {means}".encode()).digest()
    return int.from_bytes(digest[:4], "little")


def random_state(device: torch.device) -> Tensor:
    """The state of the generator that draws on `device`."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def set_random_state(state: Tensor, device: torch.device) -> None:
    """Puts the generator that draws on `device` into a state that `random_state` returned."""
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


def resized(image: Tensor, size: Sequence[int]) -> Tensor:
    """An image (1, C, *spatial) at a spatial size; the image itself if it has that size."""
    return image if list(size) == list(image.shape[2:]) else F.interpolate(image, size=list(size), mode="area")


def resized_scribble(scribble: Tensor, size: Sequence[int]) -> Tensor:
    """A label map (1, 1, *spatial) of scribbles at a spatial size: each pixel gets the class that covers most of it.

    Every pixel that a scribble touches is scribbled. Nearest-neighbour resampling would lose thin strokes and clicks.

    Args:
        scribble: integers, `NO_SCRIBBLE` where there is none.
        size: spatial size to reach.
    """
    count = len(scribbled_classes(scribble))
    if count == 0 or list(size) == list(scribble.shape[2:]):
        return scribble if count else scribble.new_full((1, 1, *size), NO_SCRIBBLE)
    classes = torch.arange(count, device=scribble.device).view(1, -1, *[1] * len(size))
    covered, most = F.interpolate((scribble == classes).float(), size=list(size), mode="area").max(dim=1, keepdim=True)
    return torch.where(covered > 0, most, NO_SCRIBBLE)


def draw_views(augmentation: Callable, image: Tensor, size: Sequence[int], seed: int) -> dict[str, Tensor]:
    """The views of an image at a size, with the same random numbers at every size.

    Args:
        augmentation: dictionary transform of a sample with `image` (C, *spatial), on the CPU; it stays as it is.
        image: (1, C, *spatial).
        size: spatial size of the views.
        seed: of the augmentation.

    Returns:
        all tensors and arrays of the sample, each with a batch axis, on the device of the image; image and augmented
        view are of the image's type
    """
    view = resized(image, size)
    augmentation = copy.deepcopy(augmentation)
    if hasattr(augmentation, "set_random_state"):
        augmentation.set_random_state(seed=seed)
    sample = augmentation({"image": at_least_float32(view[0]).cpu()})  # NumPy knows no bfloat16, SciPy no float16
    views = {
        name: torch.as_tensor(np.asarray(value)).to(view.device).unsqueeze(0)
        for name, value in sample.items()
        if isinstance(value, Tensor | np.ndarray)
    }
    return {name: value.to(view.dtype) if name in VIEWS else value for name, value in views.items()}


@dataclass
class Fit:
    """One image, and the network that is fitted to it.

    Attributes:
        image: (1, C, *spatial).
        seed: seed of all random numbers of the fit.
        network: the network of this image.
        optimizer: of the network.
        random_state: state of the generator from which the next step draws.
        steps: optimisation steps made so far.
        views: inputs of the steps, by name, each (1, ...).
        scribble: label map (1, 1, *spatial) of the scribbles on the image, see `ScribbleLoss`.
    """

    image: Tensor
    seed: int
    network: Any
    optimizer: torch.optim.Optimizer
    random_state: Tensor
    steps: int = 0
    views: dict[str, Tensor] = field(default_factory=dict)
    scribble: Tensor | None = None


def begin(image: Tensor, network: nn.Module, seed: int, fresh: bool, lr: float, momentum: float) -> Fit:
    """Prepares a fit before its first step; leaves the generator of the image's device in the state of the fit.

    Args:
        image: (1, C, *spatial).
        network: the network, which is copied.
        seed: of the generator.
        fresh: draw new weights, with `reset_parameters` of every module that has it.
        lr: learning rate of SGD.
        momentum: momentum of SGD.
    """
    # Not torch.manual_seed: it would reseed every GPU, of which only the image's is put back.
    torch.default_generator.manual_seed(seed)
    if image.device.type == "cuda":
        with torch.cuda.device(image.device):
            torch.cuda.manual_seed(seed)
    network = copy.deepcopy(network)  # callers cache and reuse theirs
    if fresh:
        for module in network.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
    network.requires_grad_(True)
    optimizer = torch.optim.SGD(network.parameters(), lr, momentum)
    return Fit(image, seed, network, optimizer, random_state(image.device))


@dataclass
class Descent:
    """The loss of a fit, and the rule for its end.

    Attributes:
        loss_function: see `FuseNetTrainer`.
        steps: largest number of steps.
        first_step: see `ends`; steps of the whole fit count.
        min_clusters: see `ends`.
        amp: mixed precision.
        progress: show a progress bar.
    """

    loss_function: Any
    steps: int
    first_step: int
    min_clusters: int
    amp: bool = False
    progress: bool = False

    def ends(self, step: int, clusters: float) -> bool:
        """Whether this step of a fit, counted from 1, is its last."""
        return ends(step, clusters, self.first_step, self.min_clusters)

    def run(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        views: Callable[[], Mapping[str, Tensor]],
        after_step: Callable[[Engine], None],
    ) -> None:
        """Makes at most `steps` steps.

        Args:
            network: the network that is fitted.
            optimizer: of its weights.
            views: returns the views of the next step, on the device.
            after_step: called with the trainer after each step; may end the fit.
        """
        device = views()["image"].device
        trainer = FuseNetTrainer(
            device=device,
            max_epochs=1,
            train_data_loader=range(self.steps),
            network=network,
            optimizer=optimizer,
            loss_function=self.loss_function,
            prepare_batch=lambda *_, **__: views(),
            amp=self.amp or torch.is_autocast_enabled(device.type),
            # Casts that an outer autocast remembers would hide the updates of the weights.
            amp_kwargs={"cache_enabled": False},
            decollate=False,
            look_every=LOOK_EVERY.get(device.type, 1),
        )
        trainer.logger = QUIET  # Ignite's lines for every image are too many
        trainer.add_event_handler(Events.ITERATION_COMPLETED, after_step)
        if self.progress and distributed.rank() == 0 and not is_worker():
            bar = ProgressBar(desc="fit", mininterval=1.0)
            bar.attach(trainer, metric_names=["loss", "clusters"])
        with torch.autocast(device.type, enabled=False):
            trainer.run()
        # Engines and their handlers refer to each other: until Python looks for such circles, images of the past stay.
        trainer.state.output = trainer.state.batch = None


def descend(fit: Fit, descent: Descent) -> None:
    """Fits one network to its views."""
    set_random_state(fit.random_state, fit.image.device)
    descent.run(fit.network, fit.optimizer, lambda: fit.views, _StopInHindsight(fit, descent))


def finish(fit: Fit, final_dropout: bool) -> Tensor:
    """Scores (1, K, *spatial) of the fitted network at the size of the image, float32.

    Args:
        fit: after its last step.
        final_dropout: dropout in this pass.
    """
    set_random_state(fit.random_state, fit.image.device)
    fit.network.train()
    if not final_dropout:
        for module in fit.network.modules():
            if isinstance(module, _DropoutNd):
                module.eval()
    with torch.no_grad():
        scores = named_output(fit.network(*network_inputs(fit.views)))[0]
        if scores.shape[2:] != fit.image.shape[2:]:
            scores = guided_upsampling(scores.to(fit.image.dtype), fit.image)
        return scores.float()


class _StopInHindsight:
    """Ends a fit on a device that nobody waits for in every step.

    Looks when the trainer does, and takes the fit back to the step after which it should have ended.
    """

    def __init__(self, fit: Fit, descent: Descent) -> None:
        self.fit = fit
        self.descent = descent
        self.unseen: list[tuple[Tensor, list[Tensor], Tensor]] = []

    def __call__(self, engine: Any) -> None:
        device = self.fit.image.device
        values = [value.clone() for value in self._values()] if engine.look_every > 1 else []
        self.unseen.append((engine.state.output["clusters"][0], values, random_state(device)))
        if engine.state.iteration % engine.look_every and engine.state.iteration < self.descent.steps:
            return
        counts = torch.stack([clusters for clusters, _, _ in self.unseen]).tolist()
        for count, (_, values, state) in zip(counts, self.unseen, strict=True):
            self.fit.steps += 1
            self.fit.random_state = state
            if self.descent.ends(self.fit.steps, count):
                for now, then in zip(self._values(), values, strict=False):  # none at the last step seen
                    now.copy_(then)
                engine.terminate()
                break
        self.unseen.clear()

    def _values(self) -> list[Tensor]:
        """All that a step changes: weights, their velocities, running statistics."""
        weights = list(self.fit.network.parameters())
        states = (self.fit.optimizer.state[parameter].get("momentum_buffer") for parameter in weights)
        velocities = [state for state in states if state is not None]
        return [parameter.detach() for parameter in weights] + velocities + list(self.fit.network.buffers())
