"""How many threads compute, where the last bits of a result depend on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

__all__ = ["in_one_thread", "one_thread"]

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def one_thread() -> Iterator[None]:
    """Lets torch compute with one thread, so that results are the same to the last bit whoever asks for them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def in_one_thread(function: Callable[[Item], Result]) -> Callable[[Item], Result]:
    """The function, called with one thread of torch and of the libraries below NumPy and scikit-learn."""
    from threadpoolctl import ThreadpoolController  # fits alone need none of it

    controller = ThreadpoolController()

    def call(item: Item) -> Result:
        with one_thread(), controller.limit(limits=1):
            return function(item)

    return call
