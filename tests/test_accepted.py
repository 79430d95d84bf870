"""Masks that a person accepted, as a distillation reads them."""

import logging

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from monai_fusenet.data import find_images, load_image, load_labels
from monai_fusenet.distillation.accepted import find_accepted

ROWS, COLUMNS = np.mgrid[:23, :31]
OBJECT = (ROWS - 11) ** 2 + (COLUMNS - 14) ** 2 < 50
PART = (ROWS - 11) ** 2 + (COLUMNS - 14) ** 2 < 12
CLASSES = OBJECT + PART.astype(np.uint8)
EMPTY = np.zeros_like(OBJECT)
WHITE = 255 * OBJECT.astype(np.uint8)


@pytest.fixture
def folders(tmp_path):
    """Four images and an empty folder for their accepted masks."""
    for folder in ("images", "accepted"):
        (tmp_path / folder).mkdir()
    for name in "abcd":
        values = np.random.default_rng(ord(name)).integers(0, 255, (23, 31), dtype=np.uint8)
        Image.fromarray(values).save(tmp_path / "images" / f"{name}.png")
    return tmp_path / "images", tmp_path / "accepted"


def accept(folders, **masks):
    """What is found of masks that are saved as PNG."""
    for name, mask in masks.items():
        Image.fromarray(np.asarray(mask, np.uint8)).save(folders[1] / f"{name}_mask.png")
    return find_accepted(find_images(folders[0]), folders[1], folders[0])


def loaded(accepted, folders, name):
    return accepted.load(name, load_image(folders[0] / f"{name}.png")).numpy()[0]


@pytest.mark.parametrize(
    ("masks", "told"),
    [
        ({"a": WHITE}, "1 accepted mask, 1 class"),
        ({"a": WHITE, "b": OBJECT}, "2 accepted masks, 1 class"),
        ({"a": OBJECT * 3, "c": PART * 3}, "2 accepted masks, 1 class"),
        ({"a": WHITE, "b": EMPTY, "d": EMPTY}, "3 accepted masks, 2 of them empty, 1 class"),
    ],
)
def test_one_label_is_one_class(folders, caplog, masks, told):
    caplog.set_level(logging.INFO, "monai_fusenet")
    accepted = accept(folders, **masks)
    assert accepted.classes == (1,)
    assert list(accepted.paths) == list(masks)
    assert caplog.messages == [told]
    for name, mask in masks.items():
        assert np.array_equal(loaded(accepted, folders, name), np.asarray(mask) > 0)


def test_labels_of_all_masks_together_are_the_classes(folders, caplog):
    caplog.set_level(logging.INFO, "monai_fusenet")
    accepted = accept(folders, a=PART * 3, b=OBJECT * 7 - PART * 6)
    assert accepted.classes == (1, 3, 7)
    assert caplog.messages == ["2 accepted masks, classes 1, 3, 7"]
    assert np.array_equal(loaded(accepted, folders, "a"), PART * 2)
    assert np.array_equal(loaded(accepted, folders, "b"), OBJECT * 3 - PART * 2)
    assert loaded(accepted, folders, "b").dtype == np.uint8


def test_grey_levels_may_be_classes(folders):
    accepted = accept(folders, a=OBJECT * 127 + PART * 128, b=OBJECT * 255)
    assert accepted.classes == (127, 255)
    assert np.array_equal(loaded(accepted, folders, "b"), OBJECT * 2)


def test_many_labels_number_objects(folders, caplog):
    caplog.set_level(logging.INFO, "monai_fusenet")
    cells = np.kron(np.arange(1, 36).reshape(5, 7), np.pad(np.ones((3, 3), int), ((0, 1), (0, 1))))
    cells = np.pad(cells, ((0, 3), (0, 3)))
    accepted = accept(folders, a=cells)
    assert accepted.classes == (1,)
    assert caplog.messages == ["1 accepted mask, 1 class: their 35 labels number objects"]
    assert np.array_equal(loaded(accepted, folders, "a"), cells > 0)


def numbered(count, step=1):
    """So many squares in a row, numbered."""
    mask = np.zeros((23, 31), int)
    for place in range(count):
        mask[4:8, 5 * place + 1 : 5 * place + 4] = 1 + step * place
    return mask


