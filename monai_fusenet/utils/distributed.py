"""Processes that share one piece of work, as torchrun starts them: its ranks.

A single process makes no process group; every function here then acts as for a single rank.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

__all__ = [
    *("bare", "choose_gpu", "first_to_say", "from_first", "gather", "is_lost", "join", "leave", "mean", "parallel"),
    *("rank", "share", "size"),
]

# How long ranks wait for the one that works alone. One that ends takes the others along at once, whatever this says:
# its connections close, and torchrun ends the rest.
PATIENCE = timedelta(days=7)

Item = TypeVar("Item")
Result = TypeVar("Result")
Module = TypeVar("Module", bound=nn.Module)

_alone = False  # while the first rank works and the others wait for it


def _grouped() -> bool:
    return not _alone and distributed.is_available() and distributed.is_initialized()


def rank() -> int:
    """Which of the processes this one is, from 0; 0 in a single process."""
    return distributed.get_rank() if _grouped() else 0


def size() -> int:
    """How many processes work together; 1 in a single process."""
    return distributed.get_world_size() if _grouped() else 1


def join(device: str | torch.device) -> None:
    """Joins the other processes, if torchrun, or what sets the same environment variables, has started several.

    Args:
        device: where this process will compute.

    Raises:
        ValueError: when the processes do not find each other.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or "RANK" not in os.environ or _grouped():
        return
    backend = "cpu:gloo,cuda:nccl" if torch.device(device).type == "cuda" else "gloo"
    try:
        distributed.init_process_group(backend, timeout=PATIENCE)
    except RuntimeError as error:
        raise ValueError(f"the processes do not find each other: {str(error).splitlines()[0]}") from error


def choose_gpu(device: str | torch.device) -> None:
    """Makes `cuda` without a number mean the GPU of this process's `LOCAL_RANK`, where several processes run."""
    device = torch.device(device)
    if size() > 1 and device.type == "cuda" and device.index is None:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))


def leave() -> None:
    """Waits until all ranks are here, so that the exit status of one ends none that still has something to write."""
    if size() > 1:
        gather(None)
        atexit.register(_destroy)  # and not where a rank fails: there it could wait for others


def _destroy() -> None:
    if _grouped():
        distributed.destroy_process_group()


def gather(value: Item) -> list[Item]:
    """The values of all ranks, in their order; all of them must call it."""
    if size() == 1:
        return [value]
    values: list[Any] = [None] * size()
    distributed.all_gather_object(values, value)
    return values


def from_first(function: Callable[[], Result]) -> Result:
    """Lets only the first rank do something; all others wait for its result or raise its error.

    Meanwhile the first rank is a single process to everything here.

    Args:
        function: its result travels by pickle, tensors on the CPU.
    """
    global _alone
    if size() == 1:
        return function()
    answer: list[Any] = [None, None]
    if rank() == 0:
        _alone = True
        try:
            answer[0] = function()
        except Exception as error:
            answer[1] = error
        finally:
            _alone = False
    distributed.broadcast_object_list(answer)
    if answer[1] is not None:
        raise answer[1]
    return answer[0]


def share(items: Sequence[Item]) -> list[Item]:
    """The items for this rank: every `size()`-th. All ranks must hold the same items."""
    return list(items[rank() :: size()])


def mean(values: Tensor) -> Tensor:
    """The mean over all ranks, the same to the last bit on each of them."""
    if size() == 1:
        return values
    parts = [torch.empty_like(values) for _ in range(size())]
    distributed.all_gather(parts, values.contiguous())
    return torch.stack(parts).mean(dim=0)


def parallel(network: Module) -> Module | DistributedDataParallel:
    """Wraps a network so that each step averages the gradients of all ranks; unchanged in a single process.

    On GPUs batch norm takes its statistics from all ranks; on CPUs, where torch has no such layer, each rank from its
    own part of the batch.

    Args:
        network: the same on all ranks, on the device where this one computes.
    """
    if size() == 1:
        return network
    device = next(network.parameters()).device
    if device.type == "cpu":
        return DistributedDataParallel(network)
    return DistributedDataParallel(nn.SyncBatchNorm.convert_sync_batchnorm(network), device_ids=[device])


def bare(network: nn.Module) -> nn.Module:
    """The network inside what `parallel` returns: what one rank alone may call, and whose weights have plain names."""
    return network.module if isinstance(network, DistributedDataParallel) else network


def first_to_say(line: str) -> bool:
    """Whether no other rank has asked this before about the same line, so that it is printed once."""
    if size() > 1:
        with suppress(RuntimeError):  # the store may have ended with the rank that kept it
            return distributed.distributed_c10d._get_default_store().add(line, 1) == 1
    return True


def is_lost(error: RuntimeError) -> bool:
    """Whether an error means that another rank has ended or cannot be reached."""
    return isinstance(error, distributed.DistError) or "gloo/transport" in str(error)
