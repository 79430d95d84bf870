import multiprocessing
import queue
import sys
import threading

import pytest
from ignite.engine import Engine, Events
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from monai_fusenet.handlers import TensorBoardMetrics


def scripted(folder):
    """An engine whose loss is the number of its iteration."""
    engine = Engine(lambda engine, batch: engine.state.metrics.update(loss=float(engine.state.iteration)))
    TensorBoardMetrics(folder).attach(engine)
    return engine


def written(folder):
    events = EventAccumulator(str(folder))
    events.Reload()
    return [event.value for event in events.Scalars("loss/iteration")]


@pytest.mark.parametrize("failure", [None, ValueError(), KeyboardInterrupt()])
def test_numbers_of_each_iteration_are_written(tmp_path, failure):
    engine = scripted(tmp_path)

    @engine.on(Events.ITERATION_COMPLETED(once=3))
    def fail():
        if failure is not None:
            raise failure

    if failure is None:
        engine.run(range(3))
    else:
        with pytest.raises(type(failure)):
            engine.run(range(5))
    assert written(tmp_path) == [1, 2, 3]


def interrupt_in_the_midst(folder):
    """An interrupt where the writer's lock was just taken, as a signal may bring it."""

    def look(frame, event, value):
        caller = frame.f_back and frame.f_back.f_code
        if (event, frame.f_code, caller) == (
            "return",
            threading.Condition.__enter__.__code__,
            queue.Queue.put.__code__,
        ):
            sys.setprofile(None)
            raise SystemExit(143)

    engine = scripted(folder)
    engine.add_event_handler(Events.ITERATION_STARTED(once=3), lambda engine: sys.setprofile(look))
    engine.run(range(5))


def test_an_interrupt_does_not_wait_for_the_writer(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=interrupt_in_the_midst, args=[tmp_path])
    process.start()
    process.join(20)
    process.kill()
    process.join()
    assert process.exitcode == 143
