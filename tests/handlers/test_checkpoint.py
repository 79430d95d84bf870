import copy
import io
import logging
import re
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader

from monai_fusenet.data import SeededCacheDataset
from monai_fusenet.engines import FuseNetTrainer
from monai_fusenet.handlers import EpochSeed, ResumableCheckpoint, StopAtFewClusters
from monai_fusenet.networks import FuseNet
from monai_fusenet.transforms import AugmentPaird

SETTINGS = {"seed": 0, "size": [9, 7]}
STEPS = 2  # of an epoch


def draw_image(item):
    generator = torch.Generator().manual_seed(item["number"])
    return {"image": torch.rand(3, 9, 7, generator=generator)}


def training(folder, epochs=3, seed=0, settings=SETTINGS, overwrite=False, handlers=()):
    """A training that depends on augmentation, shuffling, dropout and momentum, as a new process would build it."""
    torch.manual_seed(123)
    network = FuseNet(features=4, patch_grid=2, dropout=0.3)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    samples = [{"number": number} for number in range(3)]
    dataset = SeededCacheDataset(samples, draw_image, AugmentPaird(), seed=seed, progress=False)
    torch.manual_seed(torch.seed())  # nothing carries over from the process before
    return FuseNetTrainer(
        device="cpu",
        max_epochs=epochs,
        train_data_loader=DataLoader(dataset, batch_size=2, shuffle=True),
        network=network,
        optimizer=optimizer,
        train_handlers=[
            EpochSeed(seed, dataset),
            *handlers,
            ResumableCheckpoint(folder, network, optimizer, settings, overwrite),
        ],
        decollate=False,
    )


def run(folder, **options):
    trainer = training(folder, **options)
    trainer.run()
    return trainer


def weights(folder, name="model.pt"):
    return torch.load(folder / name, weights_only=True)


def assert_same_weights(first, second):
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def differ(first, second):
    return any(not torch.equal(first[name], second[name]) for name in first)


class Killed(BaseException):
    """Something that no handler catches, as SIGKILL would be."""


class KillAt:
    """Ends the process, as it were, after so many iterations."""

    def __init__(self, iteration):
        self.iteration = iteration

    def attach(self, engine):
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine):
        if engine.state.iteration == self.iteration:
            raise Killed


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The folder of a training of three epochs that nothing disturbed."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(folder)
    return folder


def test_leaves_weights_and_a_checkpoint_and_nothing_else(uninterrupted):
    assert sorted(path.name for path in uninterrupted.iterdir()) == ["checkpoint.pt", "model.pt"]
    state = weights(uninterrupted, "checkpoint.pt")
    assert (state["epoch"], state["iteration"], state["settings"]) == (3, 3 * STEPS, SETTINGS)
    assert state["finished"]
    assert not state["stopped_early"]
    assert_same_weights(state["network"], weights(uninterrupted))
    FuseNet(features=4, patch_grid=2).load_state_dict(weights(uninterrupted))


def test_the_same_seed_repeats_the_training(tmp_path, uninterrupted):
    run(tmp_path)
    assert_same_weights(weights(tmp_path), weights(uninterrupted))


def test_another_seed_does_not(tmp_path, uninterrupted):
    run(tmp_path, seed=1)
    assert differ(weights(tmp_path), weights(uninterrupted))


def test_the_folder_is_made_when_it_is_needed(tmp_path):
    trainer = training(tmp_path / "a" / "b", epochs=1)
    assert not (tmp_path / "a").exists()
    trainer.run()
    assert (tmp_path / "a" / "b" / "model.pt").is_file()


# Killed, and started again.


@pytest.mark.parametrize("iteration", [1, STEPS, STEPS + 1, 2 * STEPS, 3 * STEPS])
def test_a_killed_training_goes_on_as_if_it_had_not_been(tmp_path, uninterrupted, iteration):
    with pytest.raises(Killed):
        run(tmp_path, handlers=[KillAt(iteration)])
    assert not (tmp_path / "model.pt").exists()
    done = (iteration - 1) // STEPS  # its last epoch is not complete
    assert (tmp_path / "checkpoint.pt").exists() == (done > 0)

    trainer = training(tmp_path)
    epochs = []
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda engine: epochs.append(engine.state.epoch))
    trainer.run()
    assert epochs == list(range(done + 1, 4))
    assert_same_weights(weights(tmp_path), weights(uninterrupted))


