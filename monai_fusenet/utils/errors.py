"""The reason of a failure in one line, as users see it in tables and logs, and faults that are no image's own."""

import traceback

import torch

_MONAI_WRAPPER = "applying transform"
_NO_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "could not create a memory object",
    "could not create a primitive",
)


def failure_reason(error: BaseException) -> str:
    """Says in one line why an image failed.

    MONAI wraps what a transform raises into "applying transform <...>", once per nested `Compose`; the reason is the
    first error below these wrappers.

    Args:
        error: what was caught.

    Returns:
        The first line of the message, with control characters escaped, or the error's class when it brings no message;
        where memory did not suffice, it says so.

    Example:
        >>> failure_reason(ValueError("first line\\nsecond line"))
        'first line'
        >>> failure_reason(KeyError())
        'KeyError'
        >>> failure_reason(MemoryError("Unable to allocate 8.00 TiB for an array"))
        'out of memory: Unable to allocate 8.00 TiB for an array'
    """
    while error.__cause__ is not None and str(error).startswith(_MONAI_WRAPPER):
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if is_out_of_memory(error):
        return ": ".join(
            ["out of memory", *(line.split("DefaultCPUAllocator: ")[-1] for line in map(printable, lines[:1]))]
        )
    return printable(lines[0]) if lines else type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that main memory or that of a GPU did not suffice.

    Example:
        >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("shapes differ"))
        (True, False)
    """
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_MEMORY)


def is_worker_death(error: BaseException) -> bool:
    """Whether an error of a data loader says that one of its worker processes was killed, or ended by itself.

    A worker that dies while it hands an image over breaks a connection, and torch notices its death only later. Other
    connections may break as well, such as the pipe that output goes to: that one is known by where the error was met.
    """
    if isinstance(error, ConnectionError | EOFError):
        modules = [frame.f_globals.get("__name__") for frame, _ in traceback.walk_tb(error.__traceback__)]
        return "torch.multiprocessing.reductions" in modules
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker (pid")


def printable(text: object) -> str:
    """Text in one line that shows what it holds: line breaks and other control characters as escapes.

    Example:
        >>> printable("a\\nb.png")
        'a\\\\nb.png'
    """
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in str(text))
