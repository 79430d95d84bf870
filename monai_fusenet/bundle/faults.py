"""The only place where exceptions become one line and an exit status, and only in `python -m monai.bundle`."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from tqdm import tqdm

from monai_fusenet.utils import distributed
from monai_fusenet.utils.errors import failure_reason, is_out_of_memory, is_worker_death, printable
from monai_fusenet.utils.files import CannotWriteError

__all__ = ["Interrupted", "UnfinishedError", "edge", "end_on_signals"]

AGAIN = "run the same command again to go on"
PROGRAM = "monai.bundle.__main__"
Result = TypeVar("Result")


class UnfinishedError(RuntimeError):
    """A workflow is at its end, and some of its images could not be done; its results name them and say why.

    Args:
        message: how many, and where they are named.
        status: exit status that tells this: 1 where nothing could be done, 2 where some could not.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Interrupted(SystemExit):
    """Ctrl-C or SIGTERM, which end the program with the status that shells give to it, and without a traceback.

    Attributes:
        done: what was reached, as users read it.
    """

    done = ""


def is_program() -> bool:
    """Whether this process is `python -m monai.bundle`, and not a program that calls MONAI or this package."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec is not None and spec.name == PROGRAM


def edge(function: Callable[..., Result]) -> Callable[..., Result]:
    """Marks what a config calls: in `python -m monai.bundle`, faults that users can mend end it in one line.

    From a config, they print dozens of lines. The exit status is 1, that of `UnfinishedError`, or that of the signal
    that ended the program. Any other program gets the exceptions as they are.
    """
    signature = inspect.signature(function)

    def call(*args: Any, **kwargs: Any) -> Result:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise ValueError(
                f"the config is of another version of monai_fusenet ({function.__name__}: {error}); take the one that "
                "comes with this version, or distil a distilled network again"
            ) from error
        return function(*args, **kwargs)

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Result:
        if not is_program():
            return call(*args, **kwargs)
        try:
            return call(*args, **kwargs)
        except Interrupted as stop:
            close_progress_bars()
            if distributed.rank() == 0:
                print(f"\ninterrupted; {stop.done}{AGAIN}", file=sys.stderr)  # after ^C, or half a bar
            raise SystemExit(stop.code) from None
        except UnfinishedError as error:  # every image was named already
            raise SystemExit(error.status) from error
        except Exception as error:
            close_progress_bars()
            reason = describe(error)
            if reason is None:
                raise
            line = f"error: {printable(reason)}"
            raise SystemExit(line if distributed.first_to_say(line) else 1) from error

    return wrapper


def cause_of(error: BaseException) -> BaseException:
    """What MONAI wraps into a plain `RuntimeError`, once for each nested entry of a config."""
    while type(error) is RuntimeError and error.__cause__ is not None:
        error = error.__cause__
    return error


def is_told(error: BaseException) -> bool:
    """Whether an error says all by itself: what was expected, what came, or what could not be done."""
    return isinstance(error, ValueError | OSError | MemoryError | UnfinishedError)


def describe(error: Exception) -> str | None:
    """What a user reads of an error that a user can mend, in one line; `None` for all others."""
    if isinstance(error, CannotWriteError):
        return f"{error}; what is finished is kept, {AGAIN}"
    if is_worker_death(error):
        reason = "a process that loads images was killed, perhaps as memory did not suffice"
        return f"{reason}; what is finished is kept, {AGAIN}, with fewer --num_workers"
    if isinstance(error, ValueError | OSError):
        return str(error)
    if isinstance(error, RuntimeError) and distributed.is_lost(error):
        return "another process of this run has ended, and this one cannot go on alone"
    if is_out_of_memory(error):
        return f"{failure_reason(error)}; a smaller --working_size or --batch_size needs less"
    return None


def close_progress_bars() -> None:
    """Ends the lines of the bars that an error has left, so that what is printed next has a line of its own."""
    for bar in list(getattr(tqdm, "_instances", ())):
        with contextlib.suppress(AttributeError):  # an interrupt may come while a bar is being made
            bar.close()


def end_on_signals() -> None:
    """Makes Ctrl-C and SIGTERM end this process by `Interrupted`, if it is `python -m monai.bundle` and nothing else.

    Worker processes, which come into being with the same handlers, leave Ctrl-C to this one, which ends them.
    """
    if not is_program():
        return
    main_process = os.getpid()

    def end(number: int, frame: Any) -> None:
        if os.getpid() == main_process:
            raise Interrupted(128 + number)
        if number == signal.SIGTERM:  # from this process, to a worker that has just begun
            os._exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
