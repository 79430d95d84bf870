"""A picture above the bound of pixels in every workflow: results on its own grid, read again by the next one."""

import csv

import numpy as np
import pytest
import tifffile
from bundle_tools import SMALL, SMALL_STUDENT, call, draw_image, read_summary
from PIL import Image

from monai_fusenet.data import blocks

HEIGHT, WIDTH, BLOCK = 301, 243, 4  # 301 x 243 pixels become 76 x 61


@pytest.fixture(autouse=True)
def small_bound(monkeypatch):
    monkeypatch.setattr(blocks, "LARGEST_PICTURE", 10_000)


@pytest.fixture
def folder(tmp_path):
    for kind in ("images", "masks"):
        (tmp_path / "data" / kind).mkdir(parents=True)
    for index, sides in enumerate([(HEIGHT, WIDTH), (61, 47)]):
        image, mask = draw_image(*sides, seed=index)
        tifffile.imwrite(tmp_path / "data" / "images" / f"scan{index}.tif", image, photometric="rgb", tile=(64, 48))
        tifffile.imwrite(tmp_path / "data" / "masks" / f"scan{index}.tif", mask, tile=(64, 48))
    return tmp_path / "data"


def assert_is_map(path):
    """Written in tiles on the grid of the file, a value for each block."""
    with tifffile.TiffFile(path) as stored:
        assert stored.pages[0].is_tiled
        values = stored.asarray()
    assert values.shape == (HEIGHT, WIDTH)
    rows, columns = (np.arange(side) // BLOCK * BLOCK for side in values.shape)
    np.testing.assert_array_equal(values, values[np.ix_(rows, columns)])
    return values


def test_inference_writes_tiles_on_the_grid_of_the_file(folder, tmp_path):
    output = tmp_path / "results"
    output.mkdir()
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(output / "scan0_mask.png")  # of an earlier image
    assert call("inference", "skin.yaml", dataset_dir=folder, output_dir=output, **SMALL) == 0
    mask, clusters = (assert_is_map(output / f"scan0_{kind}.tif") for kind in ("mask", "clusters"))
    assert set(np.unique(mask)) <= {0, 255}
    assert clusters.min() == 1
    assert not (output / "scan0_mask.png").exists()
    assert Image.open(output / "scan1_mask.png").size == (47, 61)
    rows = read_summary(output)
    assert [row["status"] for row in rows] == ["ok", "ok"]
    assert float(rows[0]["mask_fraction"]) == pytest.approx((mask > 0).mean(), abs=0.01)
    assert (output / "scan0_panel.png").exists()
    assert call("inference", "skin.yaml", dataset_dir=folder, output_dir=output, **SMALL) == 0
    assert [row["status"] for row in read_summary(output)] == ["kept", "kept"]


def test_an_evaluation_reads_truth_and_results_again(folder, tmp_path):
    output = tmp_path / "results"
    assert call("evaluation", dataset_dir=folder, output_dir=output, **SMALL) == 0
    with (output / "scores.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if (row["file"], row["level"]) == ("images/scan0.tif", "deployed")]
    own = next(row for row in rows if row["method"] == "FuseNet")
    mask, truth = assert_is_map(output / "scan0_mask.tif") > 0, tifffile.imread(folder / "masks" / "scan0.tif") > 0
    dice = 2 * (mask & truth).sum() / (mask.sum() + truth.sum())
    assert float(own["dice"]) == pytest.approx(dice, abs=0.02)  # on the working copy
    assert not own.get("note")


def test_accepted_masks_of_a_large_picture_teach_and_are_kept(folder, tmp_path):
    output = tmp_path / "results"
    options = {**SMALL_STUDENT, "accepted_dir": folder / "masks"}
    assert call("distillation", dataset_dir=folder / "images", output_dir=output, **options) == 0
    (found,) = output.rglob("scan0_mask.tif")
    mask, truth = assert_is_map(found) > 0, tifffile.imread(folder / "masks" / "scan0.tif") > 0
    middles = [np.minimum(np.arange(side) // BLOCK * BLOCK + BLOCK // 2, side - 1) for side in truth.shape]
    np.testing.assert_array_equal(mask, truth[np.ix_(*middles)])