def test_killed_again_and_again(tmp_path, uninterrupted):
    for iteration in (1, STEPS + 1, STEPS + 2, 2 * STEPS + 1):
        with pytest.raises(Killed):
            run(tmp_path, handlers=[KillAt(iteration)])
    run(tmp_path)
    assert_same_weights(weights(tmp_path), weights(uninterrupted))


@pytest.mark.parametrize("save", range(1, 6))
def test_killed_while_saving(tmp_path, uninterrupted, monkeypatch, save):
    # Saved are the checkpoint after each of three epochs, the weights, and the checkpoint that says "finished".
    genuine, saves = Path.write_bytes, []

    def save_half(path, content):
        saves.append(path)
        if len(saves) < save:
            return genuine(path, content)
        genuine(path, content[: len(content) // 2])
        raise Killed

    monkeypatch.setattr(Path, "write_bytes", save_half)
    with pytest.raises(Killed):
        run(tmp_path)
    for path in tmp_path.glob("*.pt"):
        weights(tmp_path, path.name)  # what lies there is whole
    monkeypatch.undo()
    run(tmp_path)
    assert_same_weights(weights(tmp_path), weights(uninterrupted))
    assert weights(tmp_path, "checkpoint.pt")["finished"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt", "model.pt"]


def test_says_where_it_goes_on(tmp_path, caplog):
    with pytest.raises(Killed):
        run(tmp_path, handlers=[KillAt(STEPS + 1)])
    with caplog.at_level(logging.INFO, logger="monai_fusenet"):
        run(tmp_path)
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("monai_fusenet")]
    assert messages == [
        f"resuming after epoch 1 of 3 from {tmp_path / 'checkpoint.pt'}",
        f"trained 3 epochs; weights: {tmp_path / 'model.pt'}",
    ]


# Finished, and started again.


def test_a_finished_training_is_not_repeated(tmp_path, caplog):
    run(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="monai_fusenet"):
        trainer = run(tmp_path)
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("monai_fusenet")]
    assert messages == [f"the training in {tmp_path} is finished (3 epochs); --overwrite True starts over"]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert trainer.state.output is None  # no step was taken
    assert_same_weights(trainer.network.state_dict(), weights(tmp_path))


def test_lost_weights_of_a_finished_training_come_back(tmp_path, uninterrupted):
    run(tmp_path)
    (tmp_path / "model.pt").unlink()
    run(tmp_path)
    assert_same_weights(weights(tmp_path), weights(uninterrupted))


def test_more_epochs_go_on_from_a_finished_training(tmp_path, uninterrupted):
    run(tmp_path, epochs=1)
    assert differ(weights(tmp_path), weights(uninterrupted))
    run(tmp_path, epochs=3)
    assert_same_weights(weights(tmp_path), weights(uninterrupted))


def test_a_trainer_that_runs_again_keeps_the_weights_it_was_given(tmp_path):
    trainer = run(tmp_path, epochs=1)
    given, started = {}, {}
    for name, value in trainer.network.state_dict().items():
        given[name] = value + 1
    trainer.network.load_state_dict(given)
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda: started.update(copy.deepcopy(trainer.network.state_dict())))
    trainer.state.max_epochs = 2
    trainer.run()
    assert_same_weights(started, given)
    assert trainer.state.epoch == 2


def test_fewer_epochs_than_were_trained_are_finished(tmp_path, uninterrupted):
    run(tmp_path)
    trainer = run(tmp_path, epochs=2)
    assert trainer.state.output is None
    assert_same_weights(weights(tmp_path), weights(uninterrupted))


def test_fewer_epochs_than_were_trained_before_a_kill(tmp_path):
    run(tmp_path / "two", epochs=2)
    with pytest.raises(Killed):
        run(tmp_path / "killed", handlers=[KillAt(2 * STEPS + 1)])
    trainer = run(tmp_path / "killed", epochs=1)
    assert trainer.state.output is None
    assert_same_weights(weights(tmp_path / "killed"), weights(tmp_path / "two"))


