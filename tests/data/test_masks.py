"""Masks of any common form: each is written to a file from one known mask, and read back as it."""

import io

import nibabel as nib
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from monai_fusenet.data import load_image, load_mask, load_mask_on_grid_of, spacing_of

HEIGHT, WIDTH = 43, 57
Y, X = np.mgrid[:HEIGHT, :WIDTH]
OBJECT = ((Y - 20) / 14) ** 2 + ((X - 24) / 17) ** 2 < 1
PART = ((Y - 18) / 5) ** 2 + ((X - 20) / 6) ** 2 < 1  # of the object
VESSEL = np.abs(Y - 21 - 9 * np.sin(X / 9)) < 2
BRIGHT = OBJECT * np.uint8(255)


def grey(values):
    return Image.fromarray(values)


def indexed(values, colours):
    picture = Image.fromarray(values.astype("u1"), mode="P")
    picture.putpalette([part for colour in colours for part in colour])
    return picture


def jpeg_of(values, quality=75):
    """What is left of values after a JPEG."""
    stored = io.BytesIO()
    Image.fromarray(values).save(stored, "JPEG", quality=quality)
    return np.asarray(Image.open(stored))


def smoothed(values, steps=2):
    """Values with soft edges: `steps` means over neighbours, rounded."""
    soft = values.astype(float)
    for _ in range(steps):
        around = np.pad(soft, 1, mode="edge")
        soft = (around[:-2, 1:-1] + around[2:, 1:-1] + around[1:-1, :-2] + around[1:-1, 2:] + 4 * soft) / 8
    return np.rint(soft).astype(values.dtype)


def instances(count):
    """A label map of squares of 3 x 3 pixels, some of which touch, with labels 1 to `count`."""
    rows = count // 15 + 1
    labels = np.minimum(np.arange(1, rows * 15 + 1), count).reshape(rows, 15)
    return np.pad(np.kron(labels, np.pad(np.ones((3, 3), int), ((0, 1), (0, 0)))), 2)


OPAQUE = np.full_like(BRIGHT, 255)
RED, GREEN, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (255, 255, 255), (0, 0, 0)
CLASSES = OBJECT + PART.astype("u1")  # 0, 1, 2

PNG = {
    "0 and 1": grey(OBJECT.astype("u1")),
    "0 and 255": grey(BRIGHT),
    "0 and 128": grey(OBJECT * np.uint8(128)),
    "one bit": grey(OBJECT),
    "classes": grey(CLASSES),
    "classes shown as grey levels": grey(CLASSES * np.uint8(127)),
    "a class beside a border of 255": grey(OBJECT + PART * np.uint8(254)),
    "16 bits, 0 and 1": grey(OBJECT.astype("u2")),
    "16 bits, 0 and 65535": grey(OBJECT * np.uint16(65535)),
    "16 bits, classes": grey(CLASSES * np.uint16(300)),
    "RGB": grey(np.dstack([BRIGHT] * 3)),
    "RGB, one channel": grey(np.dstack([0 * BRIGHT, BRIGHT, 0 * BRIGHT])),
    "RGB, colours of classes": grey(np.dstack([PART * np.uint8(255), (OBJECT & ~PART) * np.uint8(128), 0 * BRIGHT])),
    "RGBA": grey(np.dstack([BRIGHT] * 3 + [OPAQUE])),
    "LA": Image.fromarray(np.dstack([BRIGHT, OPAQUE]), mode="LA"),
    "transparency alone, black": grey(np.dstack([0 * BRIGHT] * 3 + [BRIGHT])),
    "transparency alone, white": Image.fromarray(np.dstack([OPAQUE, BRIGHT]), mode="LA"),
    "transparency around an object on white": grey(np.dstack([OPAQUE, 255 - BRIGHT, 255 - BRIGHT, BRIGHT])),
    "palette": indexed(OBJECT, [BLACK, RED]),
    "palette, white on black": indexed(OBJECT, [BLACK, WHITE]),
    "palette, white and then black": indexed(~OBJECT, [WHITE, BLACK]),
    "palette of which all is black": indexed(OBJECT, [BLACK, BLACK]),
    "palette of two greys": indexed(OBJECT, [(10, 10, 10), (200, 200, 200)]),
    "palette as Pillow finds it for grey": grey(BRIGHT).quantize(2),
    "palette as Pillow finds it for colours": grey(np.dstack([BRIGHT] * 3)).quantize(256),
    "palette that Pillow adapts": grey(np.dstack([BRIGHT] * 3)).convert("P", palette=Image.Palette.ADAPTIVE),
    "palette, background of a colour": indexed(CLASSES, [GREEN, RED, BLACK]),
    "palette of all greys": grey(BRIGHT).convert("P"),
    "JPEG saved as PNG": grey(jpeg_of(BRIGHT)),
    "JPEG in colour saved as PNG": grey(jpeg_of(np.dstack([BRIGHT] * 3))),
    "a small class of 100 in one of 255": grey(np.where(PART, 100, BRIGHT).astype("u1")),
    "classes 1 and 2 beside a border of 255": grey(np.where(Y > 31, 255, CLASSES).astype("u1") * OBJECT),
    "16 and 235": grey((16 + OBJECT * 219).astype("u1")),
    "soft edges": grey(smoothed(BRIGHT)),
    "soft edges, 16 bits": grey(smoothed(OBJECT * np.uint16(65535))),
    "soft edges in a palette of greys": grey(smoothed(BRIGHT)).convert("P"),
}


