"""Objects of this and of other programs against true ones, and the baselines beside them."""

import math

import nibabel as nib
import numpy as np
import pytest
import tifffile
from PIL import Image

from monai_fusenet.data import find_images
from monai_fusenet.evaluation import BASELINES, score_folder

SHAPE = (61, 83)
ROWS, COLUMNS = np.indices(SHAPE)
OBJECTS = np.zeros(SHAPE, np.uint8)
for NUMBER, (ROW, COLUMN) in enumerate([(18, 20), (18, 43), (44, 60)], start=1):  # the first two touch
    OBJECTS[(ROWS - ROW) ** 2 + (COLUMNS - COLUMN) ** 2 <= 12**2] = NUMBER


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, array)
    elif path.suffix == ".gz":
        nib.save(nib.Nifti1Image(array[..., None], np.eye(4)), path)
    else:
        Image.fromarray(array).save(path)


@pytest.fixture
def folder(tmp_path):
    """Bright discs with their label map, for two images."""
    for name in "ab":
        save(tmp_path / "set" / "images" / f"{name}.png", np.where(OBJECTS > 0, 200, 30).astype(np.uint8))
        save(tmp_path / "set" / "masks" / f"{name}.png", OBJECTS)
        save(tmp_path / "results" / f"{name}_mask.png", (OBJECTS > 0) * np.uint8(255))
        save(tmp_path / "results" / f"{name}_objects.png", OBJECTS)
    return tmp_path


def score(folder, **predictions):
    return score_folder(
        find_images(folder / "set"),
        predictions or {None: folder / "results"},
        lambda clusters, image: clusters == 2,
        "theirs",
    )


def of(rows, method="theirs", level="deployed", file="images/a.png"):
    (row,) = (row for row in rows if (row["method"], row["level"], row["file"]) == (method, level, file))
    return row["ap50"], row["ap75"]


def test_true_objects_score_1_and_baselines_are_cut_by_the_same_watershed(folder):
    rows, failures = score(folder)
    assert not failures
    assert of(rows) == (1, 1)
    assert of(rows, "Otsu bright") == (1, 1)  # two of its discs touch
    assert of(rows, "2-means") == (1, 1)
    assert of(rows, "whole image") == (0, 0)
    assert all(not math.isnan(of(rows, method)[0]) for method in BASELINES)
    for level in ("partition", "oracle", "published"):
        assert np.isnan(of(rows, level=level)).all()


def test_what_another_program_found(folder):
    joined = np.where(OBJECTS == 2, 1, OBJECTS)
    save(folder / "results" / "a_objects.png", joined)
    found = np.where(OBJECTS == 3, 0, OBJECTS).astype(np.int32) * 70000
    found[50:55, 5:11] = 7
    (folder / "results" / "b_objects.png").unlink()
    save(folder / "results" / "b_objects.tif", found)
    rows, failures = score(folder)
    assert not failures
    assert of(rows) == pytest.approx((2 / 3, 1 / 4))  # the second disc, drawn over the first, is half of both
    assert of(rows, file="images/b.png") == pytest.approx((2 / 4, 2 / 4))


def test_objects_without_a_mask_are_the_mask(folder):
    for path in (folder / "results").glob("*_mask.png"):
        path.unlink()
    rows, failures = score(folder)
    assert not failures
    assert {row["dice"] for row in rows if (row["method"], row["level"]) == ("theirs", "deployed")} == {1.0}
    assert of(rows) == (1, 1)


def test_a_truth_of_a_file_per_object(folder):
    (folder / "set" / "masks" / "a.png").unlink()
    for number in (1, 2, 3):
        save(folder / "set" / "masks" / f"a_mask_{number}.png", (number == OBJECTS) * np.uint8(255))
    rows, failures = score(folder)
    assert not failures
    assert of(rows) == (1, 1)


def test_a_binary_truth_counts_its_connected_parts(folder):
    save(folder / "set" / "masks" / "a.png", (OBJECTS > 0) * np.uint8(255))
    rows, _ = score(folder)
    assert of(rows) == pytest.approx((2 / 3, 1 / 4))  # three found, two true


def test_without_objects_there_are_no_such_scores(folder):
    for path in (folder / "results").glob("*_objects.png"):
        path.unlink()
    rows, failures = score(folder)
    assert not failures
    assert all(math.isnan(row["ap50"]) and math.isnan(row["ap75"]) for row in rows)


def test_no_objects_in_truth_and_prediction_agree(folder):
    for part in ("set/masks/a.png", "results/a_mask.png", "results/a_objects.png"):
        save(folder / part, np.zeros(SHAPE, np.uint8))
    rows, failures = score(folder)
    assert not failures
    assert of(rows) == (1, 1)
    assert of(rows, "Otsu bright") == (0, 0)


def test_objects_that_cannot_be_scored(folder):
    (folder / "results" / "a_objects.png").unlink()
    save(folder / "results" / "b_objects.png", np.repeat(OBJECTS[..., None], 3, axis=2))
    _, failures = score(folder)
    assert [failure.reason for failure in failures] == [
        "there is no prediction a_objects.*, which other images have",
        "b_objects.png: objects must be numbers in one channel, got 3 channels",
    ]
    save(folder / "results" / "a_objects.png", OBJECTS[:50])
    (folder / "results" / "b_objects.png").unlink()
    save(folder / "results" / "b_objects.tif", OBJECTS / np.float32(2))
    _, failures = score(folder)
    assert [failure.reason for failure in failures] == [
        "a_objects.png: image and mask must have the same size, got (61, 83) and (50, 83)",
        "y_pred must hold whole numbers, got float32 with fractions or NaN",
    ]


def test_volumes(tmp_path):
    objects = np.zeros((21, 33, 19), np.uint8)
    places = np.indices(objects.shape)
    for number, centre in enumerate([(10, 9, 9), (10, 23, 9)], start=1):
        objects[sum((place - middle) ** 2 for place, middle in zip(places, centre, strict=True)) <= 7.5**2] = number
    affine = np.diag([2.0, 2, 2, 1])
    for path, array in (
        ("set/images/a", np.where(objects > 0, 90, 10)),
        ("set/masks/a", objects),
        ("results/a_mask", objects > 0),
        ("results/a_objects", objects),
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array.astype(np.uint8), affine), tmp_path / f"{path}.nii.gz")
    rows, failures = score(tmp_path)
    assert not failures
    assert of(rows, file="images/a.nii.gz") == of(rows, "Otsu bright", file="images/a.nii.gz") == (1, 1)
