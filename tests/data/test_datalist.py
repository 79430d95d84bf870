import re
from pathlib import Path

import numpy as np
import pydicom
import pytest
from datalist_tools import lay_out, pairs
from hypothesis import given
from hypothesis import strategies as st

from monai_fusenet.data import find_images, load_image, unmatched_masks
from monai_fusenet.data.datalist import unique_names

PH2 = [
    f"{case}/{case}_{folder}/{file}"
    for case in ("IMD003", "IMD009")
    for folder, file in (
        ("Dermoscopic_Image", f"{case}.bmp"),
        ("lesion", f"{case}_lesion.bmp"),
        ("roi", f"{case}_R1_Label3.bmp"),
    )
]


# Layouts


def test_images_and_masks(tmp_path):
    lay_out(tmp_path, "images/b.png", "images/a.JPG", "masks/a.png", "masks/b_mask.bmp", "images/c.nii.gz")
    assert find_images(tmp_path) == [
        {
            "image": str(tmp_path / "images/a.JPG"),
            "label": str(tmp_path / "masks/a.png"),
            "file": "images/a.JPG",
            "name": "a",
        },
        {
            "image": str(tmp_path / "images/b.png"),
            "label": str(tmp_path / "masks/b_mask.bmp"),
            "file": "images/b.png",
            "name": "b",
        },
        {"image": str(tmp_path / "images/c.nii.gz"), "file": "images/c.nii.gz", "name": "c"},
    ]


def test_mask_of_another_format(tmp_path):
    lay_out(tmp_path, "images/a.dcm", "masks/a_segmentation.nii.gz")
    assert pairs(tmp_path) == {"images/a.dcm": ["masks/a_segmentation.nii.gz"]}


def test_images_directly_in_the_folder_and_below(tmp_path):
    lay_out(tmp_path, "b.png", "sub/a.png", "sub/deeper/c.tif", "masks/b.png")
    assert pairs(tmp_path) == {"b.png": ["masks/b.png"], "sub/a.png": [], "sub/deeper/c.tif": []}


def test_an_images_folder_is_the_only_source(tmp_path):
    lay_out(tmp_path, "images/a.png", "overlays/a.png", "preview.png")
    assert list(pairs(tmp_path)) == ["images/a.png"]


def test_masks_beside_images_are_no_images(tmp_path):
    lay_out(tmp_path, "a.png", "a_mask.png", "b.jpg", "b_Segmentation.png", "c.png")
    assert pairs(tmp_path) == {"a.png": ["a_mask.png"], "b.jpg": ["b_Segmentation.png"], "c.png": []}


def test_one_mask_per_lesion(tmp_path):
    lay_out(tmp_path, "benign/benign (1).png", "benign/benign (1)_mask.png", "benign/benign (1)_mask_1.png")
    assert pairs(tmp_path) == {
        "benign/benign (1).png": ["benign/benign (1)_mask.png", "benign/benign (1)_mask_1.png"],
    }


def test_masks_stay_within_their_group(tmp_path):
    lay_out(tmp_path, "p1/images/1.png", "p2/images/1.png", "p2/masks/1.png", "images/p3/1.png")
    (tmp_path / "images/p3/1.png").unlink()
    assert pairs(tmp_path) == {"p1/images/1.png": [], "p2/images/1.png": ["p2/masks/1.png"]}


def test_sub_folders_of_images_and_masks_correspond(tmp_path):
    lay_out(tmp_path, "images/x/1.png", "images/y/1.png", "masks/x/1.png", "masks/y/1.png")
    assert pairs(tmp_path) == {"images/x/1.png": ["masks/x/1.png"], "images/y/1.png": ["masks/y/1.png"]}


@pytest.mark.parametrize("above", ["", "PH2 Dataset images/"])
def test_ph2(tmp_path, above):
    lay_out(tmp_path, *(above + file for file in PH2), "PH2_dataset.txt")
    assert pairs(tmp_path) == {
        f"{above}{case}/{case}_Dermoscopic_Image/{case}.bmp": [f"{above}{case}/{case}_lesion/{case}_lesion.bmp"]
        for case in ("IMD003", "IMD009")
    }
    assert [item["name"] for item in find_images(tmp_path)] == ["IMD003", "IMD009"]