@pytest.mark.parametrize("first_step", [STEPS, STEPS + 1])
@pytest.mark.parametrize("epochs", [3, 5])
def test_an_early_stop_is_an_end(tmp_path, caplog, first_step, epochs):
    def stop():
        return [StopAtFewClusters(min_clusters=100, first_step=first_step)]

    trainer = run(tmp_path, handlers=stop())
    assert trainer.state.iteration == first_step
    before = weights(tmp_path)
    assert weights(tmp_path, "checkpoint.pt")["stopped_early"]
    with caplog.at_level(logging.INFO, logger="monai_fusenet"):
        trainer = run(tmp_path, handlers=stop(), epochs=epochs)
    assert "is finished" in caplog.text
    assert trainer.state.output is None
    assert_same_weights(weights(tmp_path), before)


@pytest.mark.parametrize("killed_at", [1, STEPS + 1])
def test_an_early_stop_after_an_interruption(tmp_path, killed_at):
    stop = StopAtFewClusters(min_clusters=100, first_step=2 * STEPS - 1)
    run(tmp_path / "whole", handlers=[stop])
    with pytest.raises(Killed):
        run(tmp_path / "parts", handlers=[KillAt(killed_at), stop])
    trainer = run(tmp_path / "parts", handlers=[stop])
    assert trainer.state.iteration == 2 * STEPS - 1
    assert_same_weights(weights(tmp_path / "parts"), weights(tmp_path / "whole"))


# Another training in the same folder.


@pytest.mark.parametrize(
    ("settings", "changed"),
    [
        ({"seed": 1, "size": [9, 7]}, "seed"),
        ({"seed": 1, "size": [7, 9]}, "seed and size"),
        ({**SETTINGS, "lr": 0.1}, "lr"),
    ],
)
def test_other_settings(tmp_path, settings, changed):
    run(tmp_path, epochs=1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    message = (
        f"{tmp_path / 'checkpoint.pt'} comes from a training with another {changed}; "
        "choose another --output_dir, or start anew with --overwrite True"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        run(tmp_path, settings=settings)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_overwrite_starts_anew(tmp_path, uninterrupted):
    run(tmp_path, epochs=1, settings={"seed": 7}, seed=7)
    run(tmp_path, overwrite=True)
    assert_same_weights(weights(tmp_path), weights(uninterrupted))
    assert weights(tmp_path, "checkpoint.pt")["settings"] == SETTINGS


def saved(value):
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a checkpoint",
        b"\x80\x02.",
        saved({"seed": 0})[:100],
        saved(torch.nn.Linear(2, 2).state_dict()),
        saved([1, 2]),
        saved(torch.zeros(3)),
        saved({"settings": SETTINGS}),
    ],
    ids=["empty", "text", "short pickle", "truncated", "weights", "list", "tensor", "settings alone"],
)
def test_a_broken_checkpoint(tmp_path, content):
    (tmp_path / "checkpoint.pt").write_bytes(content)
    message = f"{tmp_path / 'checkpoint.pt'} is no checkpoint of a training; --overwrite True starts over"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        run(tmp_path, epochs=1)
    assert (tmp_path / "checkpoint.pt").read_bytes() == content
    run(tmp_path, epochs=1, overwrite=True)
    assert (tmp_path / "model.pt").is_file()


# Randomness of an epoch.


def test_an_epoch_has_the_randomness_of_its_number():
    told = []

    class Dataset:
        def set_epoch(self, epoch):
            told.append(epoch)

    def draws(seed, first_epoch=1):
        engine, drawn = Engine(lambda engine, batch: None), []
        EpochSeed(seed, Dataset()).attach(engine)
        engine.add_event_handler(Events.STARTED, lambda engine: setattr(engine.state, "epoch", first_epoch - 1))
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: drawn.append(torch.rand(1).item()))
        engine.run([0, 1], max_epochs=3)
        return drawn

    whole = draws(5)
    assert told == [1, 2, 3]
    assert len(set(whole)) == 6
    assert draws(5, first_epoch=2) == whole[2:]
    assert not set(draws(6)) & set(whole)
