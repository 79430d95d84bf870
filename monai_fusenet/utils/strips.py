"""Large maps, some rows at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_fusenet.utils.memory import trim_heap

__all__ = ["CPU_VALUES", "rows_at_once", "tidy_heap"]

# Values of a map that are worked on together. On a CPU, few enough for the caches, and for malloc to hand the same
# memory out again (above 32 MiB glibc returns it to the system each time, and every new page costs more than the
# arithmetic on it). On a GPU, all of a usual image.
CPU_VALUES = 2**18
GPU_VALUES = 2**24
MIN_ROWS = 8  # where a strip needs a row of its neighbours at either side, fewer would mean mostly neighbours
TIDY_AFTER = 2**23  # values of strips

_values_since = 0


def rows_at_once(values: Tensor, axis: int, cpu_values: int = CPU_VALUES) -> int:
    """How many rows of `axis` to work on together.

    Tracers and exporters get all rows: a graph in strips would hold for one image size only.

    Args:
        values: a map.
        axis: of its rows.
        cpu_values: of a strip on a CPU; more, where rows of neighbours cost more than the caches save.
    """
    rows = values.shape[axis]
    if torch.jit.is_tracing() or torch.compiler.is_compiling():
        return rows
    at_once = cpu_values if values.device.type == "cpu" else GPU_VALUES
    return max(MIN_ROWS, at_once * rows // max(1, values.numel()))


def tidy_heap(values: int) -> None:
    """Hands the holes of the heap back to the system, each time that strips of so many values have been worked on.

    What is small and stays, such as a node of autograd, comes to lie where large tensors were, and the next large one
    no longer fits in between: with glibc, an image of 1024 x 1024 pixels leaves 5 GB of such holes in one step.

    Args:
        values: how many were worked on since the last call.
    """
    global _values_since
    _values_since += values
    if _values_since >= TIDY_AFTER:
        _values_since = 0
        trim_heap()
