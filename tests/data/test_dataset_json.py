"""`dataset.json` of the Medical Segmentation Decathlon, of nnU-Net, and of other meanings."""

import json
import logging
import unicodedata
from pathlib import Path

import pytest
from datalist_tools import lay_out

from monai_fusenet.data import IMAGE_SUFFIXES, find_images, load_image, unmatched_masks


def relative(folder: Path, paths: str | list[str]) -> str | list[str]:
    one = isinstance(paths, str)
    return Path(paths).relative_to(folder).as_posix() if one else [relative(folder, path) for path in paths]


def found(folder: Path, content: dict | None = None) -> dict[str, tuple]:
    """File of each image -> its paths, and its label where it has one, relative to the folder."""
    if content is not None:
        (folder / "dataset.json").write_text(json.dumps(content))
    return {
        item["file"]: tuple(relative(folder, item[key]) for key in ("image", "label") if key in item)
        for item in find_images(folder)
    }


def refusal(folder: Path) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011, the caller looks at the message
        find_images(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Decathlon


def test_decathlon(tmp_path):
    lay_out(tmp_path, "imagesTr/b.nii.gz", "labelsTr/b.nii.gz", "imagesTs/a.nii.gz", "imagesTr/._b.nii.gz")
    content = {
        "name": "Hippocampus",
        "training": [{"image": "./imagesTr/b.nii.gz", "label": "./labelsTr/b.nii.gz"}],
        "test": ["./imagesTs/a.nii.gz"],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    assert found(tmp_path) == {
        "imagesTr/b.nii.gz": ("imagesTr/b.nii.gz", "labelsTr/b.nii.gz"),
        "imagesTs/a.nii.gz": ("imagesTs/a.nii.gz",),
    }
    assert [item["name"] for item in find_images(tmp_path)] == ["b", "a"]


def test_decathlon_with_an_empty_list_and_dictionaries(tmp_path):
    lay_out(tmp_path, "x/a.nii")
    (tmp_path / "dataset.json").write_text('{"training": [], "test": [{"image": "x/a.nii", "fold": 3}]}')
    assert find_images(tmp_path) == [{"image": str(tmp_path / "x/a.nii"), "file": "x/a.nii", "name": "a"}]


def test_decathlon_without_its_list(tmp_path):
    lay_out(tmp_path, "imagesTr/b.nii.gz", "labelsTr/b.nii.gz", "imagesTs/a.nii.gz")
    assert found(tmp_path) == {
        "imagesTr/b.nii.gz": ("imagesTr/b.nii.gz", "labelsTr/b.nii.gz"),
        "imagesTs/a.nii.gz": ("imagesTs/a.nii.gz",),
    }


NO_LIST = (
    "must hold a list 'training' of images with labels, or a list 'test' of images, or nnU-Net's 'channel_names'; "
    "move a file of another meaning elsewhere, and the folder is searched"
)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "is not valid JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ("[]", NO_LIST),
        ('{"numTraining": 3}', NO_LIST),
        ('{"training": 3}', NO_LIST),
        (
            '{"training": [{"label": "a.nii"}]}',
            "must list paths or {'image': path, 'label': path}, got {'label': 'a.nii'}",
        ),
        ('{"test": [""]}', "must list paths or {'image': path, 'label': path}, got ''"),
        ('{"test": [3]}', "must list paths or {'image': path, 'label': path}, got 3"),
    ],
)
def test_broken_decathlon_list(tmp_path, content, complaint):
    (tmp_path / "dataset.json").write_text(content)
    assert refusal(tmp_path) == f"{tmp_path / 'dataset.json'} {complaint}"


def test_decathlon_files_must_exist(tmp_path):
    lay_out(tmp_path, "a.nii")
    (tmp_path / "dataset.json").write_text('{"training": [{"image": "a.nii", "label": "m.nii"}], "test": ["b.nii"]}')
    assert refusal(tmp_path) == (
        f"{tmp_path / 'dataset.json'} lists 2 files that do not exist, the first is {tmp_path / 'm.nii'}"
    )


