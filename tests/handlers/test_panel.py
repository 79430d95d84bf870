import io

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from monai_fusenet.handlers import PanelRow, draw_panels


def draw(shape):
    return np.random.default_rng(0).random(shape)


def halves(shape):
    """Clusters 1 and 2, left and right."""
    clusters = np.ones(shape, dtype=np.uint8)
    clusters[..., shape[-1] // 2 :] = 2
    return clusters


def box(shape):
    mask = np.zeros(shape, dtype=np.uint8)
    mask[tuple(slice(side // 4, side // 2) for side in shape)] = 1
    return mask


def pixels(figure):
    """The figure as it is saved, and its titles."""
    file = io.BytesIO()
    figure.savefig(file)
    picture = np.asarray(Image.open(file).convert("RGB"))
    assert picture.std() > 0
    return picture


def titles(figure):
    return [axes.get_title() for axes in figure.axes]


@pytest.mark.parametrize(
    ("channels", "spatial"),
    [(3, (24, 17)), (1, (24, 17)), (2, (24, 17)), (4, (24, 17)), (1, (12, 9, 7)), (3, (12, 9, 7)), (1, (1, 9))],
)
@pytest.mark.parametrize(
    ("affine", "with_augmented", "with_label"),
    [(None, False, False), (np.eye(4), True, False), (np.eye(4), False, True)],
)
def test_all_kinds_of_images_are_drawn(channels, spatial, affine, with_augmented, with_label):
    row = PanelRow(
        image=draw((channels, *spatial)),
        clusters=halves(spatial),
        mask=box(spatial),
        augmented=draw((channels, *(8 + axis for axis in range(len(spatial))))) if with_augmented else None,
        label=box(spatial) if with_label else None,
        affine=affine,
    )
    figure = draw_panels([row], ["a.png"])
    assert len(figure.axes) == 3 + with_augmented
    assert titles(figure)[0] == "a.png"
    assert titles(figure)[-1] == ("mask, and truth in orange" if with_label else "mask")
    figure.draw_without_rendering()


@pytest.mark.parametrize("spatial", [(24, 17), (12, 9, 7)])
@pytest.mark.parametrize("value", [0, 1])
def test_empty_and_full_masks_and_labels_are_drawn(spatial, value):
    full = np.full(spatial, value, dtype=np.uint8)
    row = PanelRow(draw((1, *spatial)), halves(spatial), full, label=full)
    pixels(draw_panels([row], ["a"]))


def test_titles():
    row = PanelRow(draw((3, 24, 17)), halves((24, 17)), box((24, 17)), augmented=draw((3, 8, 8)))
    one = PanelRow(draw((3, 24, 17)), np.ones((24, 17), int), box((24, 17)))
    figure = draw_panels([row, one], ["$a_1$.png", "a/very/long/path/to/an/image/of/a/patient.nii.gz"])
    assert titles(figure) == [
        "$a_1$.png",
        "augmented view",
        "2 clusters",
        "mask",
        "a/very/long/path…/a/patient.nii.gz",
        "augmented view",
        "1 cluster",
        "mask",
    ]
    pixels(figure)  # the dollar signs are no formula


def test_the_column_of_the_augmented_view_is_there_where_a_row_has_one():
    row = PanelRow(draw((3, 24, 17)), halves((24, 17)), box((24, 17)))
    assert len(draw_panels([row, row], ["a", "b"]).axes) == 6


def test_images_of_different_size_and_kind_in_one_figure():
    rows = [
        PanelRow(draw((3, 24, 17)), halves((24, 17)), box((24, 17)), augmented=draw((3, 8, 8))),
        PanelRow(draw((1, 12, 9, 7)), halves((12, 9, 7)), box((12, 9, 7)), affine=np.eye(4)),
    ]
    pixels(draw_panels(rows, ["a", "b"]))


def test_more_clusters_than_colours():
    clusters = np.arange(1, 24 * 17 + 1).reshape(24, 17)
    figure = draw_panels([PanelRow(draw((1, 24, 17)), clusters, box((24, 17)))], ["a"])
    assert "408 clusters" in titles(figure)


def test_the_mask_is_green_and_the_truth_orange():
    image, spatial = np.zeros((1, 40, 30)), (40, 30)
    drawn = {}
    for name, label in (("mask", None), ("both", np.roll(box(spatial), 12, axis=0))):
        picture = pixels(draw_panels([PanelRow(image, halves(spatial), box(spatial), label=label)], ["a"])).astype(int)
        third = picture[:, 2 * picture.shape[1] // 3 :]
        green = (np.abs(third - [0x00, 0xE6, 0x76]).sum(-1) < 60).sum()
        orange = (np.abs(third - [0xFF, 0x91, 0x00]).sum(-1) < 60).sum()
        drawn[name] = (green > 50, orange > 50)
    assert drawn == {"mask": (True, False), "both": (True, True)}


def test_each_class_has_an_outline_of_its_own_colour():
    mask = np.zeros((40, 30), dtype=np.uint8)
    mask[5:35, 4:26], mask[12:28, 9:20] = 1, 2
    shown = {}
    for name, classes in (("both", mask), ("inner", mask // 2 * 2)):
        picture = pixels(draw_panels([PanelRow(np.zeros((1, 40, 30)), halves((40, 30)), classes)], ["a"])).astype(int)
        third = picture[:, 2 * picture.shape[1] // 3 :]
        colours = ([0x00, 0xE6, 0x76], [0xFF, 0xEA, 0x00])
        shown[name] = [bool((np.abs(third - colour).sum(-1) < 60).sum() > 50) for colour in colours]
    assert shown == {"both": [True, True], "inner": [False, True]}


def test_a_note_stands_under_the_mask():
    row = PanelRow(draw((1, 24, 17)), halves((24, 17)), box((24, 17)), note="chosen $0.5_1$")
    figure = draw_panels([row], ["a"])
    assert [[text.get_text() for text in axes.texts] for axes in figure.axes] == [[], [], ["chosen $0.5_1$"]]
    picture = pixels(figure)
    bottom = picture[-30:, 2 * picture.shape[1] // 3 :]
    assert (bottom < 128).any()  # inside the picture


def test_rows_and_titles_of_different_number():
    row = PanelRow(draw((1, 24, 17)), halves((24, 17)), box((24, 17)))
    with pytest.raises(ValueError, match="shorter"):
        draw_panels([row, row], ["a"])


# The plane of a volume.


def test_a_picture_is_shown_as_it_is():
    image = draw((3, 5, 4))
    row = PanelRow(image, halves((5, 4)), box((5, 4)))
    np.testing.assert_array_equal(row.image, np.moveaxis(image, 0, -1))
    np.testing.assert_array_equal(row.clusters, halves((5, 4)))
    np.testing.assert_array_equal(row.mask, box((5, 4)) > 0)
    assert row.label is None
    assert row.augmented is None


def test_grey_is_shown_as_grey():
    for channels in (1, 2):
        row = PanelRow(draw((channels, 5, 4)), halves((5, 4)), box((5, 4)))
        assert row.image.shape == (5, 4, 3)
        np.testing.assert_array_equal(row.image[..., 0], row.image[..., 2])


def test_values_beyond_the_range_are_cut():
    row = PanelRow(3 * draw((3, 5, 4)) - 1, halves((5, 4)), box((5, 4)))
    assert 0 <= row.image.min() <= row.image.max() <= 1


def test_a_volume_is_shown_where_most_of_the_mask_lies():
    image, mask = draw((1, 6, 5, 7)), np.zeros((6, 5, 7), int)
    mask[2:4, 1:3, 4:6] = 1
    mask[0, 0, 5] = 1
    row = PanelRow(image, halves((6, 5, 7)), mask, label=mask)
    np.testing.assert_array_equal(row.image[..., 0], image[0, ..., 5])
    np.testing.assert_array_equal(row.mask, mask[..., 5])
    np.testing.assert_array_equal(row.label, mask[..., 5])


def test_a_volume_with_an_empty_mask_is_shown_in_the_middle():
    image = draw((1, 6, 5, 7))
    row = PanelRow(image, halves((6, 5, 7)), np.zeros((6, 5, 7)))
    np.testing.assert_array_equal(row.image[..., 0], image[0, ..., 3])


@pytest.mark.parametrize(("place", "expected"), [(0, 0), (6, 3), (3, 2)])
def test_the_augmented_view_is_shown_in_the_same_place(place, expected):
    mask, augmented = np.zeros((6, 5, 7)), draw((1, 4, 4, 4))
    mask[2, 2, place] = 1
    row = PanelRow(draw((1, 6, 5, 7)), halves((6, 5, 7)), mask, augmented=augmented)
    np.testing.assert_array_equal(row.augmented[..., 0], augmented[0, ..., expected])


# The patient's directions of growing indices, and where on the screen the voxel (0, 0), and the one at the end of the
# first axis, are seen: in DICOM and in NIfTI, axial, coronal and sagittal, also of axes that are stored the other way.
@pytest.mark.parametrize(
    ("directions", "first", "end"),
    [
        ("LPS", (0, 0), (0, 4)),
        ("RAS", (3, 4), (3, 0)),
        ("LAS", (3, 0), (3, 4)),
        ("PLS", (0, 0), (4, 0)),
        ("LSA", (3, 0), (3, 4)),
        ("SRA", (4, 3), (0, 3)),
        ("PIL", (0, 0), (0, 4)),
        ("ASR", (3, 4), (3, 0)),
    ],
)
def test_a_scan_is_seen_as_radiologists_see_it(directions, first, end):
    image = np.zeros((1, 5, 4))
    image[0, 0, 0], image[0, 4, 0] = 1.0, 0.5
    signs = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
    affine = np.diag([0.0, 0.0, 0.0, 1.0])
    for axis, direction in enumerate(directions):
        world, sign = signs[direction]
        affine[world, axis] = sign * (2.0, 3.0, 7.0)[axis]
    affine[:3, :3] += 0.05  # not quite straight
    row = PanelRow(image, halves((5, 4)), np.asarray(image[0] > 0), affine=affine)
    assert row.image[(*first, 0)] == 1.0
    assert row.image[(*end, 0)] == 0.5
    assert row.mask[first]
    assert row.mask[end]
    assert row.mask.sum() == 2
    turned = first[0] == end[0]  # the first axis lies along the screen
    assert row.aspect == pytest.approx(3 / 2 if turned else 2 / 3, rel=0.1)


def test_the_clusters_of_a_volume_are_counted_in_all_planes():
    clusters = np.ones((6, 5, 4), int)
    clusters[..., 0] = 2
    clusters[..., 3] = 3
    mask = np.zeros((6, 5, 4), int)
    mask[2:4, 2:4, 1] = 1
    row = PanelRow(np.zeros((1, 6, 5, 4)), clusters, mask)
    assert "3 clusters" in titles(draw_panels([row], ["a"]))


@pytest.mark.parametrize(("affine", "aspect"), [(np.diag([2.0, 3.0, 7.0, 1.0]), 3 / 2), (None, 1)])
def test_pixels_have_the_shape_that_their_spacing_says(affine, aspect):
    # The second axis of this scan is the vertical one: the height of a pixel is the spacing along it.
    volume = np.ones((6, 5, 4), int)
    row = PanelRow(np.zeros((1, 6, 5, 4)), volume, volume, affine=affine)
    figure = draw_panels([row], ["a"])
    assert {ax.get_aspect() for ax in figure.axes} == {aspect}


@pytest.mark.parametrize("spatial", [(24, 17), (12, 9, 7)])
def test_the_field_of_view_is_a_thin_line_on_the_mask_alone(spatial):
    field = np.zeros(spatial, bool)
    field[tuple(slice(1, -1) for _ in spatial)] = True
    mask = box(spatial)
    with_field = draw_panels([PanelRow(draw((1, *spatial)), halves(spatial), mask, field=field)], ["a"])
    lines = [len(axes.collections) for axes in with_field.axes]
    assert lines == [0] * (len(lines) - 1) + [2]
    first, last = with_field.axes[-1].collections
    assert first.get_linewidth() < last.get_linewidth()
    assert to_hex(first.get_edgecolor()[0]) != to_hex(last.get_edgecolor()[0])
    for whole in (None, np.ones(spatial, bool)):
        figure = draw_panels([PanelRow(draw((1, *spatial)), halves(spatial), mask, field=whole)], ["a"])
        assert len(figure.axes[-1].collections) == 1
