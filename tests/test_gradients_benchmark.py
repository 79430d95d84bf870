"""What `python -m benchmarks.gradients` says of the methods' terms."""

import numpy as np
import pytest
from PIL import Image

from benchmarks import gradients


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    rows, columns = np.mgrid[:45, :61]
    dark = (rows - 20) ** 2 + (columns - 33) ** 2 < 150
    pixels = np.where(dark, 60, 190) + np.random.default_rng(0).integers(0, 20, (3, 45, 61))
    path = tmp_path_factory.mktemp("picture") / "drawn.png"
    Image.fromarray(np.moveaxis(pixels, 0, -1).astype(np.uint8)).save(path)
    return path


@pytest.mark.parametrize("title", [title for title in gradients.FORMS if title.endswith("default")])
def test_each_part_learns_from_some_term_and_each_term_teaches_some_part(title, picture):
    measured = gradients.measure(title, picture, {"working_size": [32, 40]})
    assert measured.size == (32, 40)
    for part in measured.parts.values():
        assert [norm for norm in part.norms.values() if norm] != []
    for term in measured.values:
        assert [part for part in measured.parts.values() if part.norms[term]] != []


def test_published_terms_that_teach_nothing(picture):
    measured = gradients.measure("S3-Net, as published", picture, {"working_size": [32, 32]})
    spatial = {part.norms["spatial_continuity"] for part in measured.parts.values()}
    assert (measured.values["spatial_continuity"] > 0, spatial) == (True, {None})
    assert measured.parts["main head"].norms["transform_consistency"] is None


def test_a_part_of_a_network_that_no_row_names(picture, monkeypatch):
    monkeypatch.setitem(gradients.PARTS, "feature clustering", {"first block": ("blocks.0.",)})
    with pytest.raises(ValueError, match=r"no part of feature clustering, default has the parameters blocks\.1"):
        gradients.measure("feature clustering, default", picture, {"working_size": [32, 32]})


def test_rows_of_the_table():
    measured = gradients.Measured(
        (8, 9),
        {"self_labeling": 1.5, "edge": 0.25},
        {"stem": gradients.Part(1200, {"self_labeling": 2.0, "edge": None})},
    )
    assert gradients.table(measured).splitlines() == [
        "| | parameters | self labeling | edge |",
        "|---|---|---|---|",
        "| weighted value | 1,200 | 1.5 | 0.25 |",
        "| stem | 1,200 | 2 | none |",
    ]