def test_a_list_may_begin_with_a_byte_order_mark(tmp_path):
    lay_out(tmp_path, "a.nii")
    (tmp_path / "dataset.json").write_text('{"test": ["a.nii"]}', encoding="utf-8-sig")
    assert found(tmp_path) == {"a.nii": ("a.nii",)}


# nnU-Net, version 2


def test_nnunet_of_one_channel(tmp_path):
    lay_out(tmp_path, "imagesTr/C_1_0000.nii.gz", "imagesTr/C_2_0000.nii.gz", "imagesTs/C_3_0000.nii.gz")
    lay_out(tmp_path, "labelsTr/C_1.nii.gz", "labelsTr/C_2.nii.gz", "imagesTr/._C_1_0000.nii.gz", "imagesTr/x.txt")
    content = {"channel_names": {"0": "CT"}, "labels": {"background": 0}, "numTraining": 2, "file_ending": ".nii.gz"}
    assert found(tmp_path, content) == {
        "imagesTr/C_1": ("imagesTr/C_1_0000.nii.gz", "labelsTr/C_1.nii.gz"),
        "imagesTr/C_2": ("imagesTr/C_2_0000.nii.gz", "labelsTr/C_2.nii.gz"),
        "imagesTs/C_3": ("imagesTs/C_3_0000.nii.gz",),
    }
    items = find_images(tmp_path)
    assert [item["name"] for item in items] == ["C_1", "C_2", "C_3"]
    assert unmatched_masks(tmp_path, items) == []


def test_nnunet_of_several_channels_in_their_order(tmp_path):
    lay_out(tmp_path, *(f"imagesTr/a_{channel:04d}.nrrd" for channel in range(11)), "labelsTr/a.nrrd")
    content = {"channel_names": {str(channel): "MR" for channel in reversed(range(11))}, "file_ending": ".nrrd"}
    files = [f"imagesTr/a_{channel:04d}.nrrd" for channel in range(11)]
    assert found(tmp_path, content) == {"imagesTr/a": (files, "labelsTr/a.nrrd")}
    assert unmatched_masks(tmp_path, find_images(tmp_path)) == []


def test_a_channel_that_is_missing_fails_when_it_is_loaded(tmp_path):
    lay_out(tmp_path, "imagesTr/a_0001.nii.gz", "imagesTr/b_0000.nii.gz", "imagesTr/b_0001.nii.gz")
    found(tmp_path, {"channel_names": {"0": "T1", "1": "T2"}, "file_ending": ".nii.gz"})
    item, _ = find_images(tmp_path)
    with pytest.raises(ValueError, match=r"imagesTr/a_0000\.nii\.gz: no such file or folder$"):
        load_image(item["image"])


def test_nnunet_of_rgb_pictures_has_its_channels_in_one_file(tmp_path):
    lay_out(tmp_path, "imagesTr/a_0000.png", "imagesTr/b_0000.png", "labelsTr/a.png")
    content = {"channel_names": {"0": "R", "1": "G", "2": "B"}, "file_ending": ".png"}
    assert found(tmp_path, content) == {
        "imagesTr/a": ("imagesTr/a_0000.png", "labelsTr/a.png"),
        "imagesTr/b": ("imagesTr/b_0000.png",),
    }


@pytest.mark.parametrize("names", [["CT"], {}])
def test_nnunet_whose_channels_have_no_numbers(tmp_path, names):
    lay_out(tmp_path, "imagesTr/a_0000.nii.gz")
    assert found(tmp_path, {"channel_names": names}) == {"imagesTr/a": ("imagesTr/a_0000.nii.gz",)}


