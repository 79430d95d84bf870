"""Processes that share items, some of which kill whoever takes them."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch

from monai_fusenet.utils.files import CannotWriteError
from monai_fusenet.utils.workers import Lost, cores, is_worker, spread

HERE = os.getpid()


def describe(item):
    return item * item, os.getpid(), torch.get_num_threads(), is_worker()


@pytest.mark.parametrize("workers", [2, 3, 40])
def test_each_item_is_done_once_by_a_process_of_one_thread(workers):
    items = list(range(17))
    found = dict(spread(describe, items, workers))
    assert {item: square for item, (square, *_) in found.items()} == {item: item * item for item in items}
    assert HERE not in {process for _, process, _, _ in found.values()}
    assert {threads for _, _, threads, _ in found.values()} == {1}
    assert all(worker for *_, worker in found.values())
    assert not is_worker()


@pytest.mark.parametrize("workers", [0, 1])
def test_one_worker_is_this_process_with_one_thread_and_in_order(workers):
    before = torch.get_num_threads()
    assert list(spread(describe, [3, 1, 2], workers)) == [(item, (item**2, HERE, 1, False)) for item in (3, 1, 2)]
    assert torch.get_num_threads() == before


def test_nothing_to_do():
    assert list(spread(describe, [], 4)) == []


def test_two_work_at_the_same_time():
    def meet(item):  # each waits until it has seen the other
        mine, other = (Path(folder, str(one)) for one in (item, 1 - item))
        mine.touch()
        for _ in range(600):
            if other.exists():
                return "met"
            time.sleep(0.05)
        return "alone"

    with tempfile.TemporaryDirectory() as folder:
        assert dict(spread(meet, [0, 1], 2)) == {0: "met", 1: "met"}


def kill_for(*items, times, folder):
    """A function that kills the process that takes one of the items, so many times for each."""

    def work(item):
        if item in items:
            deaths = Path(folder, f"{item}")
            count = len(deaths.read_text()) if deaths.exists() else 0
            if count < times:
                deaths.write_text("x" * (count + 1))
                os.kill(os.getpid(), signal.SIGKILL)
        return item + 100

    return work


@pytest.mark.parametrize("items", [range(9), range(2)])
def test_an_item_that_kills_one_process_is_done_by_another(tmp_path, items, caplog):
    found = dict(spread(kill_for(1, times=1, folder=tmp_path), items, 2))
    assert found == {item: item + 100 for item in items}
    assert caplog.messages == ["a process that works on images was killed; the others go on"]


def test_an_item_that_kills_two_processes_is_lost_and_the_others_are_done(tmp_path):
    found = dict(spread(kill_for(1, 4, times=9, folder=tmp_path), range(7), 3))
    reason = "the process that worked on it was killed, twice; perhaps memory does not suffice"
    assert found == {item: Lost(reason) if item in (1, 4) else item + 100 for item in range(7)}
    assert [len((tmp_path / str(item)).read_text()) for item in (1, 4)] == [2, 2]


def test_all_processes_die_at_once(tmp_path):
    found = dict(spread(kill_for(0, 1, 2, times=1, folder=tmp_path), range(6), 3))
    assert found == {item: item + 100 for item in range(6)}


def test_what_a_process_raises_ends_all():
    def write(item):
        if item == 2:
            raise CannotWriteError(28, "cannot write c.png into out: No space left on device")
        time.sleep(0.01)
        return item

    with pytest.raises(CannotWriteError, match="No space left on device"):
        list(spread(write, range(50), 2))


def test_an_error_that_cannot_travel_is_told_in_words():
    class Odd(Exception):  # noqa: N818
        def __reduce__(self):
            raise TypeError

    def fail(item):
        raise Odd("it went wrong")

    with pytest.raises(RuntimeError, match=r"^it went wrong$"):
        list(spread(fail, range(2), 2))


def test_a_caller_that_has_enough_leaves_no_process(tmp_path):
    def work(item):
        Path(tmp_path, str(os.getpid())).touch()
        time.sleep(0.01)
        return item

    results = spread(work, range(1000), 2)
    next(results)
    results.close()
    assert not any(Path("/proc", path.name).exists() for path in tmp_path.iterdir())


def test_processes_die_with_the_one_that_they_work_for(tmp_path):
    program = f"""
import os, time
from pathlib import Path
from monai_fusenet.utils.workers import spread
def work(item):
    Path({str(tmp_path)!r}, str(os.getpid())).touch()
    time.sleep(60)
list(spread(work, [0, 1], 2))
"""
    parent = subprocess.Popen([sys.executable, "-c", program])
    while len(list(tmp_path.iterdir())) < 2:
        time.sleep(0.1)
        assert parent.poll() is None
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while any(is_alive(path.name) for path in tmp_path.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def is_alive(process):
    try:
        return "\nState:\tZ" not in Path("/proc", process, "status").read_text()
    except OSError:
        return False


def test_a_backward_pass_before_does_not_hinder_those_of_the_processes():
    weights = torch.ones(3, requires_grad=True)
    (2 * weights).sum().backward()

    def gradient(item):
        mine = torch.ones(3, requires_grad=True)
        (item * mine).sum().backward()
        return mine.grad.tolist()

    assert dict(spread(gradient, [5.0, 7.0], 2)) == {5.0: [5.0] * 3, 7.0: [7.0] * 3}


def test_cores_are_those_that_this_process_may_use():
    assert 1 <= cores() <= (os.cpu_count() or 1)
    one = f"{sys.executable} -c 'from monai_fusenet.utils.workers import cores; print(cores())'"
    told = subprocess.run(["taskset", "-c", "0", "sh", "-c", one], capture_output=True, encoding="utf-8", check=True)
    assert told.stdout.strip() == "1"


def test_an_error_of_two_arguments_is_told_in_words():
    class Odd(Exception):  # noqa: N818
        def __init__(self, what, why):
            super().__init__(f"{what} {why}")

    def fail(item):
        raise Odd("it went", "wrong")

    with pytest.raises(RuntimeError, match=r"^it went wrong$"):
        list(spread(fail, range(2), 2))


def test_a_result_that_cannot_travel_is_told():
    with pytest.raises(RuntimeError, match=r"^what became of an image cannot be handed on: "):
        list(spread(lambda item: lambda: item, range(2), 2))


def test_an_end_that_is_asked_for_comes_whoever_works():
    def leave(item):
        raise SystemExit(3)

    for workers in (1, 2):
        with pytest.raises(SystemExit) as caught:
            list(spread(leave, range(2), workers))
        assert caught.value.code == 3


def test_processes_that_are_killed_while_they_have_nothing_to_do_cost_no_item(tmp_path):
    def work(item):
        if item == 0 and not (tmp_path / "killed").exists():
            while len(list(tmp_path.iterdir())) < 2:  # the others are done, and idle
                time.sleep(0.05)
            time.sleep(0.3)
            (tmp_path / "killed").touch()
            for path in tmp_path.glob("idle*"):
                os.kill(int(path.name[4:]), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        if item:
            (tmp_path / f"idle{os.getpid()}").touch()
        return item

    assert dict(spread(work, range(3), 3)) == {0: 0, 1: 1, 2: 2}
