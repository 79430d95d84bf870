"""Whether earlier proposals stay when a network has been trained, in an app without a server."""

import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

annotations = pytest.importorskip("monai_fusenet.label.annotations", reason="needs monailabel")
from monailabel.interfaces.datastore import DefaultLabelTag  # noqa: E402

from monai_fusenet.label.app import FuseNetApp  # noqa: E402

SHAPE = 20, 30


def half(columns):
    mask = np.zeros(SHAPE, dtype=bool)
    mask[:, :columns] = True
    return mask


@pytest.fixture
def app(tmp_path):
    (tmp_path / "studies").mkdir()
    for name in "abcd":
        pixels = np.random.default_rng(ord(name)).integers(0, 256, SHAPE).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "studies" / f"{name}.png")
    return FuseNetApp(str(tmp_path / "app"), str(tmp_path / "studies"), {})


def propose(app, image, mask):
    app.annotations._save(image, mask, DefaultLabelTag.ORIGINAL, {"model": "fusenet_mask"})


def accept_two(app):
    """Proposals whose Dice with the accepted masks is 2/3 and 1."""
    propose(app, "a", half(10))
    app.annotations.accept("a", half(20))
    propose(app, "b", half(9))
    assert app.annotations.proposal_dice() is None  # of one accepted mask, nobody knows
    app.annotations.accept("b", half(9))


def test_the_dice_of_proposals_with_accepted_masks(app):
    accept_two(app)
    propose(app, "c", half(3))  # not accepted: of no account
    app.annotations.accept("d", half(3))  # never proposed
    assert app.annotations.proposal_dice() == pytest.approx((2 / 3 + 1) / 2)


def test_masks_with_several_classes_are_not_compared(app, tmp_path):
    accept_two(app)
    assert app.annotations.proposal_dice() is not None
    Image.fromarray((half(9) * 2).astype(np.uint8)).save(app.annotations.label("b"))
    assert app.annotations.proposal_dice() == pytest.approx((2 / 3 + 1) / 2)  # one class, whatever its value
    Image.fromarray(half(9).astype(np.uint8) + half(4)).save(app.annotations.label("b"))
    assert app.annotations.proposal_dice() is None


@pytest.mark.parametrize(
    ("expected", "asked", "note"),
    [
        (0.9, ["c", "d"], ""),
        (None, ["c", "d"], ""),
        (
            0.8,
            ["d"],
            "earlier proposals are kept: their Dice with the accepted masks is 0.83, that of the trained network 0.80",
        ),
    ],
)
def test_proposals_stay_where_the_network_is_no_better(app, monkeypatch, expected, asked, note):
    accept_two(app)
    propose(app, "c", half(3))
    jobs, asked_for = app.jobs, []
    training = SimpleNamespace(stats=lambda: {"expected_dice": expected})
    monkeypatch.setattr(app, "_trainers", {"fusenet_feedforward": training})
    monkeypatch.setattr(jobs, "_follow", lambda *_: [])
    monkeypatch.setattr(jobs, "_batch", lambda model, images, what: asked_for.extend(images))
    jobs.propose_all()
    while jobs.progress()["running"]:
        time.sleep(0.01)
    assert jobs.progress()["error"] == ""
    assert asked_for == asked
    assert jobs.progress()["note"] == note


def test_an_image_that_is_being_read_is_not_called_unreadable(app, monkeypatch):
    read, notes = annotations._read, []

    def reading(path):
        notes.append(app.annotations.note("a"))
        return read(path)

    monkeypatch.setattr(annotations, "_read", reading)
    app.annotations.shown("a")
    assert notes == [""]
    Path(app.annotations.path("b")).write_bytes(b"damaged")
    with pytest.raises(ValueError, match="not an image"):
        app.annotations.shown("b")
    assert app.annotations.note("b") == "cannot be read"