def test_a_list_below_the_data_set_is_named(tmp_path, caplog):
    lay_out(tmp_path, "Dataset001_A/imagesTr/a_0000.nii", "Dataset001_A/imagesTr/a_0001.nii")
    inner = tmp_path / "Dataset001_A" / "dataset.json"
    inner.write_text('{"channel_names": {"0": "T1", "1": "T2"}}')
    with caplog.at_level(logging.WARNING, "monai_fusenet"):
        find_images(tmp_path)
    assert caplog.messages == [f"not read: {inner}; give its folder as the dataset to use its cases"]


def test_labels_of_missing_cases_are_named(tmp_path):
    lay_out(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "labelsTr/b.nii.gz")
    found(tmp_path, {"channel_names": {"0": "CT"}})
    assert unmatched_masks(tmp_path, find_images(tmp_path)) == ["labelsTr/b.nii.gz"]


NFC, NFD = (unicodedata.normalize(form, "Köln") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("images", "mask", "ending"),
    [
        ([f"{NFD}_1"], f"{NFC}_1.nii.gz", ".nii.gz"),
        (["a", "b"], "b.nii", ".nii.gz"),
        (["a", "b"], "b.seg.nrrd", ".nii.gz"),
        (["a", "b"], "b_mask.nii.gz", ".nii.gz"),
        (["a", "b"], "b.jpg", ".png"),
        (["A", "B"], "b.nii.gz", ".nii.gz"),
    ],
)
def test_a_label_of_nnunet_under_another_form_of_its_name(tmp_path, images, mask, ending):
    lay_out(tmp_path, *(f"imagesTr/{image}_0000{ending}" for image in images), f"labelsTr/{mask}")
    content = {"channel_names": {"0": "CT"}, "file_ending": ending}
    *others, last = found(tmp_path, content).values()
    assert last == (f"imagesTr/{images[-1]}_0000{ending}", f"labelsTr/{mask}")
    assert all(len(other) == 1 for other in others)
    assert unmatched_masks(tmp_path, find_images(tmp_path)) == []


def test_labels_that_nnunet_does_not_read_are_named(tmp_path):
    lay_out(tmp_path, "imagesTr/a_0000.nii.gz", "imagesTr/b_0000.nii.gz", "labelsTr/a.nii.gz", "labelsTr/a.nrrd")
    lay_out(tmp_path, "labelsTr/b_0000.nii.gz")
    assert found(tmp_path, {"channel_names": {"0": "CT"}}) == {
        "imagesTr/a": ("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"),
        "imagesTr/b": ("imagesTr/b_0000.nii.gz",),
    }
    assert unmatched_masks(tmp_path, find_images(tmp_path)) == ["labelsTr/a.nrrd", "labelsTr/b_0000.nii.gz"]


def test_channels_of_one_case_in_two_forms_of_unicode(tmp_path):
    lay_out(tmp_path, f"imagesTr/{NFD}_0000.nii", f"imagesTr/{NFC}_0001.nii", f"labelsTr/{NFD}.nii")
    content = {"channel_names": {"0": "T1", "1": "T2"}, "file_ending": ".nii"}
    files = [f"imagesTr/{NFD}_0000.nii", f"imagesTr/{NFC}_0001.nii"]
    assert found(tmp_path, content) == {f"imagesTr/{NFC}": (files, f"labelsTr/{NFD}.nii")}
    (tmp_path / "dataset.json").unlink()
    (item,) = find_images(tmp_path, sequences=["_0000", "_0001"])
    assert relative(tmp_path, item["image"]) == files


def test_a_list_in_another_form_of_unicode_than_the_disk(tmp_path):
    lay_out(tmp_path, f"{NFD}/{NFD}.nii", f"labels/{NFC}.nii", f"{NFD}2_0000.nii")
    content = {"training": [{"image": f"{NFC}/{NFC}.nii", "label": f"labels/{NFD}.nii"}], "test": [f"{NFC}2.nii"]}
    assert found(tmp_path, content) == {
        f"{NFC}/{NFC}.nii": (f"{NFD}/{NFD}.nii", f"labels/{NFC}.nii"),
        f"{NFC}2.nii": (f"{NFD}2_0000.nii",),
    }
    (tmp_path / NFD / f"{NFD}.nii").unlink()
    assert refusal(tmp_path) == (
        f"{tmp_path / 'dataset.json'} lists 1 files that do not exist, the first is {tmp_path / NFC / NFC}.nii"
    )


