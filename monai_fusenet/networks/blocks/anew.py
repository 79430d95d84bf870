"""Activations that are computed again in the backward pass, because that is cheaper than keeping them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from monai_fusenet.utils.checks import check_switch
from monai_fusenet.utils.strips import tidy_heap

__all__ = ["Checkpointing", "anew", "linear_of_anew"]


class Checkpointing(nn.Module):
    """A block that can keep only its inputs for the backward pass, and compute the rest again there.

    Args:
        use_checkpoint: whether the block does this.

    Raises:
        ValueError: unless that is `True` or `False`.
    """

    def __init__(self, use_checkpoint: bool = False) -> None:
        super().__init__()
        check_switch("use_checkpoint", use_checkpoint)
        self.use_checkpoint = use_checkpoint

    def _tidy(self, values: Tensor) -> None:
        if self.use_checkpoint and values.device.type == "cpu" and not torch.compiler.is_compiling():
            tidy_heap(values.numel())

    def _run(self, function: Callable, *arguments: Any) -> Any:
        if self.use_checkpoint and torch.is_grad_enabled():
            return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
        return function(*arguments)


def anew(function: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> tuple[Tensor, ...]:
    """Computes `function(*inputs)` and keeps only the inputs for the backward pass.

    Unlike `torch.utils.checkpoint` it works under `torch.vmap`, and so in an ensemble.

    Args:
        function: from tensors to a tuple of tensors. Everything that needs a gradient must be among its inputs, weights
            included. It must not use random numbers.
        inputs: its arguments.
    """
    return _Anew.apply(function, *inputs) if _has_backward() else function(*inputs)


def linear_of_anew(function: Callable[..., Tensor], weight: Tensor, bias: Tensor, *inputs: Tensor) -> Tensor:
    """A linear map of `function(*inputs)` that keeps only the inputs; the map itself is not computed again.

    Args:
        function: see `anew`, but with one tensor (..., in) as its result.
        weight: (out, in).
        bias: (out,).
        inputs: arguments of the function.
    """
    if not _has_backward():
        return F.linear(function(*inputs), weight, bias)
    return _LinearOfAnew.apply(function, weight, bias, *inputs)


def _has_backward() -> bool:
    # A graph that is exported would not know the classes below.
    return torch.is_grad_enabled() and not (torch.jit.is_tracing() or torch.compiler.is_compiling())


def _precision_now(values: Tensor) -> Callable[[], AbstractContextManager]:
    """Makes contexts with the autocast of now, for the backward pass, which runs outside of it."""
    kind = values.device.type
    if not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):
        return nullcontext
    dtype = torch.get_autocast_dtype(kind)
    return lambda: torch.autocast(kind, dtype, cache_enabled=False)


class _Anew(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(function: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> tuple[Tensor, ...]:
        return function(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Any) -> None:
        ctx.function, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.precision = _precision_now(tensors[0])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        with ctx.precision():
            pull_back = torch.func.vjp(ctx.function, *ctx.saved_tensors)[1]
        return None, *pull_back(gradients)


class _LinearOfAnew(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(function: Callable[..., Tensor], weight: Tensor, bias: Tensor, *inputs: Tensor) -> Tensor:
        return F.linear(function(*inputs), weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Any) -> None:
        ctx.function, weight, _, *tensors = inputs
        ctx.save_for_backward(weight, *tensors)
        ctx.precision = _precision_now(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        weight, *tensors = ctx.saved_tensors
        with ctx.precision():
            values, pull_back = torch.func.vjp(ctx.function, *tensors)[:2]
        rows = gradient.flatten(0, -2)
        to_weight = (rows.t() @ values.detach().flatten(0, -2).to(rows.dtype)).to(weight.dtype)
        to_bias = rows.sum(dim=0, dtype=weight.dtype)
        inputs = pull_back((gradient @ weight.to(gradient.dtype)).to(values.dtype))
        return None, to_weight, to_bias, *inputs
