"""Many fits at once: one network for each image of a batch, all of them evaluated in one pass."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from monai_fusenet.losses import FuseNetTerms
from monai_fusenet.networks import FuseNetOutput

__all__ = ["NetworkEnsemble", "SumOverImages"]


class NetworkEnsemble(nn.Module):
    """Independent networks of one kind, one for each image of a batch, evaluated in one pass (`torch.vmap`).

    In training mode each sees the batch statistics and the dropout that it would see alone.

    Args:
        networks: modules of one architecture that map (image, augmented), each (1, C, *spatial), to a `FuseNetOutput`.
        random_states: state of the random generator for each network, from which its dropout is drawn.
        device: where they are.

    Attributes:
        weights: parameters of all networks by name, each (networks, *shape), to be given to an optimiser.

    Shape:
        `forward(image, augmented)`: two batches (networks, C, *spatial) -> `FuseNetOutput`
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

    def forward(self, image: Tensor, augmented: Tensor) -> FuseNetOutput:
        """Evaluates each network on its own pair."""

        def one(weights: dict[str, Tensor], buffers: dict[str, Tensor], *pair: Tensor) -> tuple[Tensor, ...]:
            output = functional_call(self._one[0], (weights, buffers), tuple(view.unsqueeze(0) for view in pair))
            return tuple(part.squeeze(0) for part in output)

        return FuseNetOutput(*vmap(one)(self.weights, self.buffers_by_name, image, augmented))

    def train(self, mode: bool = True) -> NetworkEnsemble:
        """Sets the mode of all networks."""
        self._one[0].train(mode)
        return super().train(mode)

    def copy_weights(self, index: int, network: nn.Module) -> None:
        """Gives a network of the same architecture the weights of the one at `index`."""
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.copy_(self.weights[name][index])

    def keep(self, indices: Sequence[int], optimizer: torch.optim.Optimizer) -> None:
        """Drops all networks but those at `indices`, from the optimiser (of one group of parameters) as well."""
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
        """What to multiply `inputs` (networks, ...) with; each network's draws go on from where it stopped."""
        masks = []
        for index, one in enumerate(inputs):
            set_random_state(self.random_states[index], self.device)
            masks.append(F.dropout(torch.ones_like(one), probability))
            self.random_states[index] = random_state(self.device)
        return torch.stack(masks)


class SumOverImages:
    """A loss of a batch as the sum over its images, so that each network descends as it would alone.

    Args:
        loss_function: loss with `terms`, each a mean over the images of a batch, such as `FuseNetLoss`.
    """

    def __init__(self, loss_function: Any) -> None:
        self.loss_function = loss_function

    def terms(self, output: FuseNetOutput) -> FuseNetTerms:
        """The weighted terms and their sum."""
        return FuseNetTerms(*(len(output[0]) * term for term in self.loss_function.terms(output)))


def random_state(device: torch.device) -> Tensor:
    """The state of the generator that draws on `device`."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def set_random_state(state: Tensor, device: torch.device) -> None:
    """Puts the generator that draws on `device` into a state that `random_state` returned."""
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


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
