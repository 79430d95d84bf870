"""The option accepted_dir: whose files are opened, what a run of other masks is told, and wrong values."""

import json
import os
import shutil
import sys

import numpy as np
import pytest
from bundle_tools import call, draw_folder, draw_image, hear, read_summary
from monai.bundle import run
from PIL import Image
from test_distillation_workflow import SMALL_STUDENT

from monai_fusenet.bundle import images_or_phantoms

OPTIONS = {**SMALL_STUDENT, "teacher_seeds": [], "rounds": 1, "logging_file": False}
opened: list[str] = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)


def distil(folder, output, **options):
    opened.clear()
    return call("distillation", dataset_dir=folder, output_dir=output, **OPTIONS, **options)


def opened_in(folder):
    inside = {path for path in opened if path.startswith(f"{folder}/")}
    return {
        path.removeprefix(f"{folder}/") for path in inside if os.path.isfile(path)
    }  # summary.csv is only looked for


@pytest.fixture
def data(tmp_path):
    """Three images with masks, and a folder with an accepted one of the second."""
    folder = draw_folder(tmp_path / "data")
    (tmp_path / "accepted").mkdir()
    shutil.copy(folder / "masks" / "scan1.png", tmp_path / "accepted")
    return folder


def test_without_the_option_no_mask_is_ever_opened(data, tmp_path):
    assert distil(data, tmp_path / "out") == 0
    assert opened_in(data) == {f"images/scan{index}.png" for index in range(3)}


def test_with_the_option_only_masks_in_its_folder_are_opened(data, tmp_path, caplog):
    hear(caplog)
    assert distil(data, tmp_path / "out", accepted_dir=tmp_path / "accepted") == 0
    assert "1 accepted mask, 1 class" in caplog.messages
    assert opened_in(data) == {f"images/scan{index}.png" for index in range(3)}
    assert opened_in(tmp_path / "accepted") == {"scan1.png"}


def test_accepted_masks_stay_as_they_are(data, tmp_path):
    assert distil(data, tmp_path / "out", accepted_dir=tmp_path / "accepted") == 0
    accepted, mask = (
        np.asarray(Image.open(path)) > 0
        for path in (tmp_path / "accepted" / "scan1.png", tmp_path / "out" / "masks" / "scan1_mask.png")
    )
    np.testing.assert_array_equal(mask, accepted)
    rows = {row["file"]: row for row in read_summary(tmp_path / "out" / "masks")}
    assert float(rows["images/scan1.png"]["confidence"]) == 1
    assert float(rows["images/scan1.png"]["mask_fraction"]) == pytest.approx(accepted.mean(), abs=1e-4)


def test_two_masks_tell_how_sure_the_network_may_be(data, tmp_path):
    """The distilled bundle keeps what they told, and says the same of an image as the workflow did."""
    shutil.copy(data / "masks" / "scan0.png", tmp_path / "accepted")
    assert distil(data, tmp_path / "out", accepted_dir=tmp_path / "accepted") == 0
    config = tmp_path / "out" / "model" / "configs" / "inference.json"
    power = json.loads(config.read_text("utf-8"))["confidence_power"]
    assert power != 1
    run(config_file=str(config), dataset_dir=str(data), output_dir=str(tmp_path / "again"))
    said, again = (
        {row["file"]: row["confidence"] for row in read_summary(folder)}
        for folder in (tmp_path / "out" / "masks", tmp_path / "again")
    )
    assert said["images/scan2.png"] == again["images/scan2.png"]
    run(config_file=str(config), dataset_dir=str(data), output_dir=str(tmp_path / "raw"), confidence_power=1)
    raw = {row["file"]: row["confidence"] for row in read_summary(tmp_path / "raw")}
    drawn = {file: float(value) for file, value in raw.items() if value}
    assert drawn, "no mask but empty ones: nothing is compared"
    for file, value in drawn.items():
        assert float(again[file]) == pytest.approx(value**power, abs=1e-3 * (1 + power))