def test_isic_in_one_folder(tmp_path):
    lay_out(tmp_path, "ISIC_1.jpg", "ISIC_1_segmentation.png", "ISIC_1_superpixels.png", "meta.csv", "ISIC_2.jpg")
    assert pairs(tmp_path) == {"ISIC_1.jpg": ["ISIC_1_segmentation.png"], "ISIC_2.jpg": []}


@pytest.mark.parametrize(
    ("data", "truth"),
    [
        ("ISIC-2017_Test_v2_Data", "ISIC-2017_Test_v2_Part1_GroundTruth"),
        ("ISIC2018_Task1-2_Training_Input", "ISIC2018_Task1_Training_GroundTruth"),
        ("ISBI2016_ISIC_Part1_Training_Data", "ISBI2016_ISIC_Part1_Training_GroundTruth"),
    ],
)
def test_isic_in_sibling_folders(tmp_path, data, truth):
    lay_out(tmp_path, f"{data}/ISIC_1.jpg", f"{data}/ISIC_1_superpixels.png", f"{truth}/ISIC_1_segmentation.png")
    assert pairs(tmp_path) == {f"{data}/ISIC_1.jpg": [f"{truth}/ISIC_1_segmentation.png"]}


@pytest.mark.parametrize("above", ["", "MontgomerySet/"])
def test_montgomery_has_a_mask_per_lung(tmp_path, above):
    name = "MCUCXR_0001_0.png"
    left, right = f"{above}ManualMask/leftMask/{name}", f"{above}ManualMask/rightMask/{name}"
    lay_out(tmp_path, f"{above}CXR_png/{name}", left, right, f"{above}ClinicalReadings/MCUCXR_0001_0.txt")
    assert pairs(tmp_path) == {f"{above}CXR_png/{name}": [left, right]}
    assert find_images(tmp_path)[0]["label"] == [str(tmp_path / left), str(tmp_path / right)]


def test_shenzhen(tmp_path):
    lay_out(tmp_path, "CXR_png/CHNCXR_0001_0.png", "mask/CHNCXR_0001_0_mask.png")
    assert pairs(tmp_path) == {"CXR_png/CHNCXR_0001_0.png": ["mask/CHNCXR_0001_0_mask.png"]}


def test_hidden_and_unknown_files_are_passed_over(tmp_path):
    lay_out(tmp_path, "a.png", ".b.png", ".hidden/c.png", "__MACOSX/._a.png", "notes.txt", "d.gif", "Thumbs.db")
    assert list(pairs(tmp_path)) == ["a.png"]


SUFFIXES = ".png .jpg .jpeg .bmp .tif .tiff .nii .nii.gz .nrrd .nhdr .mha .mhd .dcm .dicom .ima"


@pytest.mark.parametrize("suffix", [*SUFFIXES.split(), *SUFFIXES.upper().split(), ".Tiff"])
def test_suffixes(tmp_path, suffix):
    lay_out(tmp_path, f"scan 1.v2{suffix}")
    (item,) = find_images(tmp_path)
    assert item["name"] == "scan 1.v2"


def test_output_inside_the_data_set_is_not_searched(tmp_path):
    lay_out(tmp_path, "a.png", "output/inference/a_panel.png", "output/inference/a_clusters.png")
    assert list(pairs(tmp_path, exclude_dir=tmp_path / "output")) == ["a.png"]
    assert list(pairs(tmp_path, exclude_dir=tmp_path / "not there")) == [
        "a.png",
        "output/inference/a_clusters.png",
        "output/inference/a_panel.png",
    ]


def test_a_link_to_a_folder_above_ends(tmp_path):
    lay_out(tmp_path, "sub/a.png")
    (tmp_path / "sub/loop").symlink_to(tmp_path, target_is_directory=True)
    assert list(pairs(tmp_path)) == ["sub/a.png"]


def test_relative_folder_gives_absolute_paths(tmp_path, monkeypatch):
    lay_out(tmp_path, "data/a.png")
    monkeypatch.chdir(tmp_path)
    assert find_images("data")[0]["image"] == str(tmp_path / "data/a.png")


# DICOM

VOXELS = (np.arange(4 * 7 * 5).reshape(4, 7, 5) * 3).astype(np.int16)


def cases(folder: Path, *sequences: str) -> dict[str, tuple[str, list[str]]]:
    """File of each image -> its name and the files of its channels, relative to the folder."""
    return {
        item["file"]: (item["name"], [Path(path).relative_to(folder).as_posix() for path in item["image"]])
        for item in find_images(folder, sequences=sequences)
    }


