"""A small sample of `python -m benchmarks.fuzz`: damaged files of every format, and made-up options."""

import os

import pytest

from benchmarks.fuzz import ALLOWED, KINDS, SAMPLES, Worker, fuzz

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="watches the process by what Linux tells")


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    worker = Worker(tmp_path_factory.mktemp("fuzz"))
    yield worker
    worker.close()


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_input_is_handled_or_refused_in_one_line(worker, kind):
    outcomes = [outcome for _, outcome in fuzz(kind, 30, seed=0, worker=worker)]
    assert len(outcomes) == 30
    assert [outcome for outcome in outcomes if outcome.kind not in ALLOWED] == []
    assert any(outcome.kind != "loaded" for outcome in outcomes)


@pytest.mark.parametrize("kind", SAMPLES)
def test_the_files_are_valid_before_they_are_damaged(worker, kind):
    for files in SAMPLES[kind]():
        assert worker.run(kind, files).kind == "loaded"


def test_a_worker_that_dies_is_seen_and_replaced(worker):
    assert worker.process is not None
    worker.process.kill()
    assert worker.run(".png", {"a.png": b"no picture"}).kind == "crash"
    assert worker.run(".png", {"a.png": b"no picture"}).kind == "refused"
