"""Fit a network to one image, then let it speak."""

from __future__ import annotations

import copy
import hashlib
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import Tensor, nn
from torch.nn import functional as F

from monai_fusenet.engines.stopping import FIRST_STEP
from monai_fusenet.engines.trainer import FuseNetTrainer, prepare_pair
from monai_fusenet.inferers.ensemble import NetworkEnsemble, SumOverImages, random_state, set_random_state
from monai_fusenet.losses import FuseNetLoss
from monai_fusenet.transforms.augment_pair import AugmentPaird
from monai_fusenet.utils import distributed
from monai_fusenet.utils.checks import check_number, check_switch, check_whole
from monai_fusenet.utils.errors import failure_reason, is_out_of_memory
from monai_fusenet.utils.memory import release_memory
from monai_fusenet.utils.scores import count_clusters, guided_upsampling

__all__ = ["FitRecord", "PerImageInferer", "content_seed"]

LEAST_SIDE = {2: 32, 3: 8}  # pixels of the shortest side, below which want of memory makes no image or volume smaller
LOOK_EVERY = {"cuda": 5}  # steps from one wait for the device to the next; otherwise one

QUIET = logging.getLogger(f"{__name__}.fit")
QUIET.disabled = True  # not by its level, which a bundle's logging.conf would reset


def content_seed(image: Tensor, seed: int = 0) -> int:
    """A seed in [0, 2**32) from an image's shape and values: the same wherever and whenever it comes along.

    What counts are the mean values of its quarters (eighths of a volume), to three decimals: the last bits of an image
    change with the machine and the number of threads that resized it, and must not change the seed.

    Args:
        image: (C, *spatial), 2-D or 3-D.
        seed: another one gives another seed for every image.
    """
    values = image.detach().to("cpu", torch.float64)
    pool = {3: F.adaptive_avg_pool2d, 4: F.adaptive_avg_pool3d}[values.ndim]
    means = (pool(values, 2) * 1000).round().to(torch.int64).flatten().tolist()
    digest = hashlib.sha256(f"{seed} {tuple(values.shape)} {means}".encode()).digest()
    return int.from_bytes(digest[:4], "little")


@dataclass
class FitRecord:
    """What a fit leaves beside its scores.

    Attributes:
        steps: optimisation steps made, in all fits.
        clusters: clusters that win a pixel in the scores put out (twins counted apart).
        seconds: wall-clock time, of all fits.
        augmented: the second view at the last resolution, (C, *spatial); `None` without a fit.
        refits: how often the image was fitted again because all of it had become one cluster.
        size: spatial size at which the scores were made, before they were brought to that of the image.
        wanted_size: the size that memory did not suffice for; `None` where it did.
    """

    steps: int
    clusters: int
    seconds: float
    augmented: Tensor | None
    refits: int = 0
    size: tuple[int, ...] = ()
    wanted_size: tuple[int, ...] | None = None


@dataclass
class _Fit:
    """One image, and the network that is fitted to it."""

    image: Tensor
    seed: int
    network: Any
    optimizer: torch.optim.Optimizer
    random_state: Tensor
    steps: int = 0
    pair: dict[str, Tensor] = field(default_factory=dict)