def test_one_mask_does_not_tell_it(data, tmp_path):
    assert distil(data, tmp_path / "out", accepted_dir=tmp_path / "accepted") == 0
    config = json.loads((tmp_path / "out" / "model" / "configs" / "inference.json").read_text("utf-8"))
    assert config["confidence_power"] == 1


def test_a_relative_folder_counts_from_the_current_one(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert distil("data", "out", accepted_dir="accepted") == 0


def test_a_run_goes_on_with_the_same_accepted_masks_alone(data, tmp_path):
    accepted, output = tmp_path / "accepted", tmp_path / "out"
    assert distil(data, output, accepted_dir=accepted) == 0
    shutil.move(accepted, tmp_path / "moved")
    assert distil(data, output, accepted_dir=tmp_path / "moved") == 0
    told = f"error: {output / 'rounds'} comes from a training with another accepted_masks; choose another --output_dir,"
    Image.fromarray(255 - draw_image(47, 49, seed=1)[1]).save(tmp_path / "moved" / "scan1.png")
    assert distil(data, output, accepted_dir=tmp_path / "moved").startswith(told)
    assert distil(data, output).startswith(told)


def test_accepted_masks_in_the_data_set_are_no_images(data, tmp_path):
    shutil.move(tmp_path / "accepted", data / "images" / "accepted")
    assert distil(data, tmp_path / "out", accepted_dir=data / "images" / "accepted") == 0
    assert [row["file"] for row in read_summary(tmp_path / "out" / "masks")] == [
        f"images/scan{n}.png" for n in range(3)
    ]
    # An image of the same stem in a sub-folder keeps its stem as its name.
    lay = [data / "images" / folder / "only.png" for folder in ("accepted", "sub")]
    for path in lay:
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.zeros((9, 8), np.uint8)).save(path)
    items = images_or_phantoms(data, tmp_path / "out", None, data / "images" / "accepted")
    assert [item["name"] for item in items] == ["scan0", "scan1", "scan2", "only"]


def test_accepted_masks_may_lie_beside_their_images(data, tmp_path):
    shutil.copy(data / "masks" / "scan0.png", data / "images" / "scan0_mask.png")
    assert distil(data, tmp_path / "out", accepted_dir=data / "images") == 0
    assert len(read_summary(tmp_path / "out" / "masks")) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset_dir": None}, "accepted_dir needs dataset_dir, the folder of the images whose masks were accepted"),
        ({"accepted_dir": "{base}/no"}, "accepted_dir must be a folder of masks, got {base}/no, which does not exist"),
        (
            {"accepted_dir": "{base}/out/masks"},
            "accepted_dir {base}/out/masks lies in output_dir, whose masks are overwritten: copy it elsewhere",
        ),
        ({"accepted_dir": " "}, "accepted_dir must be a folder of masks, got an empty name"),
        ({"accepted_dirr": "x"}, "unknown option accepted_dirr; did you mean accepted_dir?"),
    ],
)
def test_wrong_folders_are_one_line(data, tmp_path, options, message):
    options = {key: value and value.format(base=tmp_path) for key, value in options.items()}
    given = {"dataset_dir": data, "output_dir": tmp_path / "out", "accepted_dir": tmp_path / "accepted", **options}
    assert call("distillation", **OPTIONS, **given) == f"error: {message.format(base=tmp_path)}"
    assert not (tmp_path / "out").exists()


def test_a_mask_that_does_not_fit_its_image_is_told_before_anything_is_made(data, tmp_path):
    Image.fromarray(np.ones((9, 31), np.uint8)).save(tmp_path / "accepted" / "scan1.png")
    told = distil(data, tmp_path / "out", accepted_dir=tmp_path / "accepted")
    assert told.startswith("error: ")
    assert "the accepted mask scan1.png: " in told
    assert not (tmp_path / "out").exists()