def test_files_of_several_sequences_are_one_image(tmp_path):
    lay_out(
        tmp_path, "images/a_t2.nii.gz", "images/a_t1.nii.gz", "images/b_T1.nrrd", "images/b_t2.nrrd", "images/c.png"
    )
    lay_out(tmp_path, "masks/a.nii.gz", "masks/b_seg.nii.gz")
    assert cases(tmp_path, "_t1", "_t2") == {
        "images/a": ("a", ["images/a_t1.nii.gz", "images/a_t2.nii.gz"]),
        "images/b": ("b", ["images/b_T1.nrrd", "images/b_t2.nrrd"]),
    }
    assert cases(tmp_path, "_t2") == {
        "images/a": ("a", ["images/a_t2.nii.gz"]),
        "images/b": ("b", ["images/b_t2.nrrd"]),
    }
    expected = {"images/a": ["masks/a.nii.gz"], "images/b": ["masks/b_seg.nii.gz"]}
    assert pairs(tmp_path, sequences=["_t1", "_t2"]) == expected


def test_cases_of_nnunet(tmp_path):
    lay_out(tmp_path, "imagesTr/x_0000.nii.gz", "imagesTr/x_0001.nii.gz", "labelsTr/x.nii.gz", "dataset.json")
    assert pairs(tmp_path, sequences=["_0000", "_0001"]) == {"imagesTr/x": ["labelsTr/x.nii.gz"]}


def test_a_case_may_have_a_folder_of_its_own(tmp_path, write_dicom_series):
    for sequence, uid in (("t1", "1.2.3.4"), ("t2", "1.2.3.5")):
        write_dicom_series(tmp_path / "anna" / sequence, np.zeros((3, 6, 5), np.int16), uid=uid)
    lay_out(tmp_path, "cases/bob/t1.nii", "cases/bob/t2.nii", "masks/anna.nii.gz", "masks/cases/bob.nii")
    assert cases(tmp_path, "t1", "t2") == {
        "anna": ("anna", ["anna/t1", "anna/t2"]),
        "cases/bob": ("bob", ["cases/bob/t1.nii", "cases/bob/t2.nii"]),
    }
    expected = {"anna": ["masks/anna.nii.gz"], "cases/bob": ["masks/cases/bob.nii"]}
    assert pairs(tmp_path, sequences=["t1", "t2"]) == expected


def test_a_missing_sequence_fails_when_it_is_loaded(tmp_path):
    lay_out(tmp_path, "images/a_t1.nii.gz", "images/a_t2.nii.gz", "images/b_t2.nii.gz")
    _, item = find_images(tmp_path, sequences=["_t1", "_t2"])
    with pytest.raises(ValueError, match=r"images/b_t1\.nii\.gz"):
        load_image(item["image"])


@pytest.mark.parametrize(
    ("sequences", "complaint"),
    [
        ("_t1", "sequences must be a list of endings of file names, as ['_t1','_t2'], got _t1"),
        ([], "sequences must be a list of endings of file names, as ['_t1','_t2'], got []"),
        (["_t1", ""], "sequences must be a list of endings of file names, as ['_t1','_t2'], got ['_t1', '']"),
        (["t1", "_t1"], "of sequences, _t1 ends in t1: files of both could not be told apart"),
        (["_T1", "_t1"], "of sequences, _t1 ends in _T1: files of both could not be told apart"),
        (["_t3", "_t4"], "no image in {folder} has a stem that ends in _t3 or _t4, see sequences"),
    ],
)
def test_sequences_that_are_none(tmp_path, sequences, complaint):
    lay_out(tmp_path, "a_t1.nii", "a_t2.nii")
    with pytest.raises(ValueError, match=f"^{re.escape(complaint.format(folder=tmp_path))}$"):
        find_images(tmp_path, sequences=sequences)


def test_a_sequence_in_two_files(tmp_path):
    lay_out(tmp_path, "a_t1.nii", "a_t1.nrrd", "a_t2.nii")
    with pytest.raises(ValueError, match=r"a_t1\.nii and .*a_t1\.nrrd are the same sequence of one image: keep one$"):
        find_images(tmp_path, sequences=["_t1", "_t2"])


