"""The evaluation workflow: four levels, trivial baselines, other programs' masks, bad input."""

import csv
import shutil

import numpy as np
import pytest
from bundle_tools import SMALL, call, draw_folder, draw_image, hear, read_summary, run
from PIL import Image
from scipy.ndimage import label as connected_components
from test_inference import draw_discs


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
    report = (tmp_path / "report.html").read_text(encoding="utf-8")
    for level in ("deployed", "partition", "oracle", "published"):
        assert (level in printed) == (level == "deployed")  # what holds for new images
        assert level in report
    assert report.startswith("<!DOCTYPE html>")
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
    told = (
        f"{len({row['file'] for row in perfect})} masks equal their truth; masks that were copied, as accepted ones are"
    )
    assert told in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    # They may lie in the folder of the images.
    shutil.copytree(folder, tmp_path / "data")
    shutil.copytree(tmp_path / "masks", tmp_path / "data" / "theirs")
    assert evaluate(tmp_path / "data", tmp_path / "two", predictions_dir=str(tmp_path / "data" / "theirs")) == 0


def test_several_seeds_in_one_report(folder, tmp_path, capsys):
    assert evaluate(folder, tmp_path / "one", seed=5) == 0
    assert evaluate(folder, tmp_path / "two", seeds=[5, 2]) == 0
    assert {path.name for path in (tmp_path / "two").iterdir()} == {
        *("seed_5", "seed_2", "scores.csv", "totals.csv", "report.html")
    }
    ours = [row for row in scores(tmp_path / "two") if row["method"] == "FuseNet"]
    assert [(row["file"], row["seed"]) for row in ours if row["level"] == "deployed"] == [
        (f"images/scan{image}.png", seed) for image in (0, 1) for seed in ("5", "2")
    ]
    assert all(float(row["seconds"]) > 0 and float(row["peak_mib"]) > 100 for row in ours)
    assert {row["seed"] for row in scores(tmp_path / "two") if row["method"] != "FuseNet"} == {""}
    # As with that seed alone.
    for name in ("scan0", "scan1"):
        for kind in ("clusters", "mask"):
            alone, together = (tmp_path / run / f"{name}_{kind}.png" for run in ("one", "two/seed_5"))
            assert alone.read_bytes() == together.read_bytes()
    assert (tmp_path / "two/seed_5/scan0_clusters.png").read_bytes() != (
        tmp_path / "two/seed_2/scan0_clusters.png"
    ).read_bytes()
    summary = capsys.readouterr().out.rpartition("\n\n")[2].splitlines()
    assert [line.split()[:3] for line in summary[1:]] == [["FuseNet,", "deployed", "2"]]
    report = (tmp_path / "two" / "report.html").read_text(encoding="utf-8")
    assert "seed [5, 2]" in report
    assert report.count("data:image/jpeg;base64,") == 3
    # A further seed costs only itself.
    finished = (tmp_path / "two/seed_5/scan0_panel.png").stat().st_mtime_ns
    assert evaluate(folder, tmp_path / "two", seeds=[5, 3]) == 0
    assert (tmp_path / "two/seed_5/scan0_panel.png").stat().st_mtime_ns == finished
    # What lies there for another seed or program is scored as it is.
    (tmp_path / "two/seed_3/scan1_mask.png").rename(tmp_path / "two/scan1_mask.png")
    assert evaluate(folder, tmp_path / "three", predictions_dir=str(tmp_path / "two")) == 2
    scored = {(row["seed"], row["file"]) for row in scores(tmp_path / "three") if row["method"] == "predictions"}
    expected = {(seed, f"images/scan{image}.png") for seed in "235" for image in (0, 1)} - {("3", "images/scan1.png")}
    assert scored == expected
    assert "<dt>images/scan1.png</dt><dd>seed 3: there is no prediction" in (
        tmp_path / "three" / "report.html"
    ).read_text(encoding="utf-8")
    captured = capsys.readouterr()
    warning = f"{tmp_path / 'two'}: the masks beside the folders seed_<n> are not scored"
    assert warning in captured.out + captured.err


@pytest.mark.parametrize("seeds", [3, [], [0, 0], [-1], ["a"], [2**32], [True]])
def test_seeds_that_make_no_sense(folder, tmp_path, seeds):
    assert evaluate(folder, tmp_path / "out", seeds=seeds) == (
        f"error: seeds must be different whole numbers from 0 to 2**32 - 1, as [0,1,2], got {seeds}"
    )
    assert not (tmp_path / "out").exists()


def test_seeds_of_masks_that_lie_there_are_not_chosen(folder, tmp_path):
    assert evaluate(folder, tmp_path / "out", seeds=[0, 1], predictions_dir=str(tmp_path)) == (
        "error: seeds has no effect with predictions_dir: all folders seed_<n> in it are scored"
    )


def test_a_conflict_with_a_later_seed_is_found_before_the_first_fit(folder, tmp_path):
    assert evaluate(folder, tmp_path, seeds=[1]) == 0
    message = evaluate(folder, tmp_path, seeds=[0, 1], patch_grid=4)
    assert message.startswith(f"error: {tmp_path / 'seed_1'} holds results for images/scan0.png and 1 others")
    assert not (tmp_path / "seed_0").exists()


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


def test_objects_are_made_and_scored(tmp_path, capsys):
    folder = draw_discs(tmp_path / "data")
    assert evaluate(folder, tmp_path / "out", split_objects=True) == 0
    deployed = {row["method"]: row for row in scores(tmp_path / "out") if row["level"] == "deployed"}
    for method in ("FuseNet", "2-means"):
        assert 0 <= float(deployed[method]["ap75"]) <= float(deployed[method]["ap50"]) <= 1
    # Of two discs that touch, which are one in the truth, either is about a half.
    assert float(deployed["Otsu dark"]["ap75"]) == pytest.approx(3 / (5 + 4 - 3))
    assert "AP50" in capsys.readouterr().out
    assert "<th>AP50</th>" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_objects_of_another_program(tmp_path):
    folder = draw_discs(tmp_path / "data")
    truth = np.asarray(Image.open(folder / "masks" / "discs.png")) > 0
    (tmp_path / "theirs").mkdir()
    Image.fromarray(connected_components(truth)[0].astype(np.uint16)).save(tmp_path / "theirs" / "discs_objects.png")
    assert evaluate(folder, tmp_path / "out", predictions_dir=str(tmp_path / "theirs")) == 0
    (theirs,) = (
        row for row in scores(tmp_path / "out") if (row["method"], row["level"]) == ("predictions", "deployed")
    )
    assert [float(theirs[key]) for key in ("dice", "ap50", "ap75")] == [1, 1, 1]


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
