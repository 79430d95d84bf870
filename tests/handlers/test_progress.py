import pytest
from ignite.engine import Engine, Events

from monai_fusenet.handlers import ProgressHandler


def bar_of(capsys, metric_names, metrics, steps=3, max_epochs=2):
    """What is left of the bar of an engine whose steps put these metrics into its state."""

    def step(engine, batch):
        engine.state.metrics.update(metrics)

    engine = Engine(step)
    engine.add_event_handler(Events.EPOCH_COMPLETED(once=1), lambda: engine.state.metrics.update(majority_dice=0.25))
    ProgressHandler(metric_names, desc="steps").attach(engine)
    engine.run(range(steps), max_epochs=max_epochs)
    return capsys.readouterr().err


@pytest.mark.parametrize("max_epochs", [2, 11])  # a bar for each epoch, and one for all
def test_all_metrics_are_shown_whatever_they_are(capsys, max_epochs):
    bar = bar_of(capsys, "all", {"loss": 1.5, "own": 2.5, "clusters": 3.0}, max_epochs=max_epochs)
    assert "loss=1.5, own=2.5, clusters=3" in bar
    assert "loss=1.5, own=2.5, clusters=3, majority_dice=0.25" in bar  # what another handler adds, from then on


def test_chosen_metrics_are_shown_alone(capsys):
    bar = bar_of(capsys, ["own", "loss"], {"loss": 1.5, "own": 2.5, "clusters": 3.0})
    assert "own=2.5, loss=1.5" in bar
    assert "clusters" not in bar
    assert "majority_dice" not in bar


def test_no_metrics(capsys):
    bar = bar_of(capsys, None, {"loss": 1.5})
    assert "steps" in bar
    assert "loss" not in bar


def test_a_trainer_that_goes_on_keeps_its_one_bar(capsys):
    engine = Engine(lambda engine, batch: None)
    ProgressHandler(desc="steps").attach(engine)
    for epochs in (1, 2, 3):
        engine.run(range(3), max_epochs=epochs)
    left = capsys.readouterr().err
    assert left.count("[3/3] 100%") == 3, left
