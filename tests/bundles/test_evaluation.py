"""The evaluation workflow: four levels, trivial baselines, other programs' masks, bad input."""

import csv
import shutil

import numpy as np
import pytest
from bundle_tools import SMALL, call, draw_folder, draw_image, hear, read_summary, run
from PIL import Image


def evaluate(folder, output, **options):
    return call("evaluation", dataset_dir=folder, output_dir=output, **{**SMALL, **options})


def scores(output):
    with (output / "scores.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return draw_folder(tmp_path_factory.mktemp("evaluation") / "data", count=2)


def test_inference_and_four_levels_in_one_pass(folder, tmp_path, capsys):
    assert evaluate(folder, tmp_path) == 0
    rows = scores(tmp_path)
    assert {row["level"] for row in rows if row["method"] == "FuseNet"} == {
        "deployed",
        "partition",
        "oracle",
        "published",
    }
    assert {row["file"] for row in rows} == {"images/scan0.png", "images/scan1.png"}
    methods = {row["method"] for row in rows}
    assert {"whole image", "Otsu dark + centre component", "2-means", "3-means"} <= methods
    printed = capsys.readouterr().out
    for level in ("deployed", "partition", "oracle", "published"):
        assert level in printed
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert (tmp_path / "totals.csv").is_file()
    assert (tmp_path / "scan0_mask.png").is_file()


def test_deployed_dice_is_that_of_the_mask_on_disk(folder, tmp_path):
    assert evaluate(folder, tmp_path) == 0
    for row in scores(tmp_path):
        if (row["method"], row["level"]) == ("FuseNet", "deployed"):
            name = row["file"].removeprefix("images/").removesuffix(".png")
            mask = np.asarray(Image.open(tmp_path / f"{name}_mask.png")) > 0
            truth = np.asarray(Image.open(folder / "masks" / f"{name}.png")) > 0
            assert float(row["dice"]) == pytest.approx(2 * (mask & truth).sum() / (mask.sum() + truth.sum()), abs=1e-6)


def test_masks_of_another_program(folder, tmp_path):
    (tmp_path / "masks").mkdir()
    for path in (folder / "masks").iterdir():
        shutil.copy(path, tmp_path / "masks" / f"{path.stem}_mask.png")
    assert evaluate(folder, tmp_path / "out", predictions_dir=str(tmp_path / "masks")) == 0
    perfect = [row for row in scores(tmp_path / "out") if row["method"] == "predictions"]
    assert {float(row["dice"]) for row in perfect} == {1.0}
    assert not list((tmp_path / "out").glob("*_panel.png"))  # no image was fitted


def test_without_a_folder_phantoms_are_drawn_and_called_synthetic(tmp_path):
    result = run("evaluation", cwd=tmp_path, **{**SMALL, "working_size": "[24,24]"})
    assert result.returncode == 0, result.stderr
    assert "SYNTHETIC phantoms" in result.stderr
    assert "phantoms" in (tmp_path / "output" / "evaluation" / "report.html").read_text(encoding="utf-8")


def test_no_masks_is_one_line(tmp_path):
    folder = draw_folder(tmp_path / "data", masks=False)
    assert evaluate(folder, tmp_path / "out") == (
        f"error: no image in {folder} has a mask: evaluation needs masks/ beside images/, with equal names"
    )
    assert not (tmp_path / "out").exists()


def test_images_and_masks_that_do_not_match(tmp_path, caplog):
    folder = draw_folder(tmp_path / "data", count=3)
    (folder / "masks" / "scan1.png").rename(folder / "masks" / "other.png")
    Image.fromarray(draw_image(20, 20)[1]).save(folder / "masks" / "scan2.png")
    hear(caplog)
    assert evaluate(folder, tmp_path / "out", logging_file=False) == 2
    assert "masks/other.png belongs to no image" in caplog.messages
    assert "images/scan1.png not scored: the image has no mask" in caplog.messages
    assert (
        "images/scan2.png not scored: image and mask must have the same size, got (53, 45) and (20, 20)"
        in caplog.messages
    )
    assert {row["file"] for row in scores(tmp_path / "out")} == {"images/scan0.png"}
    messages = [row["message"] for row in read_summary(tmp_path / "out")]
    assert messages[1].endswith("not scored: the image has no mask")
    report = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<dt>images/scan1.png</dt><dd>the image has no mask</dd>" in report


def test_missing_predictions(folder, tmp_path):
    (tmp_path / "masks").mkdir()
    shutil.copy(folder / "masks" / "scan0.png", tmp_path / "masks" / "scan0_mask.png")
    assert evaluate(folder, tmp_path / "out", predictions_dir=str(tmp_path / "masks")) == 2
    assert evaluate(folder, tmp_path / "out", predictions_dir="nowhere") == (
        "error: predictions_dir must be a folder of masks <name>_mask.*, but nowhere is none"
    )


def test_a_report_says_what_was_scored_and_how(folder, tmp_path):
    for _ in range(2):
        assert evaluate(folder, tmp_path) == 0
    report = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<h1>Masks of FuseNet, scored</h1>" in report
    assert "made without any label, 2 of them by an earlier run with the same options" in report
    assert "inferer#steps 2" in report
    assert "seed 0" in report


def test_an_image_with_hardly_any_signal_is_scored(tmp_path):
    folder = draw_folder(tmp_path / "data", count=1)
    spot, mask = np.zeros((60, 60), np.uint8), np.zeros((60, 60), np.uint8)
    spot[30:32, 30:34] = 220
    mask[30:32, 30:34] = 255
    Image.fromarray(spot).save(folder / "images" / "spot.png")
    Image.fromarray(mask).save(folder / "masks" / "spot.png")
    assert evaluate(folder, tmp_path / "out") == 0
    assert {row["file"] for row in scores(tmp_path / "out")} == {"images/scan0.png", "images/spot.png"}
