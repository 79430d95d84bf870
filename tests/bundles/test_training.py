"""The training workflow: what it leaves, that it resumes, and that labels never reach it."""

import random
import shutil
import signal
import subprocess
import time

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_tools import (
    ENVIRONMENT,
    SMALL,
    SMALL_TRAINING,
    call,
    command,
    copy_with_masks,
    draw_folder,
    hear,
    read_summary,
    run,
)
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def train(folder, output, **options):
    return call("training", dataset_dir=folder, output_dir=output, **{**SMALL_TRAINING, **options})


def weights(output):
    return torch.load(output / "model.pt", weights_only=True)


def assert_same_weights(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A folder of images with masks, and what a training of six epochs left."""
    base = tmp_path_factory.mktemp("training")
    folder = draw_folder(base / "data")
    assert train(folder, base / "out", max_epochs=6) == 0
    return folder, base / "out"


def test_what_a_training_leaves(done):
    files = {path.name for path in done[1].iterdir()}
    assert {"model.pt", "checkpoint.pt", "panel.png"} < files
    events = EventAccumulator(str(done[1])).Reload()
    losses = [event.value for event in events.Scalars("loss/iteration")]
    assert len(losses) == 6 * 2  # three images in batches of two
    assert np.mean(losses[-2:]) < np.mean(losses[:2])
    assert {"self_labeling/iteration", "cross_modal/iteration", "edge/iteration", "clusters/iteration"} <= set(
        events.Tags()["scalars"]
    )
    assert 0 <= events.Scalars("majority_dice/epoch")[-1].value <= 1


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_training_gives_the_same_weights(done, tmp_path, workers):
    torch.rand(7)  # whatever ran before
    assert train(done[0], tmp_path / "out", max_epochs=6, num_workers=workers) == 0
    assert_same_weights(weights(tmp_path / "out"), weights(done[1]))


@pytest.mark.parametrize("masks", ["absent", "inverted"])
def test_masks_change_no_weight(done, tmp_path, masks):
    copy_with_masks(done[0], tmp_path / "data", masks)
    assert train(tmp_path / "data", tmp_path / "out", max_epochs=6) == 0
    assert_same_weights(weights(tmp_path / "out"), weights(done[1]))


def test_more_epochs_continue_a_finished_training(done, tmp_path):
    assert train(done[0], tmp_path / "out", max_epochs=4) == 0
    assert train(done[0], tmp_path / "out", max_epochs=6) == 0
    assert_same_weights(weights(tmp_path / "out"), weights(done[1]))


def test_a_finished_training_says_so(done, tmp_path, caplog):
    shutil.copytree(done[1], tmp_path / "out")
    hear(caplog)
    assert train(done[0], tmp_path / "out", max_epochs=6, logging_file=False) == 0
    assert f"the training in {tmp_path / 'out'} is finished (6 epochs); --overwrite True starts over" in caplog.messages
    assert_same_weights(weights(tmp_path / "out"), weights(done[1]))


def test_another_training_is_not_mixed_in(done, tmp_path):
    shutil.copytree(done[1], tmp_path / "out")
    assert train(done[0], tmp_path / "out", max_epochs=6, seed=5) == (
        f"error: {tmp_path / 'out' / 'checkpoint.pt'} comes from a training with another seed; "
        "choose another --output_dir, or start anew with --overwrite True"
    )
    assert_same_weights(weights(tmp_path / "out"), weights(done[1]))


def test_other_preprocessing_is_another_training(done, tmp_path):
    shutil.copytree(done[1], tmp_path / "out")
    assert "comes from a training with another scaling;" in train(done[0], tmp_path / "out", **{"scaling#upper": 90})


def test_a_mask_of_another_size_stops_no_training(done, tmp_path, caplog):
    shutil.copytree(done[0], tmp_path / "data")
    Image.fromarray(np.zeros((9, 8), np.uint8)).save(tmp_path / "data" / "masks" / "scan1.png")
    (tmp_path / "data" / "masks" / "scan2.png").write_bytes(b"no image")
    hear(caplog)
    assert train(tmp_path / "data", tmp_path / "out", max_epochs=6, logging_file=False) == 0
    assert (
        "images/scan1.png: its mask is left out: image and mask must have the same size, got (47, 49) and (9, 8)"
        in caplog.messages
    )
    assert any(message.startswith("images/scan2.png: its mask is left out: cannot read") for message in caplog.messages)
    assert_same_weights(weights(tmp_path / "out"), weights(done[1]))
    assert (tmp_path / "out" / "panel.png").is_file()


def test_the_figures_of_a_training_compare_places(tmp_path):
    """The same masks, stored from the other end of an axis, say the same."""
    figures = []
    for name, step in (("plain", 1), ("flipped", -1)):
        folder = draw_folder(tmp_path / "drawn")
        for path in [*(folder / "images").iterdir(), *(folder / "masks").iterdir()]:
            target = tmp_path / name / path.parent.name / f"{path.stem}.nii.gz"
            target.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.asarray(Image.open(path).convert("L"))[..., np.newaxis]
            affine = np.diag([1.0, 1, 1, 1])
            if step == -1 and path.parent.name == "masks":
                pixels, affine[0] = pixels[::-1], (-1, 0, 0, len(pixels) - 1)
            nib.save(nib.Nifti1Image(np.ascontiguousarray(pixels), affine), target)
        assert train(tmp_path / name, tmp_path / "out" / name, max_epochs=1, val_interval=1) == 0
        events = EventAccumulator(str(tmp_path / "out" / name)).Reload()
        figures.append([event.value for event in events.Scalars("majority_dice/epoch")])
    assert figures[0] == figures[1] != [0]


def test_killed_five_times_it_ends_with_the_same_weights(tmp_path):
    folder = draw_folder(tmp_path / "data")
    options = {**SMALL_TRAINING, "working_size": "[24,24]", "max_epochs": 80, "val_interval": 1000}
    assert run("training", cwd=tmp_path, dataset_dir=folder, output_dir="whole", **options).returncode == 0

    arguments = command("training", dataset_dir=folder, output_dir="killed", **options)
    checkpoint = tmp_path / "killed" / "checkpoint.pt"
    rng, killed = random.Random(0), 0
    for _ in range(5):
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else None
        process = subprocess.Popen(arguments, cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
        # Into the epochs, of which most of the time is saving: from the first new checkpoint on, a random moment.
        while process.poll() is None and (checkpoint.stat().st_mtime_ns if checkpoint.exists() else None) == before:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.25))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        state = torch.load(checkpoint, weights_only=True)  # whole, whenever it was killed
        assert 0 < state["epoch"] <= 80
    assert killed >= 3, "the training was over before most of the kills"

    result = run("training", cwd=tmp_path, dataset_dir=folder, output_dir="killed", **options)
    assert result.returncode == 0, result.stderr
    assert "resuming after epoch" in result.stderr or "is finished" in result.stderr
    assert_same_weights(weights(tmp_path / "killed"), weights(tmp_path / "whole"))


def test_bad_images_are_left_out_by_name(done, tmp_path, caplog):
    shutil.copytree(done[0], tmp_path / "data")
    (tmp_path / "data" / "images" / "broken.png").write_bytes(b"no image")
    hear(caplog)
    assert train(tmp_path / "data", tmp_path / "out", logging_file=False) == 2
    assert any(message.startswith("left out images/broken.png: cannot read") for message in caplog.messages)
    assert (tmp_path / "out" / "model.pt").is_file()


def test_pictures_and_slices_of_volumes_train_together(done, tmp_path):
    shutil.copytree(done[0] / "images", tmp_path / "data")
    pixels = np.random.default_rng(0).random((19, 23, 1)).astype(np.float32)
    nib.save(nib.Nifti1Image(pixels, np.eye(4)), tmp_path / "data" / "slice.nii.gz")
    assert train(tmp_path / "data", tmp_path / "out", batch_size=4) == 0


@pytest.mark.parametrize(("overlay", "steps"), [("feedforward.yaml", "0"), ("adapt.yaml", "10")])
def test_weights_of_a_training_serve_inference(done, tmp_path, overlay, steps):
    options = {key: value for key, value in SMALL.items() if key != "inferer#steps"}
    checkpoint = done[1] / "model.pt"
    options |= {"dataset_dir": done[0], "output_dir": tmp_path, "checkpoint": checkpoint}
    assert call("inference", overlay, **options) == 0
    assert {row["steps"] for row in read_summary(tmp_path)} == {steps}


def test_weights_of_another_network_are_refused(done, tmp_path):
    options = {"dataset_dir": done[0], "output_dir": tmp_path, "checkpoint": done[1] / "model.pt"}
    assert "does not fit this network" in call("inference", "feedforward.yaml", **options)
