"""One optimisation step of any method as a MONAI trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from typing import Any

import torch
from ignite.metrics import Metric
from monai.engines import IterationEvents, SupervisedTrainer, Trainer
from monai.inferers import Inferer
from monai.utils import CommonKeys
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from monai_fusenet.engines.contract import VIEWS, check_loss, check_terms, map_tensors, named_output, network_inputs
from monai_fusenet.utils import distributed
from monai_fusenet.utils.arrays import plain
from monai_fusenet.utils.checks import check_whole
from monai_fusenet.utils.scores import count_clusters

__all__ = ["FuseNetTrainer", "prepare_pair", "prepare_views"]


def prepare_pair(
    batchdata: dict[str, Any], device: torch.device, non_blocking: bool = False, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    """Takes image and augmented view, each (B, C, *spatial), out of a batch and onto the device."""
    views = prepare_views(batchdata, device, non_blocking, **kwargs)
    return views["image"], views["augmented"]


def prepare_views(
    batchdata: Mapping[str, Any], device: torch.device, non_blocking: bool = False, **kwargs: Any
) -> dict[str, Tensor]:
    """Takes all tensors out of a batch and onto the device.

    Args:
        batchdata: a batch with `image` and everything else that the network or the loss uses.
        device: the target device.
        non_blocking: see `Tensor.to`.
        **kwargs: further arguments of `Tensor.to` for `image` and `augmented`; other tensors, which may be indices,
            keep their type.
    """
    views = {}
    for name, value in batchdata.items():
        if isinstance(value, Tensor):
            options = kwargs if name in VIEWS else {}
            # Plain tensors: every operation on a MetaTensor pays for carrying its metadata along.
            views[name] = plain(value).to(device, non_blocking=non_blocking, **options)
    return views


class FuseNetTrainer(SupervisedTrainer):
    """MONAI trainer of any method: each step fits a network to the views of a batch of images, without any label.

    It is a `SupervisedTrainer` because some callers need one, such as `monai.fl.client.MonaiAlgo`. The other view takes
    the place of labels.

    After each step, `state.output` holds the image, the augmented view where there is one, `pred` (the scores of its
    forward pass, detached), `loss` (the total) and `clusters` (how many win a pixel, for each image). `state.metrics`
    holds the numbers `loss`, all other terms of the loss under their own names, and `clusters` (mean over the batch).
    Where the network is `DistributedDataParallel`, these are means over all ranks, so that all ranks decide alike.

    Args:
        device: where to run.
        max_epochs: epochs to run.
        train_data_loader: batches with `image` and perhaps `augmented`, each (B, C, *spatial), values in [0, 1], and
            with further tensors that the loss uses.
        network: called with the image, and with the augmented view where there is one; returns the scores (B, K,
            *spatial), or a named tuple with the scores as its first field, such as `FuseNetOutput`.
        optimizer: optimiser of the network.
        loss_function: `terms(output, batch)` maps the network's named tuple (`Scores` where it returns a tensor) and
            the views to a named tuple of scalars; the first is `total`, which is minimised. `None`: `FuseNetLoss()`.
        epoch_length: steps of an epoch; `None`: `len(train_data_loader)`.
        non_blocking: copy batches to the device asynchronously.
        prepare_batch: takes the views out of a batch, as a dictionary, or as a pair of image and augmented view.
        inferer: how the network is called; `None`: `SimpleInferer()`.
        postprocessing: transforms of each item of batch and output, after the step.
        key_train_metric: see MONAI's `SupervisedTrainer`.
        additional_metrics: see MONAI's `SupervisedTrainer`.
        train_handlers: handlers to attach.
        amp: mixed precision, bfloat16 unless `amp_kwargs` says otherwise; losses stay in float32.
        decollate: split batch and output into items after each step.
        to_kwargs: further arguments of `Tensor.to` for the views that the network sees.
        amp_kwargs: further arguments of `torch.autocast`.
        look_every: steps from one update of `state.metrics` to the next. Each update waits for the device. Between
            updates, a GPU gets its next steps while it still works.
    """

    loss_function: Any

    def __init__(
        self,
        device: str | torch.device,
        max_epochs: int,
        train_data_loader: Iterable | DataLoader,
        network: torch.nn.Module,
        optimizer: Optimizer,
        loss_function: Any = None,
        epoch_length: int | None = None,
        non_blocking: bool = False,
        prepare_batch: Callable = prepare_views,
        inferer: Inferer | None = None,
        postprocessing: Callable | None = None,
        key_train_metric: dict[str, Metric] | None = None,
        additional_metrics: dict[str, Metric] | None = None,
        train_handlers: Sequence | None = None,
        amp: bool = False,
        decollate: bool = True,
        to_kwargs: dict | None = None,
        amp_kwargs: dict | None = None,
        look_every: int = 1,
    ) -> None:
        check_whole("look_every", look_every, 1)
        if (
            epoch_length is None
            and isinstance(train_data_loader, Sized)
            and not isinstance(train_data_loader, DataLoader)
        ):
            epoch_length = len(train_data_loader)  # MONAI before 1.5 asks only a DataLoader
        if loss_function is None:
            from monai_fusenet.losses import FuseNetLoss

            loss_function = FuseNetLoss()
        check_loss(loss_function)
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            train_data_loader=train_data_loader,
            network=network,
            optimizer=optimizer,
            loss_function=loss_function,
            epoch_length=epoch_length,
            non_blocking=non_blocking,
            prepare_batch=prepare_batch,
            inferer=inferer,
            postprocessing=postprocessing,  # type: ignore[arg-type]
            key_train_metric=key_train_metric,
            additional_metrics=additional_metrics,
            train_handlers=train_handlers,
            amp=amp,
            decollate=decollate,
            to_kwargs=to_kwargs,
            amp_kwargs={"dtype": torch.bfloat16, **(amp_kwargs or {})},
        )
        self.look_every = look_every

    def run(self) -> None:  # type: ignore[override]
        """Trains; unlike MONAI's trainers it has no gradient scaler, because bfloat16 does not need one."""
        super(Trainer, self).run()

    def _iteration(  # type: ignore[override]
        self, engine: FuseNetTrainer, batchdata: dict[str, Any]
    ) -> dict[str, Any]:
        views = engine.prepare_batch(batchdata, engine.state.device, engine.non_blocking, **engine.to_kwargs)
        if not isinstance(views, Mapping):
            views = dict(zip(VIEWS, views, strict=True))
        image, *second = network_inputs(views)
        engine.state.output = {name: views[name] for name in VIEWS if name in views}

        engine.network.train()
        engine.optimizer.zero_grad()
        with torch.autocast(engine.state.device.type, enabled=engine.amp, **engine.amp_kwargs):
            output = named_output(engine.inferer(image, engine.network, *second))
        engine.state.output[CommonKeys.PRED] = output[0].detach()
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)

        if engine.amp:
            output = map_tensors(lambda part: part.float() if part.is_floating_point() else part, output)
        terms = engine.loss_function.terms(output, views)
        check_terms(terms)
        engine.state.output[CommonKeys.LOSS] = terms.total.detach()
        engine.fire_event(IterationEvents.LOSS_COMPLETED)

        terms.total.backward()
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        engine.optimizer.step()

        clusters = count_clusters(output[0].detach())
        engine.state.output["clusters"] = clusters
        if engine.state.iteration % engine.look_every == 0:
            # One transfer for all numbers: each of them alone would wait for the device.
            numbers = torch.stack([*(term.detach() for term in terms), clusters.to(terms.total.dtype).mean()])
            if isinstance(engine.network, DistributedDataParallel):
                numbers = distributed.mean(numbers)
            names = ("loss", *terms._fields[1:], "clusters")
            engine.state.metrics.update(zip(names, numbers.tolist(), strict=True))
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output
