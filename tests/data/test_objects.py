"""True objects of label maps, of a file per object, and of masks whose parts are counted."""

import nibabel as nib
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from monai_fusenet.data import load_image, load_objects_on_grid_of

HEIGHT, WIDTH = 31, 43
BOXES = [(slice(2, 10), slice(3, 12)), (slice(2, 10), slice(12, 20)), (slice(15, 28), slice(25, 40))]  # two touch
OBJECTS = np.zeros((HEIGHT, WIDTH), np.int32)
for number, box in enumerate(BOXES, start=1):
    OBJECTS[box] = number
UNION = np.where(OBJECTS == 2, 1, OBJECTS)
UNION[OBJECTS == 3] = 2


@pytest.fixture
def image(tmp_path):
    Image.fromarray(np.full((HEIGHT, WIDTH), 7, np.uint8)).save(tmp_path / "image.png")
    return load_image(tmp_path / "image.png")


def objects_of(image, *paths):
    objects = load_objects_on_grid_of(list(paths) if len(paths) > 1 else paths[0], image)
    assert (objects.shape, objects.dtype) == ((1, *image.shape[1:]), torch.int32)
    assert objects.meta["filename_or_obj"] == image.meta["filename_or_obj"]
    return objects.numpy()[0]


def coloured(path):
    colours = np.array([[0, 0, 0], [255, 0, 9], [9, 255, 0], [255, 0, 10]], np.uint8)
    Image.fromarray(colours[OBJECTS]).save(path)


def palette(path):
    picture = Image.fromarray(OBJECTS.astype(np.uint8))
    picture = picture.convert("P")
    picture.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0, 0, 0, 200])
    picture.save(path)


LABEL_MAPS = {
    "8 bits": ("a.png", lambda path: Image.fromarray(OBJECTS.astype(np.uint8)).save(path)),
    "numbers with gaps": ("a.png", lambda path: Image.fromarray((OBJECTS * 70).astype(np.uint8)).save(path)),
    "16 bits": ("a.png", lambda path: Image.fromarray((OBJECTS * 20000).astype(np.uint16)).save(path)),
    "32 bits": ("a.tif", lambda path: tifffile.imwrite(path, (OBJECTS * 70000).astype(np.int32))),
    "floats": ("a.tif", lambda path: tifffile.imwrite(path, OBJECTS.astype(np.float32))),
    "colours": ("a.png", coloured),
    "a palette": ("a.png", palette),
}


@pytest.mark.parametrize("form", LABEL_MAPS)
def test_a_label_map_keeps_its_objects(image, tmp_path, form):
    name, save = LABEL_MAPS[form]
    save(tmp_path / name)
    found = objects_of(image, tmp_path / name)
    assert found.max() == 3
    assert [len(np.unique(found[box])) for box in BOXES] == [1, 1, 1]
    np.testing.assert_array_equal(found > 0, OBJECTS > 0)


MASKS = {
    "0 and 255": ("a.png", lambda mask: mask * np.uint8(255)),
    "0 and 1": ("a.png", lambda mask: mask.astype(np.uint8)),
    "soft edges": ("a.png", lambda mask: np.where(mask, 255, np.roll(mask, 1, 0) * 90).astype(np.uint8)),
    "JPEG": ("a.jpg", lambda mask: mask * np.uint8(255)),
}


@pytest.mark.parametrize("form", MASKS)
def test_the_connected_parts_of_a_mask_are_counted(image, tmp_path, form):
    name, values = MASKS[form]
    Image.fromarray(values(OBJECTS > 0)).save(tmp_path / name)
    np.testing.assert_array_equal(objects_of(image, tmp_path / name), UNION)


def test_parts_that_meet_at_a_corner_are_two(image, tmp_path):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[4:9, 5:11] = mask[9:14, 11:19] = 255
    Image.fromarray(mask).save(tmp_path / "a.png")
    assert objects_of(image, tmp_path / "a.png").max() == 2


def test_a_file_per_object(image, tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(1, 4)]
    for number, path in enumerate(paths, start=1):
        mask = number == OBJECTS
        mask[30, number] = True  # a second part of the same object
        Image.fromarray(mask * np.uint8(255)).save(path)
    found = objects_of(image, *paths)
    np.testing.assert_array_equal(found[:30], OBJECTS[:30])
    assert found[30, :5].tolist() == [0, 1, 2, 3, 0]


def test_where_files_overlap_the_first_counts(image, tmp_path):
    for name, rows in (("a", slice(2, 12)), ("b", slice(8, 20)), ("c", slice(9, 11))):
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[rows, 5:15] = 255
        Image.fromarray(mask).save(tmp_path / f"{name}.png")
    found = objects_of(image, *(tmp_path / f"{name}.png" for name in "abc"))
    assert [found[5, 7], found[10, 7], found[15, 7]] == [1, 1, 2]
    assert found.max() == 2  # the third one is nowhere to be seen


def test_numbers_of_many_parts_are_classes(image, tmp_path):
    classes = np.zeros((HEIGHT, WIDTH), np.uint8)
    for row in range(3):
        for column in range(4):
            classes[10 * row + 2 : 10 * row + 8, 10 * column + 2 : 10 * column + 8] = 1 + column % 2
    Image.fromarray(classes).save(tmp_path / "a.png")
    assert objects_of(image, tmp_path / "a.png").max() == 12


def test_no_object_at_all(image, tmp_path):
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(tmp_path / "a.png")
    assert objects_of(image, tmp_path / "a.png").max() == 0


def test_volumes_are_brought_to_the_grid_of_the_image(tmp_path):
    labels = np.zeros((9, 7, 6), np.uint8)
    labels[1:4, 1:6, 1:3], labels[4:8, 1:6, 1:3] = 5, 9
    affine = np.diag([2.0, 1, 3, 1])
    nib.save(nib.Nifti1Image(np.ones(labels.shape, np.int16), affine), tmp_path / "image.nii.gz")
    turned = affine @ np.array([[-1.0, 0, 0, 8], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(labels[::-1].copy(), turned), tmp_path / "a.nii.gz")
    found = objects_of(load_image(tmp_path / "image.nii.gz"), tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(np.array([0, 5, 9])[found], labels)


def test_masks_that_do_not_fit(image, tmp_path):
    Image.fromarray(np.ones((HEIGHT, WIDTH + 2), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"^image and mask must have the same size, got \(31, 43\) and \(31, 45\)$"):
        load_objects_on_grid_of(tmp_path / "a.png", image)
    with pytest.raises(ValueError, match=r"^cannot read .*none.png: no such file or folder$"):
        load_objects_on_grid_of(tmp_path / "none.png", image)
    with pytest.raises(ValueError, match=r"^expected the path of a mask, got an empty list$"):
        load_objects_on_grid_of([], image)
