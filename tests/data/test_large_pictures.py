"""Pictures above a bound of pixels: working copies by means, labels by middle pixels, and back onto the file's grid."""

import re

import numpy as np
import pytest
import tifffile
import torch
from monai.data import MetaTensor
from PIL import Image

from monai_fusenet.data import (
    blocks,
    claims,
    load_image,
    load_labels,
    load_labels_on_grid_of,
    load_mask_on_grid_of,
    load_objects_on_grid_of,
)
from monai_fusenet.data.blocks import Blocks, block_of
from monai_fusenet.evaluation.loading import load_results, load_truth
from monai_fusenet.results.layout import write_label_map

HEIGHT, WIDTH = 701, 503  # 352 603 pixels: of blocks of 4 x 4 there are more than 10 000, of 8 x 8 88 x 63
BLOCK = 8
RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (HEIGHT, WIDTH), dtype=np.uint16)


@pytest.fixture(autouse=True)
def small_bound(monkeypatch):
    monkeypatch.setattr(blocks, "LARGEST_PICTURE", 10_000)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.tif"


def means(pixels, block=BLOCK):
    """Means of blocks, each by itself: (H, W) or (H, W, C) -> (C, rows, columns)."""
    pixels = pixels.astype(np.float64).reshape(*pixels.shape[:2], -1)
    rows, columns = (range(0, side, block) for side in pixels.shape[:2])
    found = [[pixels[r : r + block, c : c + block].mean(axis=(0, 1)) for c in columns] for r in rows]
    return np.moveaxis(np.array(found), -1, 0)


def middles(pixels, block=BLOCK):
    """The middle pixel of each block, the last one of what does not reach its middle."""
    rows, columns = (np.minimum(np.arange(0, side, block) + block // 2, side - 1) for side in pixels.shape[:2])
    return pixels[rows][:, columns]


def assert_is_copy(image, expected, sides=(HEIGHT, WIDTH)):
    np.testing.assert_allclose(image.numpy(), expected, rtol=1e-6, atol=1e-6)
    assert image.meta["block"] == BLOCK
    assert tuple(image.meta["file_shape"]) == sides
    assert tuple(image.meta["spatial_shape"]) == image.shape[1:]


def test_blocks_are_the_smallest_power_of_two_below_the_bound():
    assert [block_of(shape) for shape in [(100, 100), (100, 101), (101, 101), (701, 503), (1, 40_001)]] == [
        1,
        2,
        2,
        8,
        8,
    ]


@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "zstd"])
@pytest.mark.parametrize(
    "places", [{}, {"tile": (64, 48)}, {"rowsperstrip": 13}, {"rowsperstrip": 100}], ids=["strip", "tiles", "13", "100"]
)
def test_means_whatever_the_parts(path, places, compression):
    for pixels, kind in ((COLOURS, "rgb"), (DEEP, "minisblack")):
        tifffile.imwrite(path, pixels, photometric=kind, compression=compression, **places)
        assert_is_copy(load_image(path), means(pixels))


@pytest.mark.parametrize("how", [{}, {"tile": (32, 80)}, {"compression": "zlib"}, {"byteorder": ">"}])
def test_means_of_planes_and_of_channels_on_pages(path, how):
    planes = COLOURS.transpose(2, 0, 1)
    tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate", **how)
    assert_is_copy(load_image(path), means(COLOURS))
    tifffile.imwrite(path, planes, photometric="minisblack", metadata={"axes": "CYX"}, ome=True, **how)
    assert_is_copy(load_image(path), means(COLOURS))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("nearest", [False, True])
def test_blocks_begin_where_the_picture_is_seen_to_begin(path, orientation, nearest, monkeypatch):
    tifffile.imwrite(path, DEEP, tile=(64, 48), extratags=[(274, "H", 1, orientation, True)])
    copy = load_image(path, nearest)
    monkeypatch.setattr(blocks, "LARGEST_PICTURE", DEEP.size)
    seen = load_image(path).numpy()[0]
    assert_is_copy(copy, middles(seen)[None] if nearest else means(seen), seen.shape)


