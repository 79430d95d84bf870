"""One optimisation step of FuseNet as a MONAI trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Sized
from typing import Any

import torch
from ignite.metrics import Metric
from monai.data import MetaTensor
from monai.engines import IterationEvents, Trainer
from monai.inferers import Inferer, SimpleInferer
from monai.utils import CommonKeys
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from monai_fusenet.losses import FuseNetLoss
from monai_fusenet.utils import distributed
from monai_fusenet.utils.checks import check_whole
from monai_fusenet.utils.scores import count_clusters

__all__ = ["FuseNetTrainer", "prepare_pair"]


def prepare_pair(
    batchdata: dict[str, Any], device: torch.device, non_blocking: bool = False, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    """Takes image and augmented view, each (B, C, *spatial), out of a batch and onto the device."""

    def prepare(view: Tensor) -> Tensor:
        # Plain tensors: every operation on a MetaTensor pays for carrying its metadata along.
        plain = view.as_tensor() if isinstance(view, MetaTensor) else view
        return plain.to(device, non_blocking=non_blocking, **kwargs)

    return prepare(batchdata["image"]), prepare(batchdata["augmented"])


class FuseNetTrainer(Trainer):
    """MONAI trainer whose step fits a FuseNet to a batch of pairs, without any label.

    Each step leaves in `state.output` the image, the augmented view, `pred` (the scores of its forward pass,
    detached), `loss` (the total) and `clusters` (how many win a pixel, for each image), and in `state.metrics` the
    numbers `loss`, `self_labeling`, `cross_modal`, `edge` (weighted) and `clusters` (mean over the batch). Where the
    network is `DistributedDataParallel`, these are means over all ranks, so that what they decide holds for all.

    Args:
        device: where to run.
        max_epochs: epochs to run.
        train_data_loader: batches with `image` and `augmented`, each (B, C, *spatial), values in [0, 1].
        network: a `FuseNet`, or any module that maps such a pair to (scores, image_tokens, augmented_tokens).
        optimizer: optimiser of the network.
        loss_function: loss with `terms`; `None`: `FuseNetLoss()`.
        epoch_length: steps of an epoch; `None`: `len(train_data_loader)`.
        non_blocking: copy batches to the device asynchronously.
        prepare_batch: takes both views out of a batch.
        inferer: how the network is called; `None`: `SimpleInferer()`.
        postprocessing: transforms of each item of batch and output, after the step.
        key_train_metric: see MONAI's `SupervisedTrainer`.
        additional_metrics: see MONAI's `SupervisedTrainer`.
        train_handlers: handlers to attach.
        amp: mixed precision, bfloat16 unless `amp_kwargs` says otherwise; losses stay in float32.
        decollate: split batch and output into items after each step.
        to_kwargs: further arguments of `Tensor.to` for the batch.
        amp_kwargs: further arguments of `torch.autocast`.
        look_every: steps from one update of `state.metrics` to the next. Each waits for the device; between them, a
            GPU is given its next steps while it works.
    """

    def __init__(
        self,
        device: str | torch.device,
        max_epochs: int,
        train_data_loader: Iterable | DataLoader,
        network: torch.nn.Module,
        optimizer: Optimizer,
        loss_function: FuseNetLoss | None = None,
        epoch_length: int | None = None,
        non_blocking: bool = False,
        prepare_batch: Callable = prepare_pair,
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
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            data_loader=train_data_loader,
            epoch_length=epoch_length,
            non_blocking=non_blocking,
            prepare_batch=prepare_batch,
            postprocessing=postprocessing,
            key_metric=key_train_metric,
            additional_metrics=additional_metrics,
            handlers=train_handlers,
            amp=amp,
            decollate=decollate,
            to_kwargs=to_kwargs,
            amp_kwargs={"dtype": torch.bfloat16, **(amp_kwargs or {})},
        )
        self.network = network
        self.optimizer = optimizer
        self.loss_function = FuseNetLoss() if loss_function is None else loss_function
        self.inferer = SimpleInferer() if inferer is None else inferer
        self.look_every = look_every

    def run(self) -> None:  # type: ignore[override]
        """Trains; unlike MONAI's trainers without a gradient scaler, which bfloat16 does not need."""
        super(Trainer, self).run()

    def _iteration(self, engine: FuseNetTrainer, batchdata: dict[str, Any]) -> dict[str, Any]:
        image, augmented = engine.prepare_batch(batchdata, engine.state.device, engine.non_blocking, **engine.to_kwargs)
        engine.state.output = {CommonKeys.IMAGE: image, "augmented": augmented}

        engine.network.train()
        engine.optimizer.zero_grad()
        with torch.autocast(engine.state.device.type, enabled=engine.amp, **engine.amp_kwargs):
            output = engine.inferer(image, engine.network, augmented)
        engine.state.output[CommonKeys.PRED] = output[0].detach()
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)

        if engine.amp:
            output = [value.float() for value in output]
        terms = engine.loss_function.terms(output)
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
            names = ("loss", "self_labeling", "cross_modal", "edge", "clusters")
            engine.state.metrics.update(zip(names, numbers.tolist(), strict=True))
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output
