"""Many fits at once: one network for each image of a batch, all evaluated in one pass."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from ignite.engine import Engine
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from monai_fusenet.engines.contract import map_tensors
from monai_fusenet.inferers.fit import Descent, Fit, random_state, set_random_state

__all__ = ["NetworkEnsemble", "SumOverImages", "check_ensemble", "descend_together"]


class NetworkEnsemble(nn.Module):
    """Independent networks of one kind, one for each image of a batch, evaluated in one pass (`torch.vmap`).

    In training mode each network has the same batch statistics and dropout as if it were alone.

    Args:
        networks: modules of one architecture that map an image, or an image and an augmented view of it, each
            (1, C, *spatial), to scores (1, K, *spatial), or to a tuple that begins with them.
        random_states: state of the random generator for each network, from which its dropout is drawn.
        device: device of the networks.

    Attributes:
        weights: parameters of all networks by name, each (networks, *shape); give these to an optimiser.

    Shape:
        one or two batches (networks, C, *spatial) -> what one network returns, with all outputs along the first axis
    """

    def __init__(
        self, networks: Sequence[nn.Module], random_states: Sequence[Tensor], device: torch.device | str
    ) -> None:
        super().__init__()
        self.device = torch.device(device)
        self.random_states = list(random_states)
        networks = [_without_statistics(network) for network in networks]
        weights, self.buffers_by_name = stack_module_state(networks)
        self.weights = {name: value.detach().clone().requires_grad_() for name, value in weights.items()}
        self._one = [networks[0]]  # in a list: its own parameters are none of this module's
        for module in networks[0].modules():
            for name, child in module.named_children():
                if isinstance(child, nn.Dropout):
                    setattr(module, name, _DropoutForEach(child.p, self))

    def __len__(self) -> int:
        """How many networks there are."""
        return len(self.random_states)

    def forward(self, *views: Tensor) -> Any:
        """Evaluates each network on its own views."""

        def one(weights: dict[str, Tensor], buffers: dict[str, Tensor], *own: Tensor) -> Any:
            return functional_call(self._one[0], (weights, buffers), tuple(view.unsqueeze(0) for view in own))

        outputs = vmap(one)(self.weights, self.buffers_by_name, *views)
        return map_tensors(lambda part: part.flatten(0, 1), outputs)

    def train(self, mode: bool = True) -> NetworkEnsemble:
        """Sets the mode of all networks."""
        self._one[0].train(mode)
        return super().train(mode)

    def copy_weights(self, index: int, network: nn.Module) -> None:
        """Copies weights and buffers of the network at `index` into a network of the same architecture."""
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.copy_(self.weights[name][index])
            for name, values in self.buffers_by_name.items():
                network.get_buffer(name).copy_(values[index])

    def keep(self, indices: Sequence[int], optimizer: torch.optim.Optimizer) -> None:
        """Drops all networks except those at `indices`, also from the optimiser (with one group of parameters)."""
        chosen = torch.as_tensor(indices, device=self.device)
        self.random_states = [self.random_states[index] for index in indices]
        self.buffers_by_name = {name: value[chosen] for name, value in self.buffers_by_name.items()}
        # New tensors, which autograd has not met: it remembers the shape of those that it has.
        old, self.weights = self.weights, {}
        for name, parameter in old.items():
            self.weights[name] = parameter.detach()[chosen].requires_grad_()
            state = optimizer.state.pop(parameter, {})
            optimizer.state[self.weights[name]] = {
                key: value[chosen] if isinstance(value, Tensor) and value.shape == parameter.shape else value
                for key, value in state.items()
            }
        optimizer.param_groups[0]["params"] = list(self.weights.values())

    def draw_dropout(self, inputs: Tensor, probability: float) -> Tensor:
        """Dropout factors for `inputs` (networks, ...); the draws of each network go on from where they stopped."""
        masks = []
        for index, one in enumerate(inputs):
            set_random_state(self.random_states[index], self.device)
            masks.append(F.dropout(torch.ones_like(one), probability))
            self.random_states[index] = random_state(self.device)
        return torch.stack(masks)


def check_ensemble(network: nn.Module) -> None:
    """Raises `ValueError` for a network that `torch.vmap` cannot evaluate for many images at once."""
    for module in network.modules():
        if getattr(module, "use_checkpoint", False):
            raise ValueError("at_once must be 1 for a network with use_checkpoint, which torch.vmap cannot run")
        if isinstance(module, _DropoutNd) and not isinstance(module, nn.Dropout):
            raise ValueError(
                f"at_once must be 1 for a network with {type(module).__name__}, which torch.vmap cannot run"
            )


class SumOverImages:
    """A loss of a batch as the sum over its images, so that each network trains as it would alone.

    Args:
        loss_function: loss with `terms`, each a mean over the images of a batch, see `FuseNetTrainer`.
    """

    def __init__(self, loss_function: Any) -> None:
        self.loss_function = loss_function

    def terms(self, output: Any, batch: Mapping[str, Tensor]) -> Any:
        """The terms of the loss, each summed."""
        terms = self.loss_function.terms(output, batch)
        return terms._make(len(batch["image"]) * term for term in terms)


def descend_together(fits: Sequence[Fit], descent: Descent) -> None:
    """Fits all networks to their views, with one pass per step; each fit ends by its own rule."""
    ensemble = NetworkEnsemble([fit.network for fit in fits], [fit.random_state for fit in fits], fits[0].image.device)
    options = fits[0].optimizer.param_groups[0]
    optimizer = torch.optim.SGD(ensemble.weights.values(), options["lr"], options["momentum"])
    for name, weights in ensemble.weights.items():
        velocities = [fit.optimizer.state[fit.network.get_parameter(name)].get("momentum_buffer") for fit in fits]
        if not any(velocity is None for velocity in velocities):
            optimizer.state[weights]["momentum_buffer"] = torch.stack(velocities)
    going_on = list(fits)

    def let_go(engine: Engine) -> None:
        counts = engine.state.output["clusters"].tolist()  # type: ignore[index, call-overload]
        last = engine.state.iteration == descent.steps
        stay = []
        for index, (fit, count) in enumerate(zip(going_on, counts, strict=True)):
            fit.steps += 1
            if last or descent.ends(fit.steps, count):
                _take_back(ensemble, optimizer, index, fit)
            else:
                stay.append(index)
        if stay and len(stay) < len(going_on):
            ensemble.keep(stay, optimizer)
        going_on[:] = [going_on[index] for index in stay]
        if not going_on:
            engine.terminate()

    def views() -> dict[str, Tensor]:
        return {name: torch.cat([fit.views[name] for fit in going_on]) for name in going_on[0].views}

    summed = replace(descent, loss_function=SumOverImages(descent.loss_function))
    summed.run(ensemble, optimizer, views, let_go)


def _take_back(ensemble: NetworkEnsemble, optimizer: torch.optim.Optimizer, index: int, fit: Fit) -> None:
    """Gives a fit the state of the network at `index`."""
    ensemble.copy_weights(index, fit.network)
    fit.random_state = ensemble.random_states[index]
    for name, weights in ensemble.weights.items():
        velocity = optimizer.state[weights].get("momentum_buffer")
        if velocity is not None:
            fit.optimizer.state[fit.network.get_parameter(name)]["momentum_buffer"] = velocity[index].clone()


def _without_statistics(network: nn.Module) -> nn.Module:
    """A copy whose batch norms keep no running statistics, which `vmap` could not update; a fit never reads them."""
    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
    return network


class _DropoutForEach(nn.Module):
    def __init__(self, probability: float, ensemble: NetworkEnsemble) -> None:
        super().__init__()
        self.probability = probability
        self._draw: Callable = ensemble.draw_dropout

    def forward(self, values: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return values
        return values * _Factors.apply(values.detach(), self._draw, self.probability)


class _Factors(torch.autograd.Function):
    """Leaves `vmap` for a moment, to draw for each network from its own generator."""

    @staticmethod
    def forward(values: Tensor, draw: Callable, probability: float) -> Tensor:
        raise RuntimeError("dropout for each network is drawn under vmap only")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        """Nothing is kept: factors have no gradient."""

    @staticmethod
    def vmap(info: Any, in_dims: tuple, values: Tensor, draw: Callable, probability: float) -> tuple[Tensor, int]:
        return draw(values.movedim(in_dims[0], 0), probability), 0
