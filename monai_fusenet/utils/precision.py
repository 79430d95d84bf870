"""What half precision has no room for: sums over many pixels, normalisation, and the logarithm of what is sure."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

__all__ = ["at_least_float32", "full_precision", "has_fast_bfloat16"]

AMPERE = 8  # major number of the first architecture with units for bfloat16


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision, whole numbers and booleans become float32; float32 and float64 stay, and are not copied."""
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def full_precision(values: Tensor) -> AbstractContextManager:
    """A context in which autocast does not turn the products of tensors on the device of `values` to half precision."""
    kind = values.device.type
    # Nothing where there is nothing to turn off: a graph that is exported would remember it.
    active = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if active else nullcontext()


def has_fast_bfloat16(device: str | torch.device) -> bool:
    """Whether a device has units for products of bfloat16: GPUs since 2020, and CPUs with AMX.

    Others compute them, too, but more slowly than those of float32.
    """
    if torch.device(device).type == "cuda":
        is_there = (torch.device(device).index or 0) < torch.cuda.device_count()
        return is_there and torch.cuda.get_device_capability(device)[0] >= AMPERE
    has_tiles = getattr(torch.cpu, "_is_amx_tile_supported", None)  # torch has no public name for it
    return torch.device(device).type == "cpu" and has_tiles is not None and bool(has_tiles())