@pytest.mark.parametrize("label", ["", None])
def test_an_image_whose_label_is_left_empty_has_none(tmp_path, label):
    lay_out(tmp_path, "a.nii", "b.nii")
    assert found(tmp_path, {"training": [{"image": "a.nii", "label": label}]}) == {"a.nii": ("a.nii",)}
    content = {"channel_names": {"0": "CT"}, "dataset": {"b": {"images": ["b.nii"], "label": label}}}
    assert found(tmp_path, content) == {"b": ("b.nii",)}


def test_masks_that_a_list_does_not_name_are_told(tmp_path):
    lay_out(tmp_path, "imagesTr/a.nii", "labelsTr/a.nii", "imagesTr/b.nii", "labelsTr/b.nii", "a_mask.nii")
    content = {"training": [{"image": "imagesTr/a.nii", "label": "labelsTr/a.nii"}], "test": ["imagesTr/b.nii"]}
    found(tmp_path, content)
    assert unmatched_masks(tmp_path, find_images(tmp_path)) == ["a_mask.nii", "labelsTr/b.nii"]


def test_nnunet_that_lists_its_cases(tmp_path):
    lay_out(tmp_path, "x/a_t1.nii", "x/a_t2.nii", "y/a.nii", "x/b.nii")
    cases = {"a": {"images": ["x/a_t1.nii", "./x/a_t2.nii"], "label": "y/a.nii"}, "b": {"images": ["x/b.nii"]}}
    assert found(tmp_path, {"channel_names": {"0": "T1", "1": "T2"}, "file_ending": ".nii", "dataset": cases}) == {
        "x/a": (["x/a_t1.nii", "x/a_t2.nii"], "y/a.nii"),
        "x/b": ("x/b.nii",),
    }


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"file_ending": ".npy"}, "must have a file_ending of {suffixes}, got .npy"),
        ({}, "is nnU-Net's, but imagesTr and imagesTs beside it hold no file <case>_0000.nii.gz"),
        (
            {"dataset": {"a": {"images": []}}},
            "must list {{'images': [paths], 'label': path}} for a, got {{'images': []}}",
        ),
        (
            {"dataset": {"a": {"images": ["a.nii"], "label": "b.nii"}}},
            "lists 2 files that do not exist, the first is {a}",
        ),
    ],
)
def test_broken_list_of_nnunet(tmp_path, content, complaint):
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}, **content}))
    known = {"suffixes": " ".join(IMAGE_SUFFIXES), "a": tmp_path / "a.nii"}
    assert refusal(tmp_path) == f"{tmp_path / 'dataset.json'} {complaint.format(**known)}"


# nnU-Net, version 1


def test_lists_of_the_first_nnunet_leave_out_the_channel(tmp_path):
    lay_out(tmp_path, "imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", "labelsTr/a.nii.gz")
    content = {
        "modality": {"0": "T1", "1": "T2"},
        "training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}],
    }
    files = ["imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz"]
    assert found(tmp_path, content) == {"imagesTr/a.nii.gz": (files, "labelsTr/a.nii.gz")}
    content["modality"] = {"0": "CT"}
    assert found(tmp_path, content) == {"imagesTr/a.nii.gz": (files[0], "labelsTr/a.nii.gz")}
    assert find_images(tmp_path)[0]["name"] == "a"
    content["modality"] = {"0": "T1", "1": "T2", "2": "T3"}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    assert refusal(tmp_path) == (
        f"{tmp_path / 'dataset.json'} lists 1 files that do not exist, the first is "
        f"{tmp_path / 'imagesTr/a_0002.nii.gz'}"
    )