def test_a_few_labels_number_objects_where_each_mask_has_as_many_as_it_has_parts(folders, caplog):
    caplog.set_level(logging.INFO, "monai_fusenet")
    accepted = accept(folders, a=numbered(5), b=numbered(3), c=EMPTY)
    assert accepted.classes == (1,)
    assert caplog.messages == ["3 accepted masks, 1 of them empty, 1 class: their 5 labels number objects"]
    assert np.array_equal(loaded(accepted, folders, "a"), numbered(5) > 0)


@pytest.mark.parametrize(
    "masks",
    [
        {"a": numbered(5), "b": numbered(5)},  # the same five in each
        {"a": numbered(3), "b": numbered(2)},  # few
        {"a": numbered(5), "b": numbered(3, step=2)},  # not from 1 on
        {"a": numbered(5), "b": np.maximum(numbered(4), np.roll(numbered(1), 10, axis=0))},  # one of two parts
    ],
)
def test_other_labels_are_classes(folders, masks):
    assert accept(folders, **masks).classes == tuple(range(1, 1 + max(mask.max() for mask in masks.values())))


def test_soft_masks_count_from_the_middle(folders):
    soft = np.clip(255 * (8 - np.hypot(ROWS - 11, COLUMNS - 14)) / 4, 0, 255).astype(np.uint8)
    accepted = accept(folders, a=soft)
    assert accepted.classes == (1,)
    assert np.array_equal(loaded(accepted, folders, "a"), soft >= 128)


def test_another_grid_is_brought_to_that_of_the_image(tmp_path):
    affine = np.diag([2.0, 1.0, 3.0, 1.0])
    volume = np.random.default_rng(0).normal(size=(7, 10, 5)).astype(np.float32)
    labels = np.zeros((7, 10, 5), np.int16)
    labels[2:5, 3:6, 1:3], labels[2:5, 6:9, 1:3] = 1, 4
    for folder in ("images", "accepted"):
        (tmp_path / folder).mkdir()
    nib.save(nib.Nifti1Image(volume, affine), tmp_path / "images" / "v.nii.gz")
    flipped = affine @ np.array([[-1.0, 0, 0, 6], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(labels[::-1], flipped), tmp_path / "accepted" / "v.nii.gz")
    accepted = find_accepted(find_images(tmp_path / "images"), tmp_path / "accepted", tmp_path / "images")
    assert accepted.classes == (1, 4)
    brought = accepted.load("v", load_image(tmp_path / "images" / "v.nii.gz"))
    assert np.array_equal(brought.numpy()[0], np.where(labels == 4, 2, labels))


def test_the_digest_follows_the_labels_and_their_images(folders):
    digest = accept(folders, a=OBJECT, b=PART).digest
    assert accept(folders).digest == digest
    (folders[1] / "b_mask.png").rename(folders[1] / "c_mask.png")
    moved = accept(folders).digest
    changed = accept(folders, c=OBJECT).digest
    assert len({digest, moved, changed}) == 3


def test_a_mask_of_no_image_is_named_and_the_others_teach(folders, caplog):
    accepted = accept(folders, a=OBJECT, e=PART)
    assert list(accepted.paths) == ["a"]
    assert caplog.messages[0] == "1 accepted masks belong to no image and are not used: e_mask.png"


def test_only_accepted_masks_are_opened(folders):
    (folders[0] / "a.png").write_bytes(b"no image")
    (folders[0] / "a_mask.png").write_bytes(b"no mask")
    assert list(accept(folders, b=OBJECT).paths) == ["b"]


def broken(folders):
    (folders[1] / "a.png").write_bytes(b"no image")


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({}, "accepted_dir {accepted} holds no mask: expected <name>.* or <name>_mask.* of an image"),
        (
            {"x": OBJECT, "y": OBJECT},
            "no mask in accepted_dir {accepted} belongs to an image: the masks are x_mask.png, y_mask.png, the images "
            "a, b, c and 1 more; call each <name>.* or <name>_mask.*",
        ),
        ({"a": EMPTY}, "the accepted mask is empty: one at least must show the object"),
        ({"a": EMPTY, "c": EMPTY}, "all 2 accepted masks are empty: one at least must show the object"),
        (
            {"a": CLASSES, "b": WHITE},
            "the accepted mask b_mask.png is black and white, but others hold the classes 1, 2: save it as a label map "
            "of these",
        ),
        (
            {"a": OBJECT, "a_mask_mask": OBJECT},
            "accepted_dir must hold one mask of a, got a_mask.png and a_mask_mask_mask.png: keep one, or unite them",
        ),
    ],
)
def test_bad_folders(folders, masks, message):
    with pytest.raises(ValueError, match=r".") as error:
        accept(folders, **masks)
    assert str(error.value) == message.format(accepted=folders[1])


