import pytest
from ignite.engine import Engine, Events

from monai_fusenet.handlers import StopAtFewClusters


def steps_seen(counts, *handlers, max_epochs=1):
    """Runs an engine whose steps see these numbers of clusters, and returns how many it took."""

    def step(engine, clusters):
        engine.state.metrics["clusters"] = clusters

    engine = Engine(step)
    for handler in handlers:
        handler.attach(engine)
    return engine.run(counts, max_epochs=max_epochs).iteration


@pytest.mark.parametrize(
    ("counts", "steps"),
    [
        ([9, 8, 7, 6, 5, 4, 3, 2, 1], 7),  # the first that sees 3
        ([9, 8, 7, 6, 5, 3, 9, 9, 9], 6),
        ([9, 8, 7, 6, 3, 4, 4, 4, 4], 9),  # the fifth is too early, and later ones see more
        ([1, 1, 1, 1, 1, 1, 1, 1, 1], 6),  # never before the sixth
        ([1, 1, 1], 3),
        ([4, 4, 4, 4, 4, 4, 4, 4, 4], 9),
        ([9, 9, 9, 9, 9, 9, 9, 9, 3], 9),
        ([9, 9, 9, 9, 9, 3.5, 3.0, 9, 9], 7),  # means over a batch
    ],
)
def test_ends_after_the_first_step_from_the_sixth_on_that_sees_at_most_three(counts, steps):
    assert steps_seen(counts, StopAtFewClusters()) == steps


def test_both_numbers_can_be_chosen():
    counts = [9, 8, 7, 6, 5, 4, 3, 2, 1]
    assert steps_seen(counts, StopAtFewClusters(min_clusters=5)) == 6
    assert steps_seen(counts, StopAtFewClusters(min_clusters=7, first_step=1)) == 3
    assert steps_seen(counts, StopAtFewClusters(min_clusters=0)) == 9


def test_steps_are_counted_over_all_epochs():
    assert steps_seen([3, 3, 3, 3], StopAtFewClusters(), max_epochs=5) == 6


def test_the_last_step_is_completed():
    completed = []

    class Watch:
        def attach(self, engine):
            engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: completed.append(engine.state.iteration))

    steps_seen([1] * 9, StopAtFewClusters(), Watch())
    assert completed == [1, 2, 3, 4, 5, 6]
