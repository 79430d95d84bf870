"""Main memory: how much was used, and what is no longer needed given back to the system."""

from __future__ import annotations

import ctypes
import gc
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["collecting_is_cheap", "peak_memory", "release_memory", "signals_wait", "trim_heap"]

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

try:
    _trim = ctypes.CDLL(None).malloc_trim
except (AttributeError, OSError, TypeError):  # no glibc
    _trim = None  # type: ignore[assignment]


def trim_heap() -> None:
    """Hands the holes of the heap back to the system; does nothing without glibc."""
    if _trim is not None:
        _trim(0)


def release_memory() -> None:
    """Gives memory of the past back to the system.

    Engines and figures are circles of objects, and hold networks and pictures until Python looks for circles, which it
    does rarely. What is freed, glibc keeps in its heap, as it takes blocks of up to 32 MiB from there once it has met
    some: hundreds of MiB that only `malloc_trim`, a matter of some hundredths of a second, hands back.
    """
    with signals_wait():
        gc.collect()
    trim_heap()


@contextmanager
def signals_wait() -> Iterator[None]:
    """Ctrl-C and SIGTERM come after the block: what their handlers raise in it, Python prints and forgets."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not None]
    before = {number: signal.signal(number, lambda sent, frame: came.append(sent)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for sent in came:
            signal.raise_signal(sent)


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


def peak_memory() -> float | None:
    """The most main memory that this process has used so far, in MiB; `None` where the system does not say."""
    if resource is None:
        return None
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
