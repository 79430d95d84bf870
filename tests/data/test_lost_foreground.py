"""Foreground outside the image is told of; where none is left, the mask is refused."""

from __future__ import annotations

import numpy as np
import pytest
from grid_tools import SHAPE, TILTED, save, stored

from monai_fusenet.data import load_mask_on_grid_of


def corner(shape, place):
    array = np.zeros(shape)
    array[place] = 1
    return array


def test_foreground_that_lies_outside_the_image_is_refused(tmp_path):
    """Both a truth and a wrong mask would else be empty, and agree."""
    affine = np.diag([1.0, 1, 2, 1])
    affine[:3, 3] = (-20, -22, -10)
    image = save(tmp_path / "a.nii", np.zeros((40, 44, 20)), affine)
    save(tmp_path / "mask.nii", corner((40, 44, 20), np.s_[25:35, 25:35, 5:15]), np.eye(4))
    with pytest.raises(ValueError) as caught:  # noqa: PT011, all of the message is looked at
        load_mask_on_grid_of(tmp_path / "mask.nii", image)
    assert str(caught.value) == (
        "the foreground of the mask lies outside the image, though their fields of view overlap: save the mask with "
        "the affine (origin, spacing, directions) of the image"
    )


def test_foreground_smaller_than_the_voxels_of_the_image_is_refused(tmp_path):
    image = save(tmp_path / "a.nii", np.zeros((4, 3, 5)), np.diag([4.0, 4, 4, 1]))
    save(tmp_path / "mask.nii", corner((16, 12, 20), (6, 6, 6)), np.eye(4))
    with pytest.raises(ValueError) as caught:  # noqa: PT011, all of the message is looked at
        load_mask_on_grid_of(tmp_path / "mask.nii", image)
    assert str(caught.value) == (
        "no foreground of the mask is left on the grid of the image: 0% of it lies outside the image, the rest is "
        "smaller than its voxels"
    )


def test_no_mask_is_refused(tmp_path):
    image = save(tmp_path / "a.nii", np.zeros(SHAPE), TILTED)
    with pytest.raises(ValueError, match=r"^expected the path of a mask, got an empty list$"):
        load_mask_on_grid_of([], image)


def test_a_mask_without_foreground_is_no_error_on_any_grid(tmp_path):
    image = save(tmp_path / "a.nii", np.zeros(SHAPE), TILTED)
    save(tmp_path / "mask.nii", *stored(np.zeros(SHAPE), TILTED, flips=(0,)))
    mask = load_mask_on_grid_of(tmp_path / "mask.nii", image)
    assert not mask.any()
    assert mask.meta["lost"] == 0


@pytest.mark.parametrize("turn", [0.0, 0.3])
def test_the_share_of_foreground_that_is_lost_is_told(tmp_path, turn):
    """As one asks each voxel of foreground whether it lies within the outer faces of the image."""
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    affine[:3, 3] = (0.7, -1.2, 2)
    foreground = np.random.default_rng(1).integers(0, 2, SHAPE)
    image = save(tmp_path / "a.nii", np.zeros(SHAPE), np.eye(4))
    save(tmp_path / "mask.nii", foreground, affine)
    places = np.argwhere(foreground) @ affine[:3, :3].T + affine[:3, 3]
    lost = 1 - ((places > -0.5) & (places < np.array(SHAPE) - 0.5)).all(axis=1).mean()
    assert 0.3 < lost < 0.7
    assert load_mask_on_grid_of(tmp_path / "mask.nii", image).meta["lost"] == pytest.approx(lost)


def test_an_organ_outside_the_image_does_not_fail_the_others(tmp_path):
    image = save(tmp_path / "a.nii", np.zeros(SHAPE), np.eye(4))
    larger = np.diag([1.0, 1, 1, 1])
    larger[0, 3] = -3
    save(tmp_path / "inside.nii", corner((15, 7, 5), np.s_[5:8, :3, :2]), larger)  # 18 mm3
    save(tmp_path / "outside.nii", corner((15, 7, 5), np.s_[:2, :3, :1]), larger)  # 6 mm3
    larger[1, 1] = 0.5
    save(tmp_path / "finer.nii", corner((15, 14, 5), np.s_[:2, :12, :2]), larger)  # 24 mm3
    paths = [tmp_path / f"{name}.nii" for name in ("inside", "outside", "finer")]
    mask = load_mask_on_grid_of(paths, image)
    np.testing.assert_array_equal(mask.numpy()[0], corner(SHAPE, np.s_[2:5, :3, :2]))
    assert mask.meta["lost"] == pytest.approx((6 + 24) / (18 + 6 + 24))
    with pytest.raises(ValueError, match=r"^the foreground of the mask lies outside the image"):
        load_mask_on_grid_of(paths[1:], image)
