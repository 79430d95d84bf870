"""The only place where exceptions become one line and an exit status, and only in `python -m monai.bundle`."""

from __future__ import annotations

import contextlib
import functools
import inspect
import multiprocessing
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
FROM_OUTSIDE = (signal.SIGINT, signal.SIGTERM)
PATIENCE = 10.0  # seconds until an interrupt comes again; a loader that ends waits for a worker for up to 5
Result = TypeVar("Result")


class UnfinishedError(RuntimeError):
    """A workflow has ended, but some of its images could not be done; its results name these and say why.

    Args:
        message: the number of failed images, and the place where they are named.
        status: exit status: 1 if nothing could be done, 2 if some images failed.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Interrupted(SystemExit):
    """Ctrl-C or SIGTERM; it ends the program with the status that shells give it, and without a traceback.

    Attributes:
        done: the work done so far, as text for users.
    """

    done = ""


def is_program() -> bool:
    """Whether this process is `python -m monai.bundle`, and not a program that calls MONAI or this package."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec is not None and spec.name == PROGRAM


def edge(function: Callable[..., Result]) -> Callable[..., Result]:
    """Decorates functions that a config calls: in `python -m monai.bundle`, errors of the user end it with one line.

    Otherwise an error in a config prints dozens of lines. The exit status is 1, that of `UnfinishedError`, or that of
    the signal that ended the program. Any other program gets the exceptions unchanged.
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
            raise tell_interrupt(stop) from None
        except UnfinishedError as error:  # every image was named already
            raise SystemExit(error.status) from error
        except Exception as error:
            ending = signal.getsignal(signal.SIGTERM)
            if isinstance(ending, _Ending) and ending.status:  # what an interrupt tears apart fails in any way
                raise tell_interrupt(Interrupted(ending.status)) from None
            close_progress_bars()
            reason = describe(error)
            if reason is None:
                raise
            line = f"error: {printable(reason)}"
            raise SystemExit(line if distributed.first_to_say(line) else 1) from error

    return wrapper


def tell_interrupt(stop: Interrupted) -> SystemExit:
    """Prints the message, even if a second signal comes, and returns the error that ends the program."""
    ending = signal.getsignal(signal.SIGTERM)
    if isinstance(ending, _Ending):
        ending.last()
    close_progress_bars()
    if distributed.rank() == 0:
        print(f"\ninterrupted; {stop.done}{AGAIN}", file=sys.stderr)  # after ^C, or half a bar
    return SystemExit(stop.code)


def cause_of(error: BaseException) -> BaseException:
    """The error that MONAI wraps into plain `RuntimeError` objects, one for each nested entry of a config."""
    while type(error) is RuntimeError and error.__cause__ is not None:
        error = error.__cause__
    return error


def is_told(error: BaseException) -> bool:
    """Whether the message of an error is clear by itself: what was expected, what came, or what failed."""
    return isinstance(error, ValueError | OSError | MemoryError | UnfinishedError)


def describe(error: Exception) -> str | None:
    """The line for an error that a user can correct; `None` for all others."""
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


class _Ending:
    """Handler of signals that raises `Interrupted` in this process, again and again until that has ended it.

    An exception that comes in the midst of anything may be lost: Python forgets it in `__del__`, a library catches
    all. It may also leave a lock taken for which the way out then waits.
    """

    def __init__(self) -> None:
        self.process = os.getpid()
        self.status = 0  # until a signal has come
        self.is_last = False

    def __call__(self, number: int, frame: Any) -> None:
        if os.getpid() != self.process:  # a worker, which comes into being with the same handlers
            if number == signal.SIGTERM:  # from this process, to a worker that has just begun
                os._exit(128 + number)
        elif not self.is_last:
            self.status = self.status or 128 + number
            self._come_again()
            raise Interrupted(self.status)
        elif number not in FROM_OUTSIDE:
            for worker in multiprocessing.active_children():
                worker.kill()
            os._exit(self.status)

    def last(self) -> None:
        """Nothing is left but to say so: where the process has not ended by the next time, it ends there and then."""
        self.is_last = True
        if hasattr(signal, "SIGCHLD"):  # not on Windows; torch raises from it where a worker ends by the same signal
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._come_again()

    def _come_again(self) -> None:
        if hasattr(signal, "setitimer"):  # not on Windows
            signal.signal(signal.SIGALRM, self)
            signal.setitimer(signal.ITIMER_REAL, PATIENCE, PATIENCE)


def tell_uncaught() -> None:
    """Makes errors of the user end `python -m monai.bundle` with one line where MONAI builds a part of the config, too.

    There no function of ours is called that `edge` could decorate; MONAI wraps the error, and nothing catches it.
    """
    if is_program():
        sys.excepthook = functools.partial(_tell_uncaught, sys.excepthook)


def _tell_uncaught(otherwise: Callable[..., Any], kind: type, error: BaseException, trace: Any) -> None:
    cause = cause_of(error)
    reason = describe(cause) if cause is not error and isinstance(cause, Exception) else None
    if reason is None:
        otherwise(kind, error, trace)
        return
    close_progress_bars()
    if distributed.first_to_say(reason):
        print(f"error: {printable(reason)}", file=sys.stderr)


def end_on_signals() -> None:
    """Makes Ctrl-C and SIGTERM end this process by `Interrupted`, if it is `python -m monai.bundle` and nothing else.

    If something blocks it, it is sent again. Worker processes leave Ctrl-C to this process, which ends them.
    """
    if is_program():
        ending = _Ending()
        for number in FROM_OUTSIDE:
            signal.signal(number, ending)