@pytest.mark.parametrize("form", PNG)
def test_forms_of_png(tmp_path, form):
    PNG[form].save(tmp_path / "a.png")
    mask = load_mask(tmp_path / "a.png")
    assert mask.dtype == torch.uint8
    np.testing.assert_array_equal(mask.numpy()[0], OBJECT)
    assert spacing_of(mask) is None


def test_transparency_of_a_palette_is_not_looked_at(tmp_path):
    indexed(OBJECT, [BLACK, RED]).save(tmp_path / "a.png", transparency=1)
    np.testing.assert_array_equal(load_mask(tmp_path / "a.png").numpy()[0], OBJECT)


@pytest.mark.parametrize(
    "form", ["0 and 1", "0 and 255", "one bit", "classes", "RGB", "palette", "palette that Pillow adapts"]
)
@pytest.mark.parametrize("name", ["a.bmp", "a.tif"])
def test_forms_of_bmp_and_tiff(tmp_path, name, form):
    PNG[form].save(tmp_path / name)
    np.testing.assert_array_equal(load_mask(tmp_path / name).numpy()[0], OBJECT)


TIFF = {
    "booleans": (OBJECT, {}),
    "white is zero": (255 - BRIGHT, {"photometric": "miniswhite"}),
    "white is zero in ImageJ": (BRIGHT, {"photometric": "miniswhite", "imagej": True}),
    "white is zero in ImageJ, pages": (np.stack([BRIGHT] * 3), {"photometric": "miniswhite", "imagej": True}),
    "classes where white is zero": (CLASSES, {"photometric": "miniswhite"}),
    "white is zero, float": (1 - OBJECT.astype("f4"), {"photometric": "miniswhite"}),
    "int8": (OBJECT.astype("i1"), {}),
    "int32, -1 is to be ignored": (np.where(OBJECT, 1, np.where(X < 3, -1, 0)).astype("i4"), {}),
    "uint32": (CLASSES * np.uint32(70000), {}),
    "float, 0 and 255": (OBJECT * np.float32(255), {}),
    "probabilities": (np.where(OBJECT, 0.7, 0.3).astype("f4"), {}),
    "half precision": (OBJECT.astype("f2"), {}),
    "palette of 16 bits": (
        CLASSES,
        {"photometric": "palette", "colormap": np.arange(768, dtype="u2")[::-1].reshape(3, 256) * 80},
    ),
    "channels of ImageJ": (
        np.stack([OBJECT & ~PART, PART]) * np.uint8(255),
        {"imagej": True, "metadata": {"axes": "CYX"}},
    ),
    "transparency": (
        np.dstack([BRIGHT] * 3 + [OPAQUE]),
        {"photometric": "rgb", "extrasamples": ["unassalpha"]},
    ),
}


@pytest.mark.parametrize("form", TIFF)
def test_forms_of_tiff(tmp_path, form):
    pixels, how = TIFF[form]
    tifffile.imwrite(tmp_path / "a.tif", pixels, **({"photometric": "minisblack"} | how))
    mask = load_mask(tmp_path / "a.tif").numpy()[0]
    np.testing.assert_array_equal(mask, np.dstack([OBJECT.T] * 3) if mask.ndim == 3 else OBJECT)


@pytest.mark.parametrize("photometric", [0, 1])
def test_one_bit_of_both_photometric_interpretations(tmp_path, photometric):
    grey(OBJECT).save(tmp_path / "a.tif", tiffinfo={262: photometric})
    np.testing.assert_array_equal(load_mask(tmp_path / "a.tif").numpy()[0], OBJECT)


# JPEG


