"""The inferer that fits a network to each image: checks, refits and records around the fit itself."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from monai.inferers import Inferer
from torch import Tensor, nn

from monai_fusenet.engines.contract import check_loss, check_views, named_output, network_inputs
from monai_fusenet.inferers.ensemble import check_ensemble, descend_together
from monai_fusenet.inferers.fit import (
    Descent,
    Fit,
    begin,
    content_seed,
    descend,
    draw_views,
    finish,
    resized,
    resized_scribble,
)
from monai_fusenet.inferers.memory_retry import Scored, within_memory
from monai_fusenet.inferers.record import FitRecord
from monai_fusenet.inferers.schedule import check_resolutions, sizes_to_fit
from monai_fusenet.losses.scribble import scribbled_classes
from monai_fusenet.losses.with_scribbles import with_scribbles
from monai_fusenet.utils.arrays import plain, tensor_of
from monai_fusenet.utils.checks import check_number, check_switch, check_whole, warn_unscaled
from monai_fusenet.utils.scores import count_clusters, guided_upsampling, is_one_cluster, merged

__all__ = ["PerImageInferer"]


class PerImageInferer(Inferer):
    """Fits a copy of the network to each image without any label, and returns its scores.

    Called as `inferer(inputs, network)` with one batch of images, also under `torch.no_grad()` and with the network
    in evaluation mode, as MONAI's evaluators do. The network, its mode and the global random state stay as they were.
    All randomness (initial weights, augmented view, dropout) comes from the image's content and `seed`, so the same
    image gives the same scores in every batch.

    The scores are those of the fitted copy with the statistics of this image (batch norm in training mode), as
    published. Differs from the published code, where dropout is active in the final pass as well; here `final_dropout`
    decides.

    If memory does not suffice, the images of a batch are fitted one by one. If it still does not suffice, an image is
    fitted at a size with sides shorter by 1/sqrt(2), and so on, until memory suffices or the shortest side would have
    less than 32 pixels (8 in a volume). The scores are then brought to the size of the image along the image's edges,
    and the record says so.

    Called as `inferer(inputs, network, scribble=scribble)`, it uses scribbles. The loss gets a term that pulls pixels
    of class c to cluster c (after the network's `merge`, if it has one), see `WithScribbles`. The fit then ends after a
    step with at most as many clusters as there are classes.

    With `resolutions` the fit is coarse-to-fine: it begins on a small version of the image, where a step takes a
    fraction of the time, and goes on with the same weights on larger ones. With `final_steps=0` the network that was
    fitted to the smaller versions scores the largest one without a further step. This works because pixels look much
    alike at neighbouring sizes.

    Args:
        steps: largest number of optimisation steps at each resolution. 0: no fit; the network is applied as it is, in
            evaluation mode, with the image as both views, unless the image brings a second one.
        resolutions: the versions of the image that are fitted one after the other, ascending: lengths of the shortest
            side in pixels, none longer than the image's own, or, as floats in (0, 1], fractions of the image's size. If
            the last one is smaller than the image, its scores are brought to the size of the image along the image's
            edges, see `guided_upsampling`. `None`: the image as it is, as published.
        final_steps: largest number of steps at the last of several resolutions. `None`, or with scribbles: as at the
            others.
        fresh: draw new initial weights for each image, as published; `False`: adapt the given weights.
        lr: learning rate of SGD.
        momentum: momentum of SGD.
        min_clusters: the fit ends, at each resolution, after a step with at most this many clusters.
        loss_function: see `FuseNetTrainer`, each term a mean over the images of a batch; `None`: `FuseNetLoss()`.
        augmentation: view generator, a dictionary transform of a sample with `image` (C, *spatial). If it adds
            `augmented`, the network sees this second view; otherwise the network sees only the image. All tensors and
            arrays of the sample reach the loss. `None`: `AugmentPaird()`, which needs scikit-image. With
            `AugmentPaird(second_view_channels=C)` images have twice the network's channels: a second sequence, phase or
            modality is the second view.
        max_refits: how often to fit an image again, with another draw and half the learning rate, if all of it has
            become one cluster. Clusters that the network's `merge` joins count as one. An image of a single value is
            not fitted again.
        final_dropout: dropout in the final pass.
        seed: another value gives another draw for every image.
        amp: fit in mixed precision (bfloat16). An enclosing `torch.autocast` has the same effect.
        at_once: number of images of a batch that are fitted together, with one pass per step, see `NetworkEnsemble`.
            Each fit ends by its own rule. Its scores are those that the image gets alone, except for rounding, which a
            fit of many steps amplifies. Images with scribbles are fitted one by one. Meant for devices where launching
            work takes longer than the work itself; on a CPU it takes two to three times as long as one after the other.
            Not for networks that use checkpointing.
        progress: show a progress bar with loss and clusters for each fit.
        first_step: the first step of the fit, counted from 1, after which `min_clusters` may end it; six, as published.

    Attributes:
        record: a `FitRecord` for each image of the last call.

    Shape:
        (B, C, *spatial), values in [0, 1], and optionally scribbles (B, 1, *spatial) -> scores (B, K, *spatial),
        float32

    Raises:
        RuntimeError: under `torch.inference_mode()`, which forbids gradients.
        MemoryError: when memory does not suffice even for the smallest size.
        ValueError: when the images do not have the shape (B, C, *spatial); when an image or its scores hold NaN or
            infinite values; when `at_once` is used with a network with activation checkpointing; when scribbles have
            another shape than the images, or classes with a gap, or `steps` is 0 with scribbles; when the network is no
            module, or a TorchScript module, or takes another number of views than the augmentation makes.

    Warns:
        UserWarning: when values lie far outside [0, 1].

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
        loss_function: Any = None,
        augmentation: Callable | None = None,
        final_dropout: bool = False,
        seed: int = 0,
        amp: bool = False,
        at_once: int = 1,
        progress: bool = False,
        first_step: int = 6,
        final_steps: int | None = None,
    ) -> None:
        super().__init__()
        for name, count in (("steps", steps), ("min_clusters", min_clusters), ("max_refits", max_refits)):
            check_whole(name, count, 0)
        check_whole("seed", seed, 0)
        for name, switch in (("fresh", fresh), ("final_dropout", final_dropout), ("amp", amp), ("progress", progress)):
            check_switch(name, switch)
        check_whole("at_once", at_once, 1)
        check_whole("first_step", first_step, 1)
        if final_steps is not None:
            check_whole("final_steps", final_steps, 0)
        check_number("lr", lr, 0)
        check_number("momentum", momentum, 0, 1)
        check_resolutions(resolutions)
        self.steps = steps
        self.resolutions = resolutions
        self.fresh = fresh
        self.lr = lr
        self.momentum = momentum
        self.min_clusters = min_clusters
        self.max_refits = max_refits
        self.loss_function = _default_loss() if loss_function is None else loss_function
        check_loss(self.loss_function)
        self.augmentation = _default_views() if augmentation is None else augmentation
        self.final_dropout = final_dropout
        self.seed = seed
        self.amp = amp
        self.at_once = at_once
        self.progress = progress
        self.first_step = first_step
        self.final_steps = final_steps
        self.record: list[FitRecord] = []

    def __call__(
        self, inputs: Tensor, network: Any, *args: Any, scribble: Tensor | np.ndarray | None = None, **kwargs: Any
    ) -> Tensor:
        """Returns the scores of each image."""
        images = self._checked(plain(inputs), network).detach()
        drawn = [None] * len(images) if scribble is None else self._checked_scribble(plain(tensor_of(scribble)), images)
        self.record = []
        all_scores = []
        for index, group in enumerate(images.split(self.at_once if self.steps and scribble is None else 1)):
            scores, records = self._scores(group, network, drawn[index])
            all_scores.append(scores)
            self.record += records
        scores = torch.cat(all_scores)
        for index, image in enumerate(images.split(1) if self.steps else ()):
            for attempt in range(1, self.max_refits + 1):
                if not is_one_cluster(network, scores[index]) or image.amin() == image.amax():
                    break
                refitted, (again,) = self._scores(image, network, drawn[index], attempt)
                scores[index] = refitted[0]
                steps, seconds = self.record[index].steps + again.steps, self.record[index].seconds + again.seconds
                self.record[index] = replace(again, steps=steps, seconds=seconds, refits=attempt)
        return scores

    def _checked(self, images: Tensor, network: Any) -> Tensor:
        """The images in the type of the network's weights."""
        if self.steps > 0 and torch.is_inference_mode_enabled():
            raise RuntimeError(
                "PerImageInferer fits a network and needs gradients, which torch.inference_mode() forbids: "
                "use torch.no_grad(), or steps=0 for plain feed-forward"
            )
        if self.steps > 0 and (not isinstance(network, nn.Module) or isinstance(network, torch.jit.ScriptModule)):
            raise ValueError(
                "PerImageInferer fits a network to each image and needs the module itself, got "
                f"{type(network).__name__}: TorchScript and served models cannot be fitted; use a bundle with "
                "models/model.pt, or a distilled one"
            )
        if images.ndim not in (4, 5) or len(images) == 0:
            raise ValueError(f"expected images (B, C, *spatial) in 2-D or 3-D, at least one, got {tuple(images.shape)}")
        if min(self.at_once, len(images)) > 1:
            check_ensemble(network)
        if not images.isfinite().all():
            raise ValueError("the image holds NaN or infinite values")
        if self.steps > 0:  # a trained network may know other values
            warn_unscaled(images)
        weights = next(network.parameters(), None) if isinstance(network, nn.Module) else None
        return images if weights is None else images.to(weights.dtype)

    def _checked_scribble(self, scribble: Tensor, images: Tensor) -> list[Tensor | None]:
        """The scribbles of each image (1, 1, *spatial), `None` for one without."""
        if self.steps == 0:
            raise ValueError("scribbles guide a fit, and steps=0 makes none")
        if scribble.shape != (len(images), 1, *images.shape[2:]):
            raise ValueError(
                f"scribbles must have the shape (B, 1, *spatial) of the images, {(len(images), 1, *images.shape[2:])}, "
                f"got {tuple(scribble.shape)}"
            )
        return [one if scribbled_classes(one) else None for one in scribble.to(images.device).split(1)]

    def _scores(self, images: Tensor, network: Any, scribble: Tensor | None, attempt: int = 0) -> Scored:
        """Scores and records of images, each at the largest size for which memory suffices."""

        def make_scores(images: Tensor, most: float) -> Scored:
            if self.steps == 0:
                return self._feed_forward(images, network, most)
            return self._fit(images.clone(), network, most, scribble, attempt)

        return within_memory(make_scores, images, lambda spatial, most: self._sizes(spatial, most)[-1])

    def _sizes(self, spatial: Sequence[int], most: float = math.inf) -> list[list[int]]:
        return sizes_to_fit(self.resolutions if self.steps else None, spatial, most)

    def _schedule(self, spatial: Sequence[int], most: float, is_guided: bool) -> list[tuple[list[int], int]]:
        """The sizes, and the most steps at each; strokes are thin, and need steps where they are seen best."""
        sizes = self._sizes(spatial, most)
        last = self.steps if self.final_steps is None or is_guided or len(sizes) == 1 else self.final_steps
        return [(size, self.steps) for size in sizes[:-1]] + [(sizes[-1], last)]

    def _feed_forward(self, image: Tensor, shared: Any, most: float) -> Scored:
        start = time.perf_counter()
        network = copy.deepcopy(shared)  # callers cache and reuse theirs
        network.eval()
        size = self._sizes(image.shape[2:], most)[-1]
        with torch.no_grad():
            views = {"image": resized(image, size)}
            if getattr(self.augmentation, "second_view_channels", 0):
                views = draw_views(self.augmentation, image, size, self.seed)
            scores = named_output(network(*network_inputs(views)))[0]
            if size != list(image.shape[2:]):
                scores = guided_upsampling(scores, image)
        scores = scores.float()
        return scores, [_recorded(scores, 0, time.perf_counter() - start, views)]

    def _fit(self, images: Tensor, shared: Any, most: float, scribble: Tensor | None, attempt: int) -> Scored:
        start = time.perf_counter()
        devices = [images.device] if images.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.enable_grad():  # evaluators call inferers under no_grad
            fits = [self._begin(image, shared, scribble, attempt) for image in images.split(1)]
            for size, steps in self._schedule(images.shape[2:], most, scribble is not None):
                for fit in fits:
                    fit.views = draw_views(self.augmentation, fit.image, size, fit.seed)
                    check_views(fit.network, fit.views)
                    if fit.scribble is not None:
                        fit.views["scribble"] = resized_scribble(fit.scribble, size)
                if steps and len(fits) == 1:
                    descend(fits[0], self._descent(fits[0], steps))
                elif steps:
                    descend_together(fits, self._descent(fits[0], steps))
            all_scores = [finish(fit, self.final_dropout) for fit in fits]
        seconds = (time.perf_counter() - start) / len(fits)
        records = [
            _recorded(scores, fit.steps, seconds, fit.views) for fit, scores in zip(fits, all_scores, strict=True)
        ]
        return torch.cat(all_scores), records

    def _begin(self, image: Tensor, shared: Any, scribble: Tensor | None, attempt: int) -> Fit:
        seed = content_seed(image[0], self.seed + (attempt << 32))
        fit = begin(image, shared, seed, self.fresh, self.lr / 2**attempt, self.momentum)
        fit.scribble = scribble
        return fit

    def _descent(self, fit: Fit, steps: int) -> Descent:
        loss_function, min_clusters = self.loss_function, self.min_clusters
        if fit.scribble is not None:
            loss_function = with_scribbles(loss_function, partial(merged, fit.network))
            min_clusters = len(scribbled_classes(fit.scribble))
        return Descent(loss_function, steps, self.first_step, min_clusters, amp=self.amp, progress=self.progress)


def _recorded(scores: Tensor, steps: int, seconds: float, views: dict[str, Tensor]) -> FitRecord:
    """The record of scores (1, K, *spatial) that were made from these views."""
    if not scores.isfinite().all():
        raise ValueError("the fit diverged: its scores are not finite; try a smaller lr or fewer steps")
    augmented = views["augmented"][0].cpu() if "augmented" in views else None
    return FitRecord(steps, int(count_clusters(scores)), seconds, augmented, size=tuple(views["image"].shape[2:]))


def _default_loss() -> nn.Module:
    from monai_fusenet.losses import FuseNetLoss

    return FuseNetLoss()


def _default_views() -> Callable:
    from monai_fusenet.transforms.augment_pair import AugmentPaird  # needs scikit-image and scipy

    return AugmentPaird()