def test_series_in_sub_folders_are_one_image_each(tmp_path, write_dicom_series):
    write_dicom_series(tmp_path / "images/patient.1", VOXELS)
    write_dicom_series(tmp_path / "images/patient.2", VOXELS[:2], uid="1.2.9")
    lay_out(tmp_path, "masks/patient.2.nii.gz")
    assert pairs(tmp_path) == {"images/patient.1": [], "images/patient.2": ["masks/patient.2.nii.gz"]}
    items = find_images(tmp_path)
    assert [item["name"] for item in items] == ["patient.1", "patient.2"]
    assert load_image(items[0]["image"]).shape == (1, 5, 7, 4)


def test_the_data_set_folder_may_be_the_series(tmp_path, write_dicom_series):
    folder = tmp_path / "CT 3"
    write_dicom_series(folder, VOXELS)
    assert find_images(folder) == [{"image": str(folder), "file": "CT 3", "name": "CT 3"}]


def test_files_of_different_series_are_one_image_each(tmp_path, write_dicom_series):
    for index in range(3):
        write_dicom_series(tmp_path / "one", VOXELS[index : index + 1], uid=f"1.2.{index}")
        (tmp_path / "one/slice01.dcm").rename(tmp_path / f"x{index}.{('dcm', 'IMA', 'dicom')[index]}")
    assert list(pairs(tmp_path)) == ["x0.dcm", "x1.IMA", "x2.dicom"]


def test_a_single_file_is_a_file(tmp_path, write_dicom_series):
    write_dicom_series(tmp_path, VOXELS[:1])
    assert list(pairs(tmp_path)) == ["slice01.dcm"]


def test_a_folder_of_several_series_fails_alone(tmp_path, write_dicom_series):
    write_dicom_series(tmp_path / "a", VOXELS)
    write_dicom_series(tmp_path / "b", VOXELS[:1], uid="1.2.9")
    (tmp_path / "b/slice01.dcm").rename(tmp_path / "a/scout.dcm")
    write_dicom_series(tmp_path / "b", VOXELS)
    mixed, good = find_images(tmp_path)
    assert (mixed["file"], good["file"]) == ("a", "b")
    message = "a folder must hold one DICOM series, got 2: give each a folder of its own"
    with pytest.raises(ValueError, match=f"a: {message}$"):
        load_image(mixed["image"])
    assert load_image(good["image"]).shape == (1, 5, 7, 4)


def test_a_broken_slice_is_not_left_out_of_its_series(tmp_path, write_dicom_series):
    write_dicom_series(tmp_path, VOXELS)
    (tmp_path / "slice05.dcm").write_text("broken")
    (item,) = find_images(tmp_path)
    message = r": 1 of its DICOM files are damaged, the first is slice05\.dcm$"
    with pytest.raises(ValueError, match=message):
        load_image(item["image"])


def test_series_are_grouped_as_monai_reads_them(tmp_path, write_dicom_series):
    """Two sizes under one SeriesInstanceUID, as a frontal and a lateral X-ray may come: two images."""
    write_dicom_series(tmp_path / "a", VOXELS[:1])
    write_dicom_series(tmp_path / "b", VOXELS[:1, :, :4])
    (tmp_path / "b/slice01.dcm").rename(tmp_path / "a/lateral.dcm")
    for path in (tmp_path / "a").iterdir():
        header = pydicom.dcmread(path)
        header.Modality = "DX"  # slices of CT would be one series, refused
        header.save_as(path)
    assert list(pairs(tmp_path)) == ["a/lateral.dcm", "a/slice01.dcm"]


# Masks without an image


def test_unmatched_masks_are_named(tmp_path):
    lay_out(tmp_path, "images/a.png", "masks/a.png", "masks/z.png", "images/q_mask.png")
    items = find_images(tmp_path)
    assert unmatched_masks(tmp_path, items) == ["images/q_mask.png", "masks/z.png"]


def test_all_masks_of_a_list_are_matched(tmp_path):
    name = "MCUCXR_0001_0.png"
    lay_out(tmp_path, f"CXR_png/{name}", f"ManualMask/leftMask/{name}", f"ManualMask/rightMask/{name}")
    assert unmatched_masks(tmp_path, find_images(tmp_path)) == []