@pytest.mark.parametrize("quality", [30, 50, 75, 95])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
@pytest.mark.parametrize("shape", ["object", "vessel"])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_jpeg_leaves_beside_an_object_is_background(tmp_path, shape, suffix, quality, channels):
    truth = {"object": OBJECT, "vessel": VESSEL}[shape]
    written = np.repeat(truth[..., None] * np.uint8(255), channels, axis=2).squeeze()
    left = jpeg_of(written, quality)
    if suffix == ".jpg":
        Image.fromarray(written).save(tmp_path / "a.jpg", quality=quality)
    else:
        Image.fromarray(left).save(tmp_path / f"a{suffix}")
    half = left.reshape(HEIGHT, WIDTH, -1).max(-1) > 127
    assert ((left > 0).reshape(HEIGHT, WIDTH, -1).any(-1) != truth).sum() > 50  # there is something to be misled by
    np.testing.assert_array_equal(load_mask(tmp_path / f"a{suffix}").numpy()[0], half)
    assert (half != truth).mean() < 0.02


FORMS_OF_OBJECTS = {
    "object": OBJECT,
    "vessel": VESSEL,
    "rectangle": (Y >= 5) & (Y < 33) & (X >= 13) & (X < 49),
    "blocks": (Y >= 8) & (Y < 24) & (X >= 16) & (X < 40),
    "tiny": (Y - 21) ** 2 + (X - 25) ** 2 < 3**2,
}


@pytest.mark.parametrize("quality", [5, 10, 20, 40, 60, 70, 85, 100])
@pytest.mark.parametrize("shape", FORMS_OF_OBJECTS)
@pytest.mark.parametrize("levels", [(0, 255), (16, 235), (40, 240)])
def test_jpeg_of_any_quality(tmp_path, levels, shape, quality):
    truth = FORMS_OF_OBJECTS[shape]
    for channels in (1, 3):
        written = np.repeat(np.where(truth, levels[1], levels[0]).astype("u1")[..., None], channels, axis=2).squeeze()
        Image.fromarray(written).save(tmp_path / "a.jpg", quality=quality)
        grey(jpeg_of(written, quality)).save(tmp_path / "a.png")
        for name in ("a.jpg", "a.png"):
            read = load_mask(tmp_path / name).numpy()[0] > 0
            assert 2 * (read & truth).sum() / (read.sum() + truth.sum()) > 0.85, (name, channels)


def test_a_black_jpeg_is_an_empty_mask(tmp_path):
    grey(0 * BRIGHT).save(tmp_path / "a.jpg", quality=5)
    assert np.asarray(Image.open(tmp_path / "a.jpg")).min() > 0
    assert not load_mask(tmp_path / "a.jpg").any()


@pytest.mark.parametrize("level", [1, 100])
def test_jpeg_of_a_dark_mask(tmp_path, level):
    blocks = (Y < 24) & (X >= 16) & (X < 40)
    grey(blocks * np.uint8(level)).save(tmp_path / "a.jpg", quality=100)
    np.testing.assert_array_equal(load_mask(tmp_path / "a.jpg").numpy()[0], blocks)


@pytest.mark.parametrize("quality", [75, 95])
def test_levels_of_grey_in_a_jpeg_are_classes(tmp_path, quality):
    grey(np.where(PART, 255, OBJECT * 85).astype("u1")).save(tmp_path / "a.jpg", quality=quality)
    assert (load_mask(tmp_path / "a.jpg").numpy()[0] != OBJECT).sum() <= 12


# Label maps that could be taken for black and white


