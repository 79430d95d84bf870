"""Weights of a network: read from a checkpoint, checked, and distinguished from untrained weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from monai_fusenet.bundle.faults import edge
from monai_fusenet.handlers.checkpoint import load_tensors
from monai_fusenet.inferers import PerImageInferer

__all__ = ["UnfitWeightsError", "fingerprint", "initial_network", "load_network"]


class UnfitWeightsError(ValueError):
    """The weights belong to another network; the message names the checkpoint and the first difference."""


@edge
def load_network(
    network: nn.Module, checkpoint: str | Path | None, inferer: Any, bundle_root: str | Path, device: str | torch.device
) -> nn.Module:
    """The network with the weights that the inferer needs.

    Args:
        network: where the weights go.
        checkpoint: `model.pt` or `checkpoint.pt` of a training, or `None`.
        inferer: a `PerImageInferer` that starts with new weights needs no checkpoint; all others do.
        bundle_root: the bundle, whose `models/model.pt` holds untrained weights.
        device: where the network goes.

    Raises:
        ValueError: when weights are needed and missing or untrained, given and not needed, or do not fit.
    """
    network = network.to(device)
    fresh = isinstance(inferer, PerImageInferer) and inferer.steps > 0 and inferer.fresh
    if checkpoint is None and fresh:
        return network
    if checkpoint is None:
        raise ValueError("feed-forward and adaptation need trained weights: give --checkpoint, a training's model.pt")
    if fresh:
        raise ValueError(
            "--checkpoint has no effect here: each image is fitted from fresh weights; "
            "the preset feedforward or adapt uses it (configs/feedforward.yaml, configs/adapt.yaml)"
        )
    weights = _read_weights(checkpoint, device)
    shipped = Path(bundle_root) / "models" / "model.pt"
    if shipped.is_file():
        untrained = load_tensors(shipped, device)
        if untrained.keys() == weights.keys() and all(torch.equal(untrained[name], weights[name]) for name in weights):
            raise ValueError(f"{checkpoint} holds the untrained weights that the bundle ships: train first")
    return _with_weights(network, weights, checkpoint)


@edge
def initial_network(network: nn.Module, checkpoint: str | Path | None, device: str | torch.device) -> nn.Module:
    """The network that a training starts from: with its initial weights, or with those of a checkpoint.

    Raises:
        ValueError: when the checkpoint is unreadable; an `UnfitWeightsError` when it does not fit.
    """
    network = network.to(device)
    return network if checkpoint is None else _with_weights(network, _read_weights(checkpoint, device), checkpoint)


def _with_weights(network: nn.Module, weights: Mapping[str, torch.Tensor], checkpoint: str | Path) -> nn.Module:
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UnfitWeightsError(f"{checkpoint} does not fit this network: {reason}") from error
    for name, value in network.state_dict().items():
        if not value.isfinite().all():
            raise ValueError(f"{checkpoint} is of no use: its weights {name} hold NaN or infinite values")
    return network


def _read_weights(checkpoint: str | Path, device: str | torch.device) -> Mapping[str, torch.Tensor]:
    path = Path(str(checkpoint)).expanduser()
    if not path.is_file():
        raise ValueError(f"checkpoint {path} is no file")
    try:
        state = load_tensors(path, device)
    except ValueError as error:
        raise ValueError(f"checkpoint {error}") from error
    if isinstance(state, Mapping) and "network" in state:
        state = state["network"]
    if not isinstance(state, Mapping):
        raise ValueError(f"checkpoint {path} holds no weights, but a {type(state).__name__}")
    for name, value in state.items():
        if not (isinstance(name, str) and isinstance(value, torch.Tensor) and value.layout == torch.strided):
            raise ValueError(f"checkpoint {path} holds no weights: {name!r} must name a dense tensor")
    return state


def fingerprint(network: nn.Module) -> str:
    """SHA-256 of the names and values of all weights, as hexadecimal digits."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
