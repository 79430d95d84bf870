"""Folders of masks against folders of truths."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from monai_fusenet.data import find_images, reading
from monai_fusenet.data import masks as mask_files
from monai_fusenet.data import objects as object_files
from monai_fusenet.evaluation import BASELINES, levels, score_folder
from monai_fusenet.evaluation import folder as scoring
from monai_fusenet.evaluation.folder import ItemScorer, NotScored
from monai_fusenet.transforms import ClustersToMaskd

SIDES = (120, 80)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array.astype(np.uint8)).save(path)


@pytest.fixture
def drawn(tmp_path):
    """One image with a dark ellipse in the middle, and a prediction that misses its upper half."""
    rows, columns = np.ogrid[: SIDES[0], : SIDES[1]]
    truth = ((rows - 59.5) / 36) ** 2 + ((columns - 39.5) / 24) ** 2 <= 1
    save(tmp_path / "set" / "images" / "a.png", np.where(truth, 40, 200))
    save(tmp_path / "set" / "masks" / "a.png", truth * 255)
    save(tmp_path / "results" / "a_mask.png", truth * (rows >= 60) * 255)
    return find_images(tmp_path / "set"), {0: tmp_path / "results"}


def scores(drawn):
    rows, failures = score_folder(*drawn, choose_mask=lambda clusters, image: clusters == clusters.max())
    assert not failures
    return {row["method"]: row for row in rows if row["level"] == "deployed"}


def test_large_images_get_baselines_on_a_smaller_grid(drawn, monkeypatch):
    full = scores(drawn)
    monkeypatch.setattr(scoring, "BASELINE_PIXELS", SIDES[0] * SIDES[1] // 4)
    small = scores(drawn)
    assert small["FuseNet"] == full["FuseNet"]  # itself always on the grid of the truth
    assert full["FuseNet"]["dice"] == pytest.approx(2 / 3, abs=0.01)
    assert set(small) == {"FuseNet", *BASELINES}
    assert small["centred disk"] != full["centred disk"]
    for name in ("whole image", "centred disk"):
        assert small[name]["dice"] == pytest.approx(full[name]["dice"], abs=0.02)
        assert small[name]["hd95"] == pytest.approx(full[name]["hd95"], abs=2)  # in pixels of the image


def test_of_several_seeds_baselines_are_made_and_scored_once(drawn, monkeypatch):
    items, folders = drawn
    made = []
    slic = levels.slic_clusters
    monkeypatch.setattr(levels, "slic_clusters", lambda image: made.append(image) or slic(image))
    rows, failures = score_folder(items, dict.fromkeys((0, 1, 2), folders[0]), lambda clusters, image: clusters == 1)
    assert not failures
    assert len(made) == 1
    counts = Counter((row["method"], row["level"]) for row in rows)
    assert {counts.pop(("FuseNet", level)) for level in levels.LEVELS} == {3}
    assert set(counts.values()) == {1}
    assert all(("seed" in row) == (row["method"] == "FuseNet") for row in rows)


def test_scoring_one_image_can_be_sent_to_another_process(drawn, caplog):
    (item,), folders = drawn
    choose = ClustersToMaskd(keys="clusters", image_key="image").choose
    predictions = {0: folders[0], 7: folders[0] / "nowhere"}
    scorer = ItemScorer(predictions, choose, "FuseNet", with_objects=False, field=None)
    here, there = scorer(item), pickle.loads(pickle.dumps(scorer))(item)
    np.testing.assert_equal(there, here)  # also nan
    np.testing.assert_equal(pickle.loads(pickle.dumps(here)), here)
    reason = f"there is no prediction a_mask.* in {folders[0] / 'nowhere'}"
    assert here.failures == [NotScored("images/a.png", 7, reason)]
    assert here.notes == [f"images/a.png, seed 7, not scored: {reason}"]
    np.testing.assert_equal(score_folder([item], predictions, choose), (here.rows, here.failures))
    assert [record.message for record in caplog.records] == here.notes
    assert scorer(item).failures == here.failures  # nothing is kept of the image before


@pytest.mark.parametrize("with_objects", [False, True])
def test_files_are_read_once(drawn, monkeypatch, with_objects):
    items, folders = drawn
    if with_objects:
        save(folders[0] / "a_objects.png", np.ones(SIDES))
    read = Counter()

    def counted(path, *args, read_raster=reading.read_raster, **options):
        read[path] += 1
        return read_raster(path, *args, **options)

    for module in (reading, mask_files, object_files):
        monkeypatch.setattr(module, "read_raster", counted)
    assert not score_folder(items, folders, lambda clusters, image: clusters == 1)[1]
    truth = str(items[0]["label"])
    assert read.pop(truth) == (2 if with_objects else 1)  # the mask, and its numbers
    assert set(read.values()) == {1}
    assert len(read) == (3 if with_objects else 2)
