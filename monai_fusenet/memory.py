"""Memory that is no longer needed, given back to the system."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["collecting_is_cheap", "release_memory"]

try:
    _trim = ctypes.CDLL(None).malloc_trim
except (AttributeError, OSError, TypeError):  # no glibc
    _trim = None  # type: ignore[assignment]


def release_memory() -> None:
    """Gives memory of the past back to the system.

    Engines and figures are circles of objects, and hold networks and pictures until Python looks for circles, which it
    does rarely. What is freed, glibc keeps in its heap, as it takes blocks of up to 32 MiB from there once it has met
    some: hundreds of MiB that only `malloc_trim`, a matter of some hundredths of a second, hands back.
    """
    gc.collect()
    if _trim is not None:
        _trim(0)


@contextmanager
def collecting_is_cheap() -> Iterator[None]:
    """In the block, Python looks for circles among what has come into being since its beginning.

    Modules and their functions, hundreds of thousands of objects, would take most of the time.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
