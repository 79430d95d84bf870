"""Signals at moments that lose the exception of their handler, or hold up what it ends."""

import multiprocessing
import signal
import threading
import time
from contextlib import suppress
from multiprocessing import util

import pytest

from monai_fusenet.bundle import faults


def stubborn():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(30)  # longer than the test waits


def forgets_in_del():
    class Forgets:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)

    Forgets()
    while True:
        time.sleep(0.01)


def catches_all():
    for _ in range(3):
        with suppress(BaseException):
            signal.raise_signal(signal.SIGTERM)
    while True:
        time.sleep(0.01)


def waits_for_a_lock_on_the_way_out():
    lock = threading.Lock()
    lock.acquire()
    try:
        signal.raise_signal(signal.SIGTERM)
    finally:
        lock.acquire()


def fails_as_it_is_torn_apart():
    try:
        signal.raise_signal(signal.SIGTERM)
    finally:
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Terminated")


def leaves_a_worker_that_will_not_end():
    multiprocessing.get_context("fork").Process(target=stubborn, daemon=True).start()
    time.sleep(0.2)
    signal.raise_signal(signal.SIGTERM)


def hears_of_a_worker_as_it_ends():
    def complain(number, frame):
        raise RuntimeError("DataLoader worker (pid 1) exited unexpectedly")

    signal.signal(signal.SIGCHLD, complain)
    multiprocessing.get_context("fork").Process(target=time.sleep, args=[30], daemon=True).start()
    signal.raise_signal(signal.SIGTERM)


def is_told_again_as_it_ends():
    atexit = util.Finalize(None, signal.raise_signal, args=[signal.SIGINT], exitpriority=0)
    assert atexit.still_active()
    signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize(
    "program",
    [
        forgets_in_del,
        catches_all,
        waits_for_a_lock_on_the_way_out,
        fails_as_it_is_torn_apart,
        leaves_a_worker_that_will_not_end,
        hears_of_a_worker_as_it_ends,
        is_told_again_as_it_ends,
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_no_signal_is_lost(monkeypatch, capfd, program):
    monkeypatch.setattr(faults, "PATIENCE", 0.5)
    monkeypatch.setattr(faults, "is_program", lambda: True)

    def run():
        faults.end_on_signals()
        faults.edge(program)()

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(20)
    process.kill()
    process.join()
    assert process.exitcode == 143
    assert capfd.readouterr().err.splitlines()[-1] == "interrupted; run the same command again to go on"


def test_a_program_of_its_own_keeps_its_handlers():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)]
    faults.end_on_signals()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)] == before
