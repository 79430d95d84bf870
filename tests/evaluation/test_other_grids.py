"""Scores compare places: truths and predictions may lie on other grids than their image."""

from __future__ import annotations

import csv
import html

import nibabel as nib
import numpy as np
import pytest

from monai_fusenet.data import find_images
from monai_fusenet.evaluation import format_totals, score_folder, write_report

SHAPE, SIDE = (16, 14, 10), 2.0  # voxels of 2 mm
HERE = np.diag([SIDE, SIDE, SIDE, 1])
REMEDY = "save the mask with the affine (origin, spacing, directions) of the image"
BOX = np.zeros(SHAPE, np.uint8)
BOX[3:9, 4:10, 2:7] = 1  # 6 x 6 x 5


def save(path, array, affine=HERE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.ascontiguousarray(array, np.uint8), affine), path)


def shifted(millimetres, axis=0):
    affine = HERE.copy()
    affine[axis, 3] += millimetres
    return affine


def flipped(array):
    """Stored from the other end of the first axis, with the other axes swapped."""
    affine = HERE.copy()
    affine[:3, :3] = [[-SIDE, 0, 0], [0, 0, SIDE], [0, SIDE, 0]]
    affine[0, 3] = SIDE * (SHAPE[0] - 1)
    return array[::-1].transpose(0, 2, 1), affine


def halved(array):
    """The same boxes in voxels of 1 mm."""
    affine = np.eye(4)
    affine[:3, 3] = -SIDE / 4
    return array.repeat(2, 0).repeat(2, 1).repeat(2, 2), affine


@pytest.fixture
def folder(tmp_path):
    save(tmp_path / "set" / "images" / "a.nii.gz", 200 - 100 * BOX + np.arange(SHAPE[2]))
    save(tmp_path / "set" / "masks" / "a.nii.gz", BOX)
    save(tmp_path / "results" / "a_mask.nii.gz", BOX)
    return tmp_path


def score(folder):
    found = find_images(folder / "set")
    rows, failures = score_folder(found, {None: folder / "results"}, lambda clusters, image: clusters == 1, "theirs")
    return rows, failures


def deployed(rows, method="theirs"):
    (row,) = (row for row in rows if (row["method"], row["level"]) == (method, "deployed"))
    return row


@pytest.mark.parametrize("store", [flipped, halved])
@pytest.mark.parametrize(
    ("path", "what"), [("set/masks/a.nii.gz", "truth"), ("results/a_mask.nii.gz", "mask")], ids=["truth", "prediction"]
)
def test_a_perfect_mask_is_perfect_however_it_is_stored(folder, path, what, store):
    plain, failures = score(folder)
    assert not failures
    assert not [row for row in plain if "note" in row]
    save(folder / path, *store(BOX))
    rows, failures = score(folder)
    assert not failures
    assert [row["dice"] for row in rows] == [row["dice"] for row in plain]
    assert deployed(rows)["dice"] == 1
    assert deployed(rows)["hd95"] == 0
    assert deployed(rows)["note"] == f"{what} brought from another grid to that of the image"
    assert ("note" in deployed(rows, "whole image")) == (what == "truth")


def test_truth_and_prediction_on_two_other_grids(folder):
    save(folder / "set" / "masks" / "a.nii.gz", *flipped(BOX))
    save(folder / "results" / "a_mask.nii.gz", *halved(BOX))
    save(folder / "results" / "a_clusters.nii.gz", *flipped(1 + BOX))
    rows, _ = score(folder)
    assert {row["dice"] for row in rows if row["method"] == "theirs"} == {1}
    assert deployed(rows)["clusters"] == 2
    assert deployed(rows)["note"] == (
        "truth brought from another grid to that of the image; mask brought from another grid to that of the "
        "image; cluster map brought from another grid to that of the image"
    )