class PerImageInferer(Inferer):
    """Fits a copy of the network to each image without any label, and returns its scores.

    Called as `inferer(inputs, network)` with one batch of images, also under `torch.no_grad()` and with the network
    in evaluation mode, as MONAI's evaluators do. The network, its mode and the global random state stay as they were.
    All randomness (initial weights, augmented view, dropout) comes from the image's content and `seed`, so the same
    image gives the same scores in any company.

    The scores are those of the fitted copy with the statistics of this image (batch norm in training mode), as
    published. Differs from the published code: there, dropout is active in the final pass as well; here by
    `final_dropout`.

    Where memory does not suffice, images of a batch are fitted one by one, and an image at a size whose sides are
    shorter by 1/sqrt(2), and again until it suffices or the shortest side would have less than 32 pixels, 8 of a
    volume; its scores are brought to the size of the image along the image's edges, and its record says so.

    With `resolutions` the fit is coarse-to-fine: it begins on a small version of the image, whose steps cost a
    fraction, and goes on with the same weights on larger ones.

    Args:
        steps: most optimisation steps at each resolution; 0: no fit, the network as it is, in evaluation mode, with the
            image as both views, unless the image brings a second one.
        resolutions: the versions of the image that are fitted one after the other, ascending: lengths of the shortest
            side in pixels, none longer than the image's own, or, as floats in (0, 1], parts of the image's size. Where
            the last one is smaller, its scores are brought to the size of the image along the image's edges, see
            `guided_upsampling`. `None`: the image as it is, as published.
        fresh: draw new initial weights for each image, as published; `False`: adapt the given weights.
        lr: learning rate of SGD.
        momentum: momentum of SGD.
        min_clusters: the fit ends, at each resolution, after a step that saw at most as many clusters: from the sixth
            step of the fit on, as published.
        loss_function: `None`: `FuseNetLoss()`.
        augmentation: dictionary transform that adds `augmented` to a sample with `image` (C, *spatial); `None`:
            `AugmentPaird()`. With `AugmentPaird(second_view_channels=C)` images have twice the network's channels: a
            second sequence, phase or modality is the second view.
        max_refits: how often to fit an image again, with another draw and half the learning rate, when all of it has
            become one cluster (a cluster and its twin are one; an image of a single value is left alone).
        final_dropout: dropout in the final pass.
        seed: another one gives another draw for every image.
        amp: fit in mixed precision (bfloat16), as happens under an enclosing `torch.autocast`, too.
        at_once: images of a batch that are fitted in one pass for each step, see `NetworkEnsemble`; each ends by its
            own rule and gets the scores that it gets alone, but for rounding, which a fit of many steps amplifies.
            Meant for devices on which launching work costs more than doing it (every step waits for them); on a CPU it
            takes two to three times as long as one after the other. Not with networks that use checkpointing.
        progress: show a progress bar with loss and clusters for each fit.

    Attributes:
        record: a `FitRecord` for each image of the last call.

    Shape:
        (B, C, *spatial), values in [0, 1] -> scores (B, K, *spatial), float32

    Raises:
        RuntimeError: under `torch.inference_mode()`, which forbids gradients.
        MemoryError: when memory does not suffice for the smallest size either.
        ValueError: when the images have no shape (B, C, *spatial), an image holds NaN or infinite values, or fits to
            scores that do; when `at_once` meets a network with activation checkpointing.

    Reference:
        Kazerouni et al. 2023, arXiv 2311.13069, section 2, and the published code.
    """

    def __init__(
        self,
        steps: int = 50,
        resolutions: Sequence[int] | Sequence[float] | None = None,
        fresh: bool = True,
        lr: float = 0.005,
        momentum: float = 0.9,
        min_clusters: int = 3,
        max_refits: int = 2,
        loss_function: FuseNetLoss | None = None,
        augmentation: Callable | None = None,
        final_dropout: bool = False,
        seed: int = 0,
        amp: bool = False,
        at_once: int = 1,
        progress: bool = False,
    ) -> None:
        super().__init__()
        for name, count in (("steps", steps), ("min_clusters", min_clusters), ("max_refits", max_refits)):
            check_whole(name, count, 0)
        check_whole("seed", seed, 0)
        for name, switch in (("fresh", fresh), ("final_dropout", final_dropout), ("amp", amp), ("progress", progress)):
            check_switch(name, switch)
        check_whole("at_once", at_once, 1)
        check_number("lr", lr, 0)
        check_number("momentum", momentum, 0, 1)
        if resolutions is not None:
            sides = list(resolutions) if isinstance(resolutions, Sequence) else []
            whole = all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in sides)
            parts = all(isinstance(side, float) and 0 < side <= 1 for side in sides)
            if not (sides and (whole or parts) and sides == sorted(sides)):
                raise ValueError(
                    "resolutions must be None or ascending whole numbers above 0, or parts up to 1.0, "
                    f"got {resolutions}"
                )
        self.steps = steps
        self.resolutions = resolutions
        self.fresh = fresh
        self.lr = lr
        self.momentum = momentum
        self.min_clusters = min_clusters
        self.max_refits = max_refits
        self.loss_function = FuseNetLoss() if loss_function is None else loss_function
        self.augmentation = AugmentPaird() if augmentation is None else augmentation
        self.final_dropout = final_dropout
        self.seed = seed
        self.amp = amp
        self.at_once = at_once
        self.progress = progress
        self.record: list[FitRecord] = []

    def __call__(self, inputs: Tensor, network: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Returns the scores of each image."""
        if self.steps > 0 and torch.is_inference_mode_enabled():
            raise RuntimeError(
                "PerImageInferer fits a network and needs gradients, which torch.inference_mode() forbids: "
                "use torch.no_grad(), or steps=0 for plain feed-forward"
            )
        images = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        if images.ndim not in (4, 5) or len(images) == 0:
            raise ValueError(f"expected images (B, C, *spatial) in 2-D or 3-D, at least one, got {tuple(images.shape)}")
        modules = network.modules() if isinstance(network, nn.Module) else ()
        if min(self.at_once, len(images)) > 1 and any(getattr(module, "use_checkpoint", False) for module in modules):
            raise ValueError("at_once must be 1 for a network with use_checkpoint, which knows no torch.vmap")
        if not images.isfinite().all():
            raise ValueError("the image holds NaN or infinite values")
        weights = next(network.parameters(), None) if isinstance(network, nn.Module) else None
        images = images if weights is None else images.to(weights.dtype)
        self.record = []
        if self.steps == 0:
            return torch.cat([self._within_memory(self._feed_forward, image, network) for image in images.split(1)])
        groups = images.detach().split(self.at_once)
        scores = torch.cat([self._within_memory(self._fit, group.clone(), network) for group in groups])
        for index, image in enumerate(images.detach().split(1)):
            for attempt in range(1, self.max_refits + 1):
                if not _is_collapsed(scores[index]) or image.amin() == image.amax():
                    break
                scores[index] = self._within_memory(self._fit, image.clone(), network, attempt)[0]
                again = self.record.pop()
                steps, seconds = self.record[index].steps + again.steps, self.record[index].seconds + again.seconds
                self.record[index] = replace(again, steps=steps, seconds=seconds, refits=attempt)
        return scores

    def _within_memory(
        self,
        make_scores: Callable,
        images: Tensor,
        network: Callable,
        attempt: int = 0,
        side: float = math.inf,
        wanted: tuple[int, ...] | None = None,
    ) -> Tensor:
        """Scores at the largest size for which memory suffices, whose shortest side is at most `side`."""
        noted, size = len(self.record), tuple(self._sizes(list(images.shape[2:]), side)[-1])
        try:
            scores = make_scores(images, network, attempt, side)
            for record in self.record[noted:]:
                record.wanted_size = wanted
            return scores
        except Exception as error:
            if not is_out_of_memory(error):
                if wanted is None:
                    raise
                # A network that takes images of one size only, perhaps.
                reason = f"it does not suffice for {_by(wanted)}, and at {_by(size)}: {failure_reason(error)}"
                raise MemoryError(reason) from error
        # From here on, and not where the error was caught, nothing refers to what the attempt has left.
        del self.record[noted:]
        _free_memory()
        if len(images) > 1:
            options = (network, attempt, side, wanted)
            return torch.cat([self._within_memory(make_scores, image, *options) for image in images.split(1)])
        wanted, side = wanted or size, round(min(size) / 2**0.5)
        if side < LEAST_SIDE[len(size)]:
            raise MemoryError(f"it suffices for no size from {_by(wanted)} down to {_by(size)}")
        return self._within_memory(make_scores, images, network, attempt, side, wanted)

    def _feed_forward(self, image: Tensor, shared: Callable, attempt: int, side: float) -> Tensor:
        start = time.perf_counter()
        network: Any = copy.deepcopy(shared)  # callers cache and reuse theirs
        network.eval()
        second = None
        with torch.no_grad():
            size = self._sizes(list(image.shape[2:]), side)[-1]
            view = _resized(image, size)
            if getattr(self.augmentation, "second_view_channels", 0):
                pair = self._pair(image, size, self.seed)
                view, second = pair["image"], pair["augmented"][0].cpu()
                scores = network(view, pair["augmented"])[0]
            else:
                scores = network(view)
            if size != list(image.shape[2:]):
                scores = guided_upsampling(scores, image)
        self._note(scores.float(), 0, time.perf_counter() - start, second, view)
        return scores.float()

    def _note(self, scores: Tensor, steps: int, seconds: float, augmented: Tensor | None, view: Tensor) -> None:
        if not scores.isfinite().all():
            raise ValueError("the fit diverged: its scores are not finite; a smaller lr or fewer steps may mend it")
        size = tuple(view.shape[2:])
        self.record.append(FitRecord(steps, int(count_clusters(scores)), seconds, augmented, size=size))

    def _fit(self, images: Tensor, shared: Any, attempt: int, side: float) -> Tensor:
        start = time.perf_counter()
        devices = [images.device] if images.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.enable_grad():  # evaluators call inferers under no_grad
            fits = [self._begin(image, shared, attempt) for image in images.split(1)]
            for size in self._sizes(list(images.shape[2:]), side):
                for fit in fits:
                    fit.pair = self._pair(fit.image, size, fit.seed)
                if len(fits) == 1:
                    self._descend(fits[0])
                else:
                    self._descend_together(fits)
            all_scores = [self._finish(fit) for fit in fits]
        seconds = (time.perf_counter() - start) / len(fits)
        for fit, scores in zip(fits, all_scores, strict=True):
            self._note(scores, fit.steps, seconds, fit.pair["augmented"][0].cpu(), fit.pair["image"])
        return torch.cat(all_scores)

    def _begin(self, image: Tensor, shared: Any, attempt: int) -> _Fit:
        seed = content_seed(image[0], self.seed + (attempt << 32))
        # Not torch.manual_seed: it would reseed every GPU, of which only the image's is put back.
        torch.default_generator.manual_seed(seed)
        if image.device.type == "cuda":
            with torch.cuda.device(image.device):
                torch.cuda.manual_seed(seed)
        network = copy.deepcopy(shared)  # callers cache and reuse theirs
        if self.fresh:
            for module in network.modules():
                if callable(reset := getattr(module, "reset_parameters", None)):
                    reset()
        network.requires_grad_(True)
        optimizer = torch.optim.SGD(network.parameters(), self.lr / 2**attempt, self.momentum)
        return _Fit(image, seed, network, optimizer, random_state(image.device))

    def _finish(self, fit: _Fit) -> Tensor:
        set_random_state(fit.random_state, fit.image.device)
        fit.network.train()
        if not self.final_dropout:
            for module in fit.network.modules():
                if isinstance(module, nn.Dropout):
                    module.eval()
        with torch.no_grad():
            scores = fit.network(fit.pair["image"], fit.pair["augmented"])[0]
            if scores.shape[2:] != fit.image.shape[2:]:
                scores = guided_upsampling(scores.to(fit.image.dtype), fit.image)
            return scores.float()

    def _sizes(self, spatial: list[int], most: float = math.inf) -> list[list[int]]:
        """The spatial sizes to fit at, one after the other, none with a shortest side above `most`."""
        sizes: list[list[int]] = []
        for resolution in (self.resolutions if self.steps else None) or [min(spatial)]:
            scale = resolution if isinstance(resolution, float) else min(1.0, resolution / min(spatial))
            scale = min(scale, most / min(spatial))
            size = [max(1, round(side * scale)) for side in spatial]
            if size not in sizes:  # once the image's own size is reached
                sizes.append(size)
        return sizes

    def _pair(self, image: Tensor, size: list[int], seed: int) -> dict[str, Tensor]:
        """The image at a size and its second view, each (1, C, *spatial), with the same draws at every size."""
        view = _resized(image, size)
        augmentation = copy.deepcopy(self.augmentation)
        if hasattr(augmentation, "set_random_state"):
            augmentation.set_random_state(seed=seed)
        sample = augmentation({"image": view[0].cpu()})
        return {key: torch.as_tensor(np.asarray(sample[key])).to(view).unsqueeze(0) for key in ("image", "augmented")}

    def _descend(self, fit: _Fit) -> None:
        """Fits one network to its pair."""
        set_random_state(fit.random_state, fit.image.device)
        stop = _StopInHindsight(fit, self.min_clusters, max(1, FIRST_STEP - fit.steps), self.steps)
        self._train(fit.network, fit.optimizer, self.loss_function, lambda: fit.pair, stop)
        fit.steps += stop.steps

    def _descend_together(self, fits: list[_Fit]) -> None:
        """Fits all networks to their pairs, in one pass for each step; each ends by its own rule."""
        ensemble = NetworkEnsemble(
            [fit.network for fit in fits], [fit.random_state for fit in fits], fits[0].image.device
        )
        optimizer = torch.optim.SGD(ensemble.weights.values(), self.lr, self.momentum)
        for name, weights in ensemble.weights.items():
            velocities = [fit.optimizer.state[fit.network.get_parameter(name)].get("momentum_buffer") for fit in fits]
            if not any(velocity is None for velocity in velocities):
                optimizer.state[weights]["momentum_buffer"] = torch.stack(velocities)
        going_on = list(fits)

        def let_go(engine: Engine) -> None:
            counts = engine.state.output["clusters"].tolist()  # type: ignore[index, call-overload]
            last = engine.state.iteration == self.steps
            stay = []
            for index, (fit, count) in enumerate(zip(going_on, counts, strict=True)):
                fit.steps += 1
                if last or (fit.steps >= FIRST_STEP and count <= self.min_clusters):
                    self._take_back(ensemble, optimizer, index, fit)
                else:
                    stay.append(index)
            if stay and len(stay) < len(going_on):
                ensemble.keep(stay, optimizer)
            going_on[:] = [going_on[index] for index in stay]
            if not going_on:
                engine.terminate()

        def pairs() -> dict[str, Tensor]:
            return {view: torch.cat([fit.pair[view] for fit in going_on]) for view in ("image", "augmented")}

        self._train(ensemble, optimizer, SumOverImages(self.loss_function), pairs, _AfterEachStep(let_go))

    def _take_back(self, ensemble: NetworkEnsemble, optimizer: torch.optim.Optimizer, index: int, fit: _Fit) -> None:
        ensemble.copy_weights(index, fit.network)
        fit.random_state = ensemble.random_states[index]
        for name, weights in ensemble.weights.items():
            velocity = optimizer.state[weights].get("momentum_buffer")
            if velocity is not None:
                fit.optimizer.state[fit.network.get_parameter(name)]["momentum_buffer"] = velocity[index].clone()

    def _train(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, loss_function: Any, pair: Callable, stop: Any
    ) -> None:
        """Descends for at most `steps` steps on what `pair` returns before each."""
        device = pair()["image"].device
        trainer = FuseNetTrainer(
            device=device,
            max_epochs=1,
            train_data_loader=range(self.steps),
            network=network,
            optimizer=optimizer,
            loss_function=loss_function,
            prepare_batch=lambda *_, **__: prepare_pair(pair(), device),
            train_handlers=[stop],
            amp=self.amp or torch.is_autocast_enabled(device.type),
            # Casts that an outer autocast remembers would hide the updates of the weights.
            amp_kwargs={"cache_enabled": False},
            decollate=False,
            look_every=LOOK_EVERY.get(device.type, 1),
        )
        trainer.logger = QUIET  # Ignite's lines for every image are too many
        if self.progress and distributed.rank() == 0:
            bar = ProgressBar(desc="fit", mininterval=1.0)
            bar.attach(trainer, metric_names=["loss", "clusters"])
        with torch.autocast(device.type, enabled=False):
            trainer.run()
        # Engines and their handlers refer to each other: until Python looks for such circles, images of the past stay.
        trainer.state.output = trainer.state.batch = None


def _resized(image: Tensor, size: list[int]) -> Tensor:
    """An image (1, C, *spatial) at a spatial size, itself where it has that size."""
    return image if size == list(image.shape[2:]) else F.interpolate(image, size=size, mode="area")


def _by(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))


def _free_memory() -> None:
    release_memory()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _is_collapsed(scores: Tensor) -> bool:
    """Whether all pixels are of one cluster or its twin; scores (K, *spatial)."""
    apart = len(scores) if len(scores) % 2 else len(scores) // 2
    return len((scores.argmax(dim=0) % apart).unique()) == 1


class _StopInHindsight:
    """The rule of `StopAtFewClusters` for a device that nobody waits for in every step.

    Looks when the trainer does, and takes the fit back to the step after which it should have ended.
    """

    def __init__(self, fit: _Fit, min_clusters: int, first_step: int, most_steps: int) -> None:
        self.fit = fit
        self.min_clusters = min_clusters
        self.first_step = first_step
        self.most_steps = most_steps
        self.steps = 0
        self.unseen: list[tuple[Tensor, list[Tensor], Tensor]] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        device = self.fit.image.device
        values = [value.clone() for value in self._values()] if engine.look_every > 1 else []
        self.unseen.append((engine.state.output["clusters"][0], values, random_state(device)))
        if engine.state.iteration % engine.look_every and engine.state.iteration < self.most_steps:
            return
        counts = torch.stack([clusters for clusters, _, _ in self.unseen]).tolist()
        for count, (_, values, state) in zip(counts, self.unseen, strict=True):
            self.steps += 1
            self.fit.random_state = state
            if self.steps >= self.first_step and count <= self.min_clusters:
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


class _AfterEachStep:
    def __init__(self, function: Callable) -> None:
        self.function = function

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.function)