def test_no_folder(folders):
    for path, what in ((folders[1] / "x", "does not exist"), (folders[0] / "a.png", "is a file")):
        with pytest.raises(ValueError, match=f"accepted_dir must be a folder of masks, got {path}, which {what}"):
            find_accepted(find_images(folders[0]), path, folders[0])


def test_masks_that_do_not_fit_are_named(folders):
    accepted = accept(folders, a=OBJECT[:20], b=CLASSES)
    with pytest.raises(ValueError, match=r"^the accepted mask a_mask.png: image and mask must have the same size, got"):
        loaded(accepted, folders, "a")
    accept(folders, b=OBJECT * 5)
    with pytest.raises(
        ValueError, match=r"^the accepted mask b_mask.png must hold labels of \(1, 2\), and it has changed"
    ):
        loaded(accepted, folders, "b")


@pytest.mark.parametrize(
    ("save", "labels"),
    [
        (lambda path: Image.fromarray(CLASSES).save(path), CLASSES),
        (lambda path: Image.fromarray(WHITE).save(path), WHITE),
        (lambda path: Image.fromarray(OBJECT).save(path), WHITE),  # one bit
        (lambda path: Image.fromarray((OBJECT * 40_000).astype(np.uint16)).save(path), WHITE),
        (lambda path: Image.fromarray((OBJECT * 300).astype(np.uint16)).save(path), OBJECT * 300),
        (lambda path: Image.fromarray(np.stack([WHITE] * 3, -1)).save(path), WHITE),
        (lambda path: Image.fromarray(np.stack([CLASSES] * 3, -1)).save(path), CLASSES),
        (lambda path: Image.fromarray(np.stack([WHITE, 0 * WHITE, 255 * PART], -1).astype("u1")).save(path), WHITE),
    ],
)
def test_labels_of_pictures(tmp_path, save, labels):
    save(tmp_path / "a.png")
    assert np.array_equal(load_labels(tmp_path / "a.png").numpy()[0], labels)


def test_labels_of_palettes_and_of_probabilities(tmp_path):
    palette = Image.fromarray(CLASSES, mode="P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    palette.save(tmp_path / "a.png")
    assert np.array_equal(load_labels(tmp_path / "a.png").numpy()[0], CLASSES)
    shares = np.stack([1.0 - 0.9 * OBJECT, 0.9 * (OBJECT & ~PART), 0.9 * PART], -1).astype(np.float32)
    nib.save(nib.Nifti1Image(shares[:, :, None], np.eye(4)), tmp_path / "p.nii.gz")
    assert np.array_equal(load_labels(tmp_path / "p.nii.gz").numpy()[0], CLASSES)


def test_labels_between_whole_numbers_are_rounded_and_too_large_ones_refused(tmp_path):
    values = np.where(OBJECT, np.where(PART, 1.9, 1.2), 0.3).astype(np.float32)
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "a.nii.gz")
    assert np.array_equal(load_labels(tmp_path / "a.nii.gz").numpy()[0], CLASSES)
    nib.save(nib.Nifti1Image((OBJECT * 70_000).astype(np.int32), np.eye(4)), tmp_path / "b.nii.gz")
    with pytest.raises(ValueError, match=r"b\.nii\.gz: expected labels up to 65535, got 70000"):
        load_labels(tmp_path / "b.nii.gz")
