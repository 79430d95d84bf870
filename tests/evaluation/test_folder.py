"""Folders of masks against folders of truths."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from monai_fusenet.data import find_images
from monai_fusenet.evaluation import BASELINES, score_folder
from monai_fusenet.evaluation import folder as scoring

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
