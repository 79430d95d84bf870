"""Spreads items over processes of one thread each, and goes on where one of them is killed."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import logging
import multiprocessing
import os
import signal
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait
from typing import Any, NamedTuple, TypeVar

import torch

from monai_fusenet.utils.memory import signals_wait
from monai_fusenet.utils.threads import in_one_thread

__all__ = ["Lost", "can_fork", "cores", "is_worker", "spread"]

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_IDLE_DEATHS = 100  # after which it is not chance that processes die before they begin
DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux

_worker = False  # in the processes of a `spread`


class Lost(NamedTuple):
    """Replaces the result of an item that crashed two processes."""

    reason: str = "the process that worked on it was killed, twice; perhaps memory does not suffice"


def cores() -> int:
    """How many cores this process may use: those of the machine, of its affinity, of its container."""
    import joblib  # fits alone need none of it

    return joblib.cpu_count()


def can_fork() -> bool:
    """Whether processes can begin as copies of this one, with all that it has built: on Linux, before a GPU is used."""
    return sys.platform == "linux" and not torch.cuda.is_initialized()


def is_worker() -> bool:
    """Whether this process works for another one, which alone shows how far they are."""
    return _worker


def spread(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> Iterator[tuple[Item, Result | Lost]]:
    """Calls a function for each item in one of several processes, and yields results as they come.

    The processes are copies of this one (fork), so the function need not be picklable; each computes with one thread.
    Each gets one item after the other. If one is killed, the others go on without it; its item is done at the end, by a
    single process, which needs the least memory. An item that crashes two processes is `Lost`. The processes end with
    the thread that asked for the first result. They have no time limit for an item, and cannot start processes of their
    own.

    Args:
        function: its results travel by pickle; an error in it ends all processes and is raised here.
        items: what to call it with.
        workers: how many processes; 1: none but this one, with one thread.

    Yields:
        item and result, in the order in which they are finished.
    """
    if workers <= 1 or len(items) <= 1 or not can_fork():
        alone = in_one_thread(function)
        for item in items:
            yield item, alone(item)
        return
    crew = _Crew(function, items)
    try:
        crew.hire(min(workers, len(items)))
        yield from crew.run()
    finally:
        crew.end()


class _Crew:
    """The processes of one `spread`."""

    def __init__(self, function: Callable, items: Sequence) -> None:
        self.function = function
        self.items = items
        self.left = deque(range(len(items)))
        self.alone: deque[int] = deque()  # what a process died of: to be done by one process alone
        self.deaths = Counter[int]()
        self.idle_deaths = Counter[int]()  # of processes that were given an item, and had not begun with it
        self.busy: dict[Any, int] = {}  # lines to processes, and the items that they were given
        self.begun: set[Any] = set()  # lines to those that have said that they have theirs
        self.processes: dict[Any, Any] = {}

    def hire(self, workers: int) -> None:
        """Starts so many processes, or as many as the system allows, at least one."""
        for _ in range(workers):
            try:
                self._hire()
            except OSError:
                if not self.processes:
                    raise
                break

    def run(self) -> Iterator[tuple[Any, Any]]:
        """Yields items and their results."""
        for line in list(self.processes):
            self._give(line)
        while self.busy:
            for line in wait(list(self.busy)):
                yield from self._hear(line)
            if not self.busy and (self.left or self.alone):
                if not self.processes:
                    self._hire()
                self._give(next(iter(self.processes)))

    def end(self) -> None:
        """Ends all processes, whatever they do: files are written whole or not at all."""
        for process in self.processes.values():
            process.kill()
        for line, process in self.processes.items():
            process.join()
            line.close()
        self.processes.clear()

    def _hire(self) -> None:
        here, there = multiprocessing.Pipe()
        others = [here, *self.processes]
        task = (self.function, self.items, there, others, os.getpid())
        process = multiprocessing.get_context("fork").Process(target=_work, args=task, daemon=True)
        with signals_wait():  # what a handler raises while a process begins, Python prints and forgets
            process.start()
        there.close()
        self.processes[here] = process

    def _give(self, line: Any) -> None:
        """Gives a process its next item; items that killed one wait until no other process is busy."""
        source = self.left or (None if self.busy else self.alone)
        if source:
            index = source.popleft()
            self.busy[line] = index
            with contextlib.suppress(OSError):  # it is dead, which shows as soon as an answer is awaited
                line.send(index)

    def _hear(self, line: Any) -> Iterator[tuple[Any, Any]]:
        try:
            said = line.recv()
        except (EOFError, OSError):
            yield from self._mourn(line)
            return
        if said is None:
            self.begun.add(line)
            return
        result, error = said
        index = self.busy.pop(line)
        self.begun.discard(line)
        if error is not None:
            raise error
        self._give(line)  # before the caller does anything with the result
        yield self.items[index], result

    def _mourn(self, line: Any) -> Iterator[tuple[Any, Any]]:
        """A process was killed: yields what it was working on where that has cost another its life before."""
        process = self.processes.pop(line)
        line.close()
        process.join()
        index = self.busy.pop(line)
        self.idle_deaths[index] += line not in self.begun
        if line not in self.begun and self.idle_deaths[index] <= MOST_IDLE_DEATHS:  # with nothing to do
            self.left.appendleft(index)
            return
        self.begun.discard(line)
        self.deaths[index] += 1
        if self.deaths[index] > 1:
            yield self.items[index], Lost()
        else:
            self.alone.append(index)
            logger.warning("a process that works on images was killed; the others go on")


def _work(function: Callable, items: Sequence, line: Any, others: Sequence, parent: int) -> None:
    """What a process does until nothing more comes."""
    global _worker
    _worker = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the first process ends the others
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(DIES_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:  # killed before it could be told
        return
    for other in others:  # copies, which would keep lines open whose owner is dead
        other.close()
    alone = in_one_thread(function)
    while True:
        try:
            item = items[line.recv()]
            line.send(None)
        except (EOFError, OSError):
            return
        answer: tuple[Any, BaseException | None]
        try:
            answer = (alone(item), None)
        except BaseException as error:
            answer = (None, _that_travels(error))
        try:
            line.send(answer)
        except OSError:  # nobody listens any more
            return
        except Exception as error:  # a result that cannot travel
            line.send((None, RuntimeError(f"what became of an image cannot be handed on: {error}")))


def _that_travels(error: BaseException) -> BaseException:
    """An error, or one with its text where it cannot be made anew from what it says of itself."""
    try:
        copy.copy(error)  # as pickle would
        return error
    except Exception:
        return RuntimeError(str(error))