def test_masks_in_the_output_are_not_unmatched(tmp_path):
    lay_out(tmp_path, "a.png", "output/a_mask.png")
    items = find_images(tmp_path, exclude_dir=tmp_path / "output")
    assert unmatched_masks(tmp_path, items, exclude_dir=tmp_path / "output") == []


# Names


def test_names_of_equal_stems(tmp_path):
    lay_out(tmp_path, "x/1.png", "y/1.png", "y/1.jpg", "2.png")
    assert {item["file"]: item["name"] for item in find_images(tmp_path)} == {
        "2.png": "2",
        "x/1.png": "x_1",
        "y/1.jpg": "y_1_jpg",
        "y/1.png": "y_1_png",
    }


def test_names_that_collide_after_joining():
    assert unique_names(["a/b.png", "a_b.png", "c/b.png"]) == ["a_b_png", "a_b", "c_b"]
    assert unique_names(["a/b.png", "a_b/b.png", "a_b.png", "a/b/b.png"])[1:] == ["a_b_b_png", "a_b", "a_b_b_png_2"]


def test_names_differ_by_more_than_case():
    assert unique_names(["x/Scan.png", "y/scan.png"]) == ["x_Scan", "y_scan"]


PART = st.text(alphabet="aA_.1", min_size=1, max_size=3).filter(lambda part: part.strip(".") != "")
FILES = st.builds(
    lambda parts, suffix: "/".join(parts) + suffix,
    st.lists(PART, min_size=1, max_size=3),
    st.sampled_from([".png", ".PNG", ".nii", ".nii.gz", ""]),
)


@given(st.lists(FILES, min_size=1, max_size=8, unique=True))
def test_names_are_unique_whatever_the_files(files):
    names = unique_names(files)
    assert len({name.casefold() for name in names}) == len(files)
    assert all(name and "/" not in name for name in names)
    assert names == unique_names(files)


def test_the_order_of_the_directory_listing_does_not_matter(tmp_path, monkeypatch):
    import os

    lay_out(tmp_path, "b/1.png", "a/1.png", "a/1_mask.png", "c.png", "masks/c.png", "masks/c_mask.png")
    expected = find_images(tmp_path)
    walk = os.walk

    def backwards(*arguments, **options):
        for folder, folders, files in walk(*arguments, **options):
            yield folder, folders, sorted(files, reverse=True)
            folders.sort(reverse=True)

    monkeypatch.setattr(os, "walk", backwards)
    assert find_images(tmp_path) == expected
    assert [item["file"] for item in expected] == ["a/1.png", "b/1.png", "c.png"]


# What cannot be used


def refusal(folder, **options):
    with pytest.raises(ValueError) as caught:  # noqa: PT011, the caller looks at the message
        find_images(folder, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_missing_folder(tmp_path):
    assert refusal(tmp_path / "x") == f"the dataset folder does not exist: {tmp_path / 'x'}"


def test_a_file_is_no_folder(tmp_path):
    file = lay_out(tmp_path, "a.png") / "a.png"
    assert refusal(file) == f"the dataset must be a folder, got the file {file}: give the folder that holds it"


def test_folder_without_images(tmp_path):
    lay_out(tmp_path, "notes.txt")
    assert refusal(tmp_path) == f"no image in {tmp_path}: found no file that ends in {SUFFIXES}"


def test_folder_with_masks_only(tmp_path):
    lay_out(tmp_path, "masks/a.png", "b_mask.png")
    assert refusal(tmp_path) == (
        f"no image in {tmp_path}: found 2 files named like masks and no other that ends in {SUFFIXES}; "
        "add the images, or rename those that are no masks"
    )


def test_output_must_not_be_the_data_set(tmp_path):
    lay_out(tmp_path, "a.png")
    assert refusal(tmp_path, exclude_dir=tmp_path) == (
        f"the output folder is the dataset folder {tmp_path}: give another one, it may lie inside"
    )


# Real data


def test_every_shared_image_and_mask_loads_with_one_shape(shared_dir):
    items = []
    for folder in sorted(path for path in (shared_dir / "data").iterdir() if path.is_dir()):
        found = find_images(folder)
        assert unmatched_masks(folder, found) == []
        items += found
    assert items
    assert [item["image"] for item in items if "label" not in item] == []
    differing = [i["image"] for i in items if load_image(i["image"]).shape[1:] != load_image(i["label"]).shape[1:]]
    assert differing == []
