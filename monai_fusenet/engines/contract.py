"""The data that engine, network and loss exchange, for every method."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

__all__ = [
    "VIEWS",
    "Scores",
    "check_loss",
    "check_terms",
    "check_views",
    "map_tensors",
    "named_output",
    "network_inputs",
]

TAKEN = frozenset(("loss", "clusters"))  # names that the trainer publishes beside the terms
VIEWS = ("image", "augmented")  # those of a batch that the network sees; the loss sees all


class Scores(NamedTuple):
    """The input of a loss if the network returns a tensor: its scores (B, K, *spatial)."""

    scores: Tensor


def network_inputs(views: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """The inputs of a network: the image and, where there is one, the augmented view."""
    return tuple(views[name] for name in VIEWS if name in views)


def check_views(network: nn.Module, views: Mapping[str, Tensor]) -> None:
    """Raises `ValueError` unless a network takes as many inputs as there are views of the image."""
    inputs = network_inputs(views)
    try:
        inspect.signature(network.forward).bind(*inputs)
    except TypeError:
        advice = "; augmentation=dict makes only one" if len(inputs) > 1 else ""
        raise ValueError(
            f"{type(network).__name__} does not take the {len(inputs)} views that the augmentation makes of an image, "
            f"{' and '.join(name for name in VIEWS if name in views)}{advice}"
        ) from None


def named_output(output: Any) -> Any:
    """The output of a network in the form a loss needs: a tensor becomes `Scores`, a tuple stays as it is."""
    return Scores(output) if isinstance(output, Tensor) else output


def check_loss(loss_function: Any) -> None:
    """Raises `ValueError` unless a loss has `terms`."""
    if not callable(getattr(loss_function, "terms", None)):
        raise ValueError(
            "loss_function must have a method terms(output, batch) that returns a named tuple, got a "
            f"{type(loss_function).__name__}"
        )


def check_terms(terms: Any) -> None:
    """Raises `ValueError` unless terms are a named tuple of tensors, `total` first, without reserved names."""
    names = getattr(terms, "_fields", ())
    if names[:1] != ("total",) or not all(isinstance(term, Tensor) for term in terms):
        came = f"the fields {', '.join(names)}" if names else f"a {type(terms).__name__}"
        raise ValueError(f"the terms of a loss must be a named tuple of tensors whose first field is total, got {came}")
    for name in TAKEN.intersection(names):
        raise ValueError(f"a term of a loss may not be named {name}: the trainer publishes a number of that name")


def map_tensors(function: Callable[[Tensor], Tensor], output: Any) -> Any:
    """Applies a function to each tensor of a network's output.

    Args:
        function: from tensor to tensor.
        output: a tensor, or a tuple, named tuple or list of such outputs; anything else stays as it is.

    Returns:
        an output of the same type
    """
    if isinstance(output, Tensor):
        return function(output)
    if not isinstance(output, tuple | list):
        return output
    parts = (map_tensors(function, part) for part in output)
    return output._make(parts) if hasattr(output, "_make") else type(output)(parts)
