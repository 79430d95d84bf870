"""Masks in a folder of their own, and whose they are: empty files, for names alone decide."""

from pathlib import Path

import pytest
from datalist_tools import lay_out

from monai_fusenet.data import find_images
from monai_fusenet.data.mask_folder import pair_masks


def paired(tmp_path, images, masks, folder="accepted"):
    """Name of each image -> files of its masks, relative to the folder of masks; and the masks of no image."""
    data = lay_out(tmp_path / "data", *images)
    folder = lay_out(tmp_path / folder, *masks)
    found = pair_masks(find_images(data), folder, data)
    owned = {name: [Path(one).relative_to(folder).as_posix() for one in ones] for name, ones in found.owned.items()}
    return owned, found.unmatched


@pytest.mark.parametrize(
    ("images", "masks", "owned"),
    [
        (["images/a.png", "images/b.png"], ["a.png"], {"a": ["a.png"]}),
        (["images/a.png", "images/b.png"], ["b_mask.nii.gz"], {"b": ["b_mask.nii.gz"]}),
        (
            ["a.nii.gz", "b.nii.gz"],
            ["masks/a.nii.gz", "masks/b.nii.gz"],
            {"a": ["masks/a.nii.gz"], "b": ["masks/b.nii.gz"]},
        ),
        (["x/scan.png", "y/scan.png"], ["y/scan.png"], {"y_scan": ["y/scan.png"]}),
        (["x/scan.png", "y/scan.png"], ["y_scan_mask.png"], {"y_scan": ["y_scan_mask.png"]}),
        (["x/a.png", "y/b.png"], ["b_mask.png"], {"b": ["b_mask.png"]}),
        (["images/x/a.png", "images/y/a.png"], ["masks/x/a.png"], {"images_x_a": ["masks/x/a.png"]}),
        (["train/images/a.png", "test/images/a.png"], ["test/a.png"], {"test_images_a": ["test/a.png"]}),
        (["train_images/a.png", "test_images/a.png"], ["test_images_a.png"], {"test_images_a": ["test_images_a.png"]}),
        (["case1/ct.nii.gz", "case2/ct.nii.gz"], ["case2/liver.nii.gz"], {"case2_ct": ["case2/liver.nii.gz"]}),
        # MONAI Label
        (["a.png", "b.png"], ["final/a.png", "original/a.png", "original/b.png"], {"a": ["final/a.png"]}),
        (["a.png", "b.png"], ["labels/final/a.nii.gz", "labels/original/b.nii.gz"], {"a": ["labels/final/a.nii.gz"]}),
        # a folder of results
        (["a.png", "b.png"], ["a_mask.png", "a_clusters.png", "a_panel.png"], {"a": ["a_mask.png"]}),
        (["straße.png", "b.png"], ["STRASSE_mask.png"], {"straße": ["STRASSE_mask.png"]}),
    ],
)
def test_each_mask_finds_its_image(tmp_path, images, masks, owned):
    assert paired(tmp_path, images, masks) == (owned, [])


@pytest.mark.parametrize(
    ("images", "masks", "unmatched"),
    [
        (["a.png", "b.png"], ["c.png", "a_mask.png"], ["c.png"]),
        (["x/a.png", "y/b.png"], ["x/b.png", "x/a.png"], ["x/b.png"]),
        (["x/scan.png", "y/scan.png"], ["scan.png", "x/scan.png"], ["scan.png"]),
    ],
)
def test_a_mask_of_no_image_is_named(tmp_path, images, masks, unmatched):
    assert paired(tmp_path, images, masks)[1] == unmatched


@pytest.mark.parametrize(
    ("files", "owned"),
    [
        (["images/a.png", "images/b.png", "masks/a.png"], {"a": ["masks/a.png"]}),
        (["a.png", "b.png", "a_mask.png"], {"a": ["a_mask.png"]}),
        (["a.nii.gz", "b.nii.gz", "labels/final/a.nii.gz"], {"a": ["labels/final/a.nii.gz"]}),
        (["train_images/a.png", "train_masks/a.png", "test_images/a.png"], {"train_images_a": ["train_masks/a.png"]}),
    ],
)
def test_a_whole_data_set_may_be_the_folder_of_masks(tmp_path, files, owned):
    assert paired(tmp_path, files, [], folder="data") == (owned, [])


def test_all_masks_of_an_image_are_given(tmp_path):
    owned, _ = paired(tmp_path, ["x/a.png", "y/b.png"], ["x/a.png", "a_mask.png"])
    assert sorted(owned["a"]) == ["a_mask.png", "x/a.png"]


def test_sequences_are_paired_by_their_case(tmp_path):
    data = lay_out(tmp_path / "data", *(f"{case}/{case}_{end}.nii.gz" for case in ("p1", "p2") for end in ("t1", "t2")))
    folder = lay_out(tmp_path / "accepted", "p2_mask.nii.gz")
    found = pair_masks(find_images(data, sequences=["_t1", "_t2"]), folder, data)
    assert found.owned == {"p2": [str(folder / "p2_mask.nii.gz")]}


def test_names_with_line_breaks_are_paired(tmp_path):
    assert paired(tmp_path, ["images/a\nb.png", "images/c.png"], ["a\nb_mask.png"])[0] == {"a\\nb": ["a\nb_mask.png"]}