@pytest.mark.parametrize("path", ["set/masks/a.nii.gz", "results/a_mask.nii.gz"])
def test_a_mask_8_mm_off_has_the_dice_of_the_overlap(folder, path):
    save(folder / path, BOX, shifted(8))  # 4 of its 6 voxels
    rows, _ = score(folder)
    assert deployed(rows)["dice"] == pytest.approx(2 / 6)
    assert deployed(rows)["hd95"] == 8  # in the millimetres of the image
    assert deployed(rows)["note"].endswith("to that of the image, of which it covers 75%")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("set/masks/a.nii.gz", f"the mask lies outside the image, their fields of view do not overlap: {REMEDY}"),
        (
            "results/a_mask.nii.gz",
            f"a_mask.nii.gz: the mask lies outside the image, their fields of view do not overlap: {REMEDY}",
        ),
    ],
)
def test_a_mask_of_another_place_is_not_scored(folder, path, reason):
    save(folder / path, BOX, shifted(SIDE * SHAPE[2], axis=2))
    rows, failures = score(folder)
    assert not rows
    assert failures == [("images/a.nii.gz", None, reason)]


def test_a_note_tells_how_much_foreground_lies_outside_the_image(folder):
    save(folder / "results" / "a_mask.nii.gz", BOX, shifted(16))  # one of 6 planes
    rows, _ = score(folder)
    assert deployed(rows)["note"] == (
        "mask brought from another grid to that of the image, of which it covers 50%, without the 16.67% of its "
        "foreground that lie outside"
    )


def test_truth_and_prediction_that_lose_all_their_foreground_do_not_agree(folder):
    """Neither is left with any, and two empty masks would have a Dice of 1."""
    save(folder / "set" / "masks" / "a.nii.gz", BOX, shifted(26))
    save(folder / "results" / "a_mask.nii.gz", BOX[:, ::-1], shifted(26))
    rows, failures = score(folder)
    assert not rows
    reason = f"the foreground of the mask lies outside the image, though their fields of view overlap: {REMEDY}"
    assert failures == [("images/a.nii.gz", None, reason)]
    save(folder / "set" / "masks" / "a.nii.gz", BOX)
    assert score(folder)[1] == [("images/a.nii.gz", None, f"a_mask.nii.gz: {reason}")]


def test_clusters_of_another_place_are_not_scored(folder):
    save(folder / "results" / "a_clusters.nii.gz", 1 + BOX, shifted(100))
    _, failures = score(folder)
    assert [failure.reason for failure in failures] == [
        f"a_clusters.nii.gz: the mask lies outside the image, their fields of view do not overlap: {REMEDY}"
    ]


def test_a_report_tells_which_masks_had_another_grid(folder):
    save(folder / "set" / "masks" / "a.nii.gz", *flipped(BOX))
    save(folder / "set" / "images" / "b.nii.gz", 200 - 100 * BOX + np.arange(SHAPE[2]))
    save(folder / "set" / "masks" / "b.nii.gz", BOX)
    save(folder / "results" / "b_mask.nii.gz", BOX)
    rows, _ = score(folder)
    note = "truth brought from another grid to that of the image"
    assert format_totals(rows).endswith(
        "\n\nother grids: masks of 1 of 2 images were resampled, see note in scores.csv"
    )
    page = write_report(rows, folder / "report", ["title"]).read_text(encoding="utf-8")
    assert f"<h2>Other grids</h2><dl><dt>images/a.nii.gz</dt><dd>{html.escape(note)}</dd></dl>" in page
    with (folder / "report" / "scores.csv").open(newline="", encoding="utf-8") as file:
        assert {(row["file"], row["note"]) for row in csv.DictReader(file)} == {
            ("images/a.nii.gz", note),
            ("images/b.nii.gz", ""),
        }
    plain = [row for row in rows if row["file"] == "images/b.nii.gz"]
    assert "other grids" not in format_totals(plain)
    assert "Other grids" not in write_report(plain, folder / "plain", ["title"]).read_text(encoding="utf-8")