@pytest.mark.parametrize("dtype", ["u1", "i2", "u4", "f4", "f8"])
def test_white_that_is_zero_and_other_types(path, dtype):
    pixels = (COLOURS[..., 0] if dtype == "u1" else DEEP).astype(dtype)
    tifffile.imwrite(path, pixels, tile=(64, 48))
    np.testing.assert_allclose(load_image(path).numpy(), means(pixels), rtol=1e-5)
    if dtype[0] == "u":
        tifffile.imwrite(path, pixels, photometric="miniswhite", tile=(64, 48))
        np.testing.assert_allclose(load_image(path).numpy(), means(np.iinfo(dtype).max - pixels), rtol=1e-5)


def test_jpeg_is_about_the_same(path):
    smooth = np.repeat(np.repeat(COLOURS[::40, ::40], 40, axis=0), 40, axis=1)[:HEIGHT, :WIDTH]
    tifffile.imwrite(path, smooth, photometric="rgb", compression="jpeg", compressionargs={"level": 95}, tile=(64, 48))
    assert np.abs(load_image(path).numpy() - means(smooth)).mean() < 4


def test_what_means_cannot_be_made_of_is_read_as_a_whole(path):
    palette = (np.arange(768).reshape(3, 256) * 83 % 65536).astype("u2")
    tifffile.imwrite(path, COLOURS[..., 0], photometric="palette", colormap=palette, tile=(64, 48))
    assert_is_copy(load_image(path), means((palette // 256)[:, COLOURS[..., 0]].transpose(1, 2, 0)))
    tifffile.imwrite(path, np.dstack([COLOURS // 5, np.full((HEIGHT, WIDTH), 51, "u1")]), extrasamples=["assocalpha"])
    assert_is_copy(load_image(path), means(np.dstack([np.rint(COLOURS // 5 / 0.2), np.full((HEIGHT, WIDTH), 51)])))


def test_png_and_jpeg_are_reduced_once_they_are_read(tmp_path):
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    assert_is_copy(load_image(tmp_path / "a.png"), means(COLOURS))
    Image.fromarray(COLOURS).save(tmp_path / "a.jpg")
    assert_is_copy(load_image(tmp_path / "a.jpg"), means(np.asarray(Image.open(tmp_path / "a.jpg"))))


def test_a_png_that_pillow_refuses_says_what_to_do(tmp_path, monkeypatch):
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(
        ValueError, match=r"^cannot read .*; a tiled TIFF may be larger, which is read in parts: convert"
    ):
        load_image(tmp_path / "a.png")


def test_volumes_and_pages_stay_what_they_are(path):
    pages = RNG.integers(0, 256, (3, 150, 130), dtype=np.uint8)
    tifffile.imwrite(path, pages, photometric="minisblack")
    np.testing.assert_array_equal(load_image(path).numpy()[0], pages.transpose(2, 1, 0))


def test_channels_of_several_files(tmp_path):
    for index in range(2):
        tifffile.imwrite(tmp_path / f"{index}.tif", DEEP // (index + 1), tile=(64, 48))
    image = load_image([tmp_path / "0.tif", tmp_path / "1.tif"])
    assert_is_copy(image, np.concatenate([means(DEEP), means(DEEP // 2)]))
    tifffile.imwrite(tmp_path / "1.tif", DEEP[:-1], tile=(64, 48))  # of as many blocks
    with pytest.raises(ValueError, match=re.escape("must have one shape, got (701, 503)")):
        load_image([tmp_path / "0.tif", tmp_path / "1.tif"])


# Pyramids


def write_pyramid(path, levels, subifds=True):
    with tifffile.TiffWriter(path) as writer:
        for place, level in enumerate(levels):
            is_first = place == 0
            below = {"subifds": len(levels) - 1} if is_first and subifds else {}
            writer.write(level, tile=(64, 48), subfiletype=0 if is_first else 1, metadata=None, **below)


def half(pixels):
    even = np.pad(pixels.astype(float), [(0, side % 2) for side in pixels.shape], mode="edge")
    return np.rint((even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / 4).astype(pixels.dtype)


SMOOTH = np.rint(20_000 + 15_000 * np.sin(np.arange(HEIGHT) / 60)[:, None] * np.cos(np.arange(WIDTH) / 50)).astype("u2")


@pytest.mark.parametrize("rounds", ["up", "down"])
@pytest.mark.parametrize("subifds", [True, False])
def test_a_level_of_a_pyramid_that_shows_the_same_is_read_in_its_place(path, subifds, rounds, monkeypatch):
    quarter, eighth = half(half(SMOOTH)), half(half(half(SMOOTH)))
    levels = [SMOOTH, half(SMOOTH), quarter, eighth, half(eighth)]
    if rounds == "down":
        levels = [level[: HEIGHT >> place, : WIDTH >> place] for place, level in enumerate(levels)]
    write_pyramid(path, levels, subifds)
    image = load_image(path)
    expected = levels[3].astype(float)
    missing = [own - other for own, other in zip(image.shape[1:], expected.shape, strict=True)]
    assert_is_copy(image, np.pad(expected, [(0, count) for count in missing], mode="edge")[None])
    assert np.abs(image.numpy() - means(SMOOTH)).mean() < 200
    assert_is_copy(load_image(path, nearest=True), middles(SMOOTH)[None])  # labels are never mixed


@pytest.mark.parametrize(
    "other",
    [half(DEEP), half(SMOOTH) // 2, half(SMOOTH).astype("u1"), half(SMOOTH)[:-2]],
    ids=["noise", "dark", "u1", "cut"],
)
def test_a_level_that_shows_something_else_is_not_read(path, other):
    write_pyramid(path, [SMOOTH, other])
    assert_is_copy(load_image(path), means(SMOOTH))


# Labels


def draw_labels():
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[100:400, 50:300] = 1
    labels[420:690, 200:480] = 3
    return labels


@pytest.fixture
def image(tmp_path):
    tifffile.imwrite(tmp_path / "image.tif", COLOURS, photometric="rgb", tile=(64, 48))
    return load_image(tmp_path / "image.tif")


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_labels_are_middle_pixels_and_never_mixed(tmp_path, image, suffix):
    labels = draw_labels()
    Image.fromarray(labels).save(tmp_path / f"mask{suffix}")
    expected = middles(labels)
    np.testing.assert_array_equal(load_labels(tmp_path / f"mask{suffix}")[0], expected)
    np.testing.assert_array_equal(load_labels_on_grid_of(tmp_path / f"mask{suffix}", image)[0], expected)
    np.testing.assert_array_equal(load_mask_on_grid_of(tmp_path / f"mask{suffix}", image)[0], expected > 0)
    assert load_objects_on_grid_of(tmp_path / f"mask{suffix}", image).max() == 2


def test_masks_of_every_kind_of_tiff(tmp_path, image):
    labels = draw_labels()
    palette = np.zeros((3, 256), "u2")
    palette[:, 1:4] = [[65535, 0, 0], [0, 65535, 0], [0, 0, 65535]]
    tifffile.imwrite(tmp_path / "palette.tif", labels, photometric="palette", colormap=palette, tile=(64, 48))
    tifffile.imwrite(tmp_path / "bits.tif", labels > 0, tile=(64, 48))
    tifffile.imwrite(tmp_path / "white.tif", labels, photometric="miniswhite", tile=(64, 48))
    for name in ("palette", "bits", "white"):
        brought = load_mask_on_grid_of(tmp_path / f"{name}.tif", image)
        np.testing.assert_array_equal(brought[0], middles(labels) > 0, err_msg=name)


@pytest.mark.parametrize("sides", [(HEIGHT - 1, WIDTH), (88, 63)])  # of as many blocks; of the size of the copy
def test_a_mask_of_another_size_is_refused(tmp_path, image, sides):
    Image.fromarray(np.ones(sides, np.uint8)).save(tmp_path / "mask.png")
    found = re.escape(f"must have the same size, got (701, 503) and {sides}")
    with pytest.raises(ValueError, match=found):
        load_mask_on_grid_of(tmp_path / "mask.png", image)


def test_a_mask_of_a_format_without_working_copies(tmp_path, image):
    import nibabel as nib

    labels = draw_labels()
    nib.save(nib.Nifti1Image(labels.T[..., None], np.eye(4)), tmp_path / "mask.nii")
    np.testing.assert_array_equal(load_labels_on_grid_of(tmp_path / "mask.nii", image)[0], middles(labels))
    nib.save(nib.Nifti1Image(COLOURS[..., 0].T[..., None], np.eye(4)), tmp_path / "image.nii")
    Image.fromarray(labels).save(tmp_path / "mask.png")
    whole = load_labels_on_grid_of(tmp_path / "mask.png", load_image(tmp_path / "image.nii"))
    places = [np.arange(side) // BLOCK for side in labels.shape]
    np.testing.assert_array_equal(whole[0].numpy().T, middles(labels)[np.ix_(*places)])


@pytest.mark.parametrize(
    ("top", "foreground", "dtype"), [(1, 255, "u1"), (3, 1, "u1"), (300, 1, "u2"), (70_000, 1, "u4")]
)
def test_label_maps_lie_on_the_grid_of_the_file(tmp_path, image, top, foreground, dtype):
    labels = torch.from_numpy(RNG.integers(0, 2, (1, *image.shape[1:])) * top)
    path = write_label_map(MetaTensor(labels, meta=image.meta), tmp_path, "a_mask", foreground)
    assert path.name == "a_mask.tif"
    with tifffile.TiffFile(path) as stored:
        (page,) = stored.pages
        assert page.is_tiled
        assert page.compression == 8
        assert page.dtype == dtype
        written = page.asarray()
    rows, columns = (np.arange(side) // BLOCK for side in (HEIGHT, WIDTH))
    np.testing.assert_array_equal(written, labels[0].numpy()[np.ix_(rows, columns)] * foreground)
    again = load_image(path, nearest=True)
    np.testing.assert_array_equal(again.numpy(), labels.numpy() * foreground)


def test_an_evaluation_compares_on_the_working_copy(tmp_path, image):
    labels = draw_labels() > 0
    Image.fromarray(labels).save(tmp_path / "truth.png")
    truth = load_truth({"image": tmp_path / "image.tif", "label": tmp_path / "truth.png"})
    np.testing.assert_array_equal(truth.label[0], middles(labels))
    write_label_map(MetaTensor(truth.label.as_tensor(), meta=image.meta), tmp_path, "image_mask", 255)
    results = load_results(tmp_path, "image", truth.image)
    np.testing.assert_array_equal(results.mask, middles(labels))
    assert truth.note == results.note == ""


# Claims


@pytest.mark.parametrize("tile", [None, (128, 128)])
def test_what_is_read_in_parts_needs_memory_for_its_copy_alone(path, monkeypatch, tile):
    tifffile.imwrite(path, COLOURS, photometric="rgb", tile=tile, rowsperstrip=None if tile else 8, compression="zlib")
    monkeypatch.setattr(claims, "available_memory", lambda: 2 * 2**20)  # of which a picture may take a quarter
    load_image(path)
    monkeypatch.setattr(claims, "available_memory", lambda: 2 * 2**17)
    with pytest.raises(ValueError, match=r"its header claims 701 x 503 x 3 values, 6\.2e-05 GiB in memory"):
        load_image(path)


def test_a_strip_of_all_rows_must_fit_into_memory(path, monkeypatch):
    tifffile.imwrite(path, COLOURS, photometric="rgb", rowsperstrip=HEIGHT, compression="zlib")
    monkeypatch.setattr(claims, "available_memory", lambda: 2 * 2**20)
    with pytest.raises(ValueError, match=r"its header claims 701 x 503 x 3 values, 0\.00394 GiB in memory"):
        load_image(path)


def test_a_missing_tile_of_a_large_picture_is_not_made_up(path):
    tifffile.imwrite(path, COLOURS, photometric="rgb", tile=(64, 48), compression="zlib")
    content = path.read_bytes()
    path.write_bytes(content[:8] + content[8 : len(content) // 2])
    with pytest.raises(ValueError, match=r"truncated or damaged|strips or tiles of page 1 are missing"):
        load_image(path)


def test_blocks_take_each_pixel_once_in_any_order():
    parts = [(row, column) for row in range(0, HEIGHT, 150) for column in range(0, WIDTH, 101)]
    copy = Blocks(3, (HEIGHT, WIDTH), BLOCK)
    for row, column in reversed(parts):
        copy.add(COLOURS.transpose(2, 0, 1)[:, row : row + 150, column : column + 101], 0, row, column)
    np.testing.assert_array_equal(copy.values(), means(COLOURS).astype(np.float32))
