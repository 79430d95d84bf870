"""How images are shown, by arrays whose planes are known."""

import io

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from monai_fusenet.label.views import LEVELS, blank, shown, thumbnail, views_of


def image_of(array, affine=None, has_alpha=False):
    meta = {"has_geometry": affine is not None, "has_alpha": has_alpha}
    meta["original_affine"] = np.eye(4) if affine is None else np.asarray(affine, dtype=float)
    return MetaTensor(torch.as_tensor(array), meta=meta)


# A voxel array whose axes run to the patient's left, to the back and to the feet, as screens do.
LPI = np.diag([-1.0, -1, -1, 1])


def test_a_picture_is_shown_as_it_is():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 7, 9)).astype(np.uint8)
    found = shown(image_of(pixels))
    assert found.colour
    assert found.is_picture
    assert np.array_equal(found.slice(0, 0), np.moveaxis(pixels, 0, -1))


def test_alpha_is_no_colour():
    pixels = np.zeros((2, 5, 6), dtype=np.uint8)
    pixels[0, 2, 3], pixels[1] = 200, 255
    found = shown(image_of(pixels, has_alpha=True))
    assert not found.colour
    assert found.high == 200


def test_grey_values_are_sent_from_the_least_to_the_greatest():
    values = np.array([[[-1000.0, 40.0], [500.0, 3000.0]]], dtype=np.float32)
    found = shown(image_of(values))
    assert (found.low, found.high) == (-1000, 3000)
    said = found.slice(0, 0)
    assert said.dtype == np.uint16
    back = found.low + said.astype(float) / LEVELS * (found.high - found.low)
    assert np.allclose(back, values[0], atol=4000 / LEVELS)


def test_a_constant_image_and_one_with_gaps_are_shown():
    assert shown(image_of(np.full((1, 4, 5), 7.0))).slice(0, 0).max() == 0
    holed = np.full((1, 4, 5), 7.0)
    holed[0, 1, 2], holed[0, 0, 0] = np.nan, 9.0
    assert shown(image_of(holed)).slice(0, 0)[1, 2] == 0
    with pytest.raises(ValueError, match="the image holds no finite value"):
        shown(image_of(np.full((1, 4, 5), np.nan)))


def test_a_plane_of_another_format_has_the_column_first():
    array = np.zeros((1, 6, 4))
    array[0, 5, 1] = 1  # the last column, the second row
    found = shown(image_of(array, LPI))
    assert found.slice(0, 0).shape == (4, 6)
    assert np.argwhere(found.slice(0, 0)).tolist() == [[1, 5]]


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (1, -1, -1), (-1, -1, -1)])
def test_a_volume_is_shown_as_radiologists_look_whatever_its_axes(flips):
    """A point to the patient's right, in front, at the head: top left in the axial plane, top left from the front."""
    array = np.zeros((1, 5, 6, 7))
    array[0, 0, 0, 0] = 1  # in LPI axes: the right, front, top end
    affine = LPI.copy()
    for axis, flip in enumerate(flips):
        if flip < 0:
            array = np.flip(array, axis + 1).copy()
            affine[:, axis] *= -1
    found = shown(image_of(array, affine))
    names = [view.name for view in found.views]
    assert sorted(names) == ["axial", "coronal", "sagittal"]
    for number, view in enumerate(found.views):
        ends = [0, found.shape[view.normal] - 1]
        hits = [np.argwhere(found.slice(number, index)).tolist() for index in ends]
        assert [[0, 0]] in hits, view.name


def test_axes_in_another_order_show_the_same_planes():
    array = np.random.default_rng(0).random((1, 5, 6, 7))
    first = shown(image_of(array, LPI))
    turned = shown(image_of(array.transpose(0, 3, 1, 2), LPI[:, [2, 0, 1, 3]]))
    for view in first.views:
        other = next(one for one in turned.views if one.name == view.name)
        cut = first.slice(first.views.index(view), 2)
        assert np.array_equal(cut, turned.slice(turned.views.index(other), 2)), view.name


def test_the_plane_of_the_finest_pixels_comes_first_and_knows_their_shape():
    affine = np.diag([-1.0, -1, -4, 1])
    views = views_of({"has_geometry": True, "original_affine": affine}, (5, 6, 7))
    assert next(view.name for view in views) == "axial"
    assert {view.name: view.aspect for view in views} == {"axial": 1, "coronal": 4, "sagittal": 4}


@pytest.mark.parametrize(
    ("view", "index", "message"),
    [
        (1, 0, "view must be a number from 0 to 0, got 1"),
        (0, 1, "index must be a number from 0 to 0, got 1"),
        (0, -1, "index must be"),
    ],
)
def test_what_there_is_not_is_refused(view, index, message):
    with pytest.raises(ValueError, match=message):
        shown(image_of(np.zeros((1, 4, 5)))).slice(view, index)


def test_thumbnails_keep_the_proportions():
    wide = Image.open(io.BytesIO(thumbnail(shown(image_of(np.random.default_rng(0).random((1, 50, 200)))))))
    assert wide.size == (96, 24)
    tall = Image.open(io.BytesIO(thumbnail(shown(image_of(np.ones((1, 20, 20, 10)), np.diag([-1.0, -2, -9, 1]))))))
    assert tall.size == (48, 96)
    assert Image.open(io.BytesIO(blank())).size == (96, 96)