@pytest.mark.parametrize(("count", "dtype"), [(3, "u1"), (120, "u1"), (255, "u1"), (700, "u2")])
def test_every_instance_is_foreground(tmp_path, count, dtype):
    labels = instances(count).astype(dtype)
    grey(labels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(load_mask(tmp_path / "a.png").numpy()[0], labels > 0)


def test_single_pixels_are_instances(tmp_path):
    labels = np.zeros((HEIGHT, WIDTH), "u1")
    labels[::3, ::4] = np.arange(15 * 15).reshape(15, 15) + 20
    labels[0, 0] = 255
    grey(labels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(load_mask(tmp_path / "a.png").numpy()[0], labels > 0)


def stripes(count, length, width):
    """A band of touching labels 1 to `count`, each of `length` x `width` pixels."""
    return np.pad(np.tile(np.repeat(np.arange(1, count + 1), width), (length, 1)), 9)


def crossing_lines(count):
    """Lines of labels 1 to `count`, one to three pixels wide, each over those before it."""
    labels = np.zeros((203, 245), int)
    rows, columns = np.mgrid[:203, :245]
    for label in range(1, count + 1):
        slope, start = np.tan(label * 2.4), label * 37 % 203
        across = (rows - start - slope * (columns - 122)) / np.hypot(1, slope)
        labels[np.abs(across) < (0.5, 1, 1.5)[label % 3]] = label
    return labels


def touching_discs(count):
    """Discs of radius 2 of labels 1 to `count`, some over others."""
    labels = np.zeros((151, 157), int)
    rows, columns = np.mgrid[:151, :157]
    for label in range(1, count + 1):
        labels[(rows - label * 61 % 151) ** 2 + (columns - label * 89 % 157) ** 2 <= 4] = label
    return labels


THIN = {
    "stripes of 5 x 2": stripes(200, 5, 2),
    "stripes of 3 x 3": stripes(250, 3, 3),
    "lines": crossing_lines(100) * 2,
    "discs": touching_discs(250),
}


@pytest.mark.parametrize("form", THIN)
def test_thin_labels_that_touch_are_foreground(tmp_path, form):
    labels = THIN[form].astype("u1")
    grey(labels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(load_mask(tmp_path / "a.png").numpy()[0], labels > 0)
    nib.save(nib.Nifti1Image(labels[..., None], np.eye(4)), tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(load_mask(tmp_path / "a.nii.gz").numpy()[0], labels > 0)


@pytest.mark.parametrize("top", [65535, 65000])
def test_labels_of_sixteen_bits_up_to_the_greatest(tmp_path, top):
    labels = np.where(PART, top, CLASSES * 40).astype("u2")
    grey(labels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(load_mask(tmp_path / "a.png").numpy()[0], OBJECT)


@pytest.mark.parametrize("value", [0, 255])
def test_masks_of_one_value(tmp_path, value):
    grey(np.full((HEIGHT, WIDTH), value, "u1")).save(tmp_path / "a.png")
    assert load_mask(tmp_path / "a.png").unique().tolist() == [value // 255]


# Volumes

AFFINE = np.array([[0.0, -2, 0, 5], [1.5, 0, 0, -7], [0, 0, 3, 11], [0, 0, 0, 1]])
SOLID = np.stack([OBJECT, OBJECT & ~PART, PART], axis=-1)
PARTS = SOLID * np.array([1, 2, 3], "u1")
VOLUMES = {
    "0 and 1": SOLID.astype("u1"),
    "0 and 255": SOLID * np.uint8(255),
    "classes": PARTS,
    "signed, -1 is to be ignored": np.where(SOLID, PARTS.astype("i2"), -1),
    "probabilities": np.where(SOLID, 0.8, 0.2).astype("f4"),
    "probabilities that are never sure": np.where(SOLID, 0.5, 0.49).astype("f4"),
    "labels that were interpolated": np.where(SOLID, PARTS - 0.4, 0.4).astype("f4"),
    "NaN outside": np.where(SOLID, 1, np.nan).astype("f4"),
    "NaN and infinite": np.where(SOLID, np.inf, np.nan).astype("f4"),
    "float, 0 and 255": SOLID.astype("f8") * 255,
    "a channel a class": np.stack([PARTS == 1, PARTS == 2, PARTS == 3], axis=-1).astype("u1"),
    "a channel a class, the first of the background": np.stack([~SOLID, PARTS == 1, PARTS > 1], axis=-1).astype("u1"),
    "a channel a class, white": np.stack([~SOLID, PARTS == 1, PARTS > 1], axis=-1) * np.uint8(255),
    "softmax": np.stack([np.where(SOLID, 0.1, 0.8), np.where(SOLID, 0.9, 0.2)], axis=-1).astype("f4"),
}


@pytest.mark.parametrize("form", VOLUMES)
def test_forms_of_volumes(tmp_path, form):
    nib.save(nib.Nifti1Image(VOLUMES[form], AFFINE), tmp_path / "a.nii.gz")
    mask = load_mask(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(mask.numpy()[0], SOLID)
    np.testing.assert_array_equal(mask.affine, AFFINE)
    assert mask.meta["grid_shape"].tolist() == [HEIGHT, WIDTH, 3]


def test_a_scaled_mask(tmp_path):
    image = nib.Nifti1Image(SOLID.astype("u1") * 255, AFFINE)
    image.header.set_slope_inter(1 / 255, 0)
    nib.save(image, tmp_path / "a.nii")
    np.testing.assert_array_equal(load_mask(tmp_path / "a.nii").numpy()[0], SOLID)


# Several files


def test_several_masks_are_united(tmp_path):
    grey(PART * np.uint8(255)).save(tmp_path / "left.png")
    grey((OBJECT & ~PART).astype("u1")).save(tmp_path / "right.png")
    paths = [tmp_path / "left.png", tmp_path / "right.png"]
    np.testing.assert_array_equal(load_mask_on_grid_of(paths, load_image(paths[0])).numpy()[0], OBJECT)


def test_masks_of_different_shapes_are_not_united(tmp_path):
    grey(BRIGHT).save(tmp_path / "a.png")
    grey(BRIGHT.T.copy()).save(tmp_path / "b.png")
    with pytest.raises(
        ValueError, match=r"^b\.png: image and mask must have the same size, got \(43, 57\) and \(57, 43\)$"
    ):
        load_mask_on_grid_of([tmp_path / "a.png", tmp_path / "b.png"], load_image(tmp_path / "a.png"))
