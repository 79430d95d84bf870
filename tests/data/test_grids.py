"""Labels are brought to the grid of their image by what the files say of their place."""

from __future__ import annotations

import itertools

import itk
import nibabel as nib
import numpy as np
import pytest
import torch
from grid_tools import SHAPE, TILTED, save, stored
from monai.data import MetaTensor
from PIL import Image
from scipy import ndimage

from monai_fusenet.data import LoadMaskOnGridd, grids, load_image, load_mask_on_grid_of, on_grid_of


@pytest.fixture
def truth():
    return np.random.default_rng(0).integers(0, 4, SHAPE)


@pytest.mark.parametrize("affine", [np.diag([1, 1.2, 2, 1]), TILTED])
@pytest.mark.parametrize("flips", [(), (0,), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
def test_labels_stored_flipped_or_permuted_are_the_same_labels(tmp_path, truth, affine, axes, flips):
    image = save(tmp_path / "image.nii", np.zeros(SHAPE), affine)
    labels = save(tmp_path / "labels.nii", *stored(truth, affine, axes, flips))
    brought = on_grid_of(labels, image)
    np.testing.assert_array_equal(brought.numpy()[0], truth)
    np.testing.assert_array_equal(brought.affine, image.affine)
    assert brought.meta.get("outside", 0) == 0
    assert (brought is labels) == (axes == (0, 1, 2) and flips == ())


def test_a_plane_stored_as_another_axis_is_the_same_plane(tmp_path, truth):
    plane = truth[:, :, :1]
    image = save(tmp_path / "image.nii", np.zeros(plane.shape), TILTED)
    for axes in itertools.permutations(range(3)):
        labels = save(tmp_path / "labels.nii", *stored(plane, TILTED, axes, flips=(1,)))
        np.testing.assert_array_equal(on_grid_of(labels, image).numpy()[0], plane[..., 0])


def test_each_voxel_takes_the_label_that_lies_nearest(tmp_path, truth):
    """As one asks each voxel of the image for the nearest centre of a label, in millimetres."""
    affine = np.diag([1.7, 0.8, 1.1, 1.0])
    affine[:3, 3] = (0.3, 1.2, 0.4)
    image = save(tmp_path / "image.nii", np.zeros((4, 8, 11)), affine)
    labels = save(tmp_path / "labels.nii", truth, np.diag([1.0, 1, 2, 1]))
    expected = np.zeros((4, 8, 11))
    for index in np.ndindex(*expected.shape):
        place = affine[:3, :3] @ index + affine[:3, 3]
        nearest = np.round(place / (1, 1, 2)).astype(int)
        if (nearest >= 0).all() and (nearest < SHAPE).all():
            expected[index] = truth[tuple(nearest)]
    brought = on_grid_of(labels, image)
    np.testing.assert_array_equal(brought.numpy()[0], expected)
    assert brought.meta["outside"] == pytest.approx(
        1 - 7 / 8 * 8 / 11
    )  # the last of 8 rows and the last three of 11 slices


def test_labels_are_resampled_as_simple_itk_does_it(tmp_path, truth):
    sitk = pytest.importorskip("SimpleITK")
    turned = np.eye(4)
    turned[:2, :2] = [[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]]
    turned[:3, 3] = (1.3, -0.7, 0.45)
    image = save(tmp_path / "image.nii", np.zeros((8, 6, 7)), turned @ np.diag([1, 1.3, 0.7, 1]))
    labels = save(tmp_path / "labels.nii", truth, np.diag([1.0, 1, 2, 1]))
    expected = sitk.Resample(
        *(sitk.ReadImage(str(tmp_path / f"{name}.nii")) for name in ("labels", "image")),
        sitk.Transform(),
        sitk.sitkNearestNeighbor,
    )
    expected = sitk.GetArrayFromImage(expected).transpose(2, 1, 0)
    assert np.count_nonzero(expected) > 50
    np.testing.assert_array_equal(on_grid_of(labels, image).numpy()[0], expected)


def test_a_shift_of_three_voxels_moves_labels_by_three_and_leaves_background(tmp_path, truth):
    image = save(tmp_path / "image.nii", np.zeros(SHAPE), np.diag([2.0, 2, 2, 1]))
    shifted = np.diag([2.0, 2, 2, 1])
    shifted[0, 3] = 6
    brought = on_grid_of(save(tmp_path / "labels.nii", truth, shifted), image)
    np.testing.assert_array_equal(brought.numpy()[0, 3:], truth[:-3])
    assert not brought.numpy()[0, :3].any()
    assert brought.meta["outside"] == pytest.approx(3 / 9)


def test_a_finer_grid_with_the_same_edges(tmp_path, truth):
    fine = np.diag([0.5, 0.5, 0.5, 1])
    fine[:3, 3] = -0.25
    labels = save(tmp_path / "labels.nii", truth.repeat(2, 0).repeat(2, 1).repeat(2, 2), fine)
    image = save(tmp_path / "image.nii", np.zeros(SHAPE), np.eye(4))
    brought = on_grid_of(labels, image)
    np.testing.assert_array_equal(brought.numpy()[0], truth)
    assert brought.meta["outside"] == 0


def test_an_outer_voxel_belongs_to_the_field_of_view_as_a_whole(tmp_path):
    image_affine = np.eye(4)
    image_affine[0, 3] = -0.4
    labels = save(tmp_path / "labels.nii", np.ones((3, 4, 5)), np.eye(4))
    image = save(tmp_path / "image.nii", np.zeros((3, 4, 5)), image_affine)
    assert on_grid_of(labels, image).numpy().all()


@pytest.mark.parametrize(("scale", "is_one_grid"), [(1.00002, True), (1.0005, False)])
def test_a_small_error_of_a_voxel_counts_as_often_as_there_are_voxels(tmp_path, scale, is_one_grid):
    image = save(tmp_path / "image.nii", np.zeros((300, 2, 3)), np.eye(4))
    labels = save(tmp_path / "labels.nii", np.ones((300, 2, 3)), np.diag([scale, 1, 1, 1]))
    assert (on_grid_of(labels, image) is labels) == is_one_grid


def test_a_shift_of_voxels_that_are_smaller_than_any_rounding_counts(tmp_path, truth):
    small = np.diag([1e-3, 1e-3, 1e-3, 1])
    image = save(tmp_path / "image.nii", np.zeros(SHAPE), small)
    shifted = small.copy()
    shifted[0, 3] = 2e-3
    brought = on_grid_of(save(tmp_path / "labels.nii", truth, shifted), image)
    np.testing.assert_array_equal(brought.numpy()[0, 2:], truth[:-2])


def test_fields_of_view_that_do_not_overlap_are_refused(tmp_path, truth):
    far = np.eye(4)
    far[2, 3] = 5
    image, labels = save(tmp_path / "image.nii", np.zeros(SHAPE), np.eye(4)), save(tmp_path / "l.nii", truth, far)
    with pytest.raises(ValueError) as caught:  # noqa: PT011, all of the message is looked at
        on_grid_of(labels, image)
    assert str(caught.value) == (
        "the mask lies outside the image, their fields of view do not overlap: save the mask with the "
        "affine (origin, spacing, directions) of the image"
    )


def test_slices_of_one_volume_lie_beside_each_other(tmp_path, truth):
    plane = truth[:, :, :1]
    below = TILTED.copy()
    below[:3, 3] += TILTED[:3, 2]
    image, labels = save(tmp_path / "a.nii", plane, TILTED), save(tmp_path / "b.nii", plane, below)
    with pytest.raises(ValueError, match="do not overlap"):
        on_grid_of(labels, image)
    volume = save(tmp_path / "v.nii", truth, TILTED)
    np.testing.assert_array_equal(on_grid_of(volume, labels).numpy()[0], truth[:, :, 1])
    in_volume = on_grid_of(labels, volume)
    np.testing.assert_array_equal(in_volume.numpy()[0, :, :, 1], plane[..., 0])
    assert not np.delete(in_volume.numpy()[0], 1, axis=2).any()


def test_a_picture_belongs_to_an_image_of_its_size(tmp_path, truth):
    plane = truth[:, :, :1]
    image = save(tmp_path / "a.nii", np.zeros(plane.shape), TILTED)
    Image.fromarray(plane[..., 0].astype(np.uint8)).save(tmp_path / "a.png")
    labels = load_image(tmp_path / "a.png")
    assert on_grid_of(labels, image) is labels
    Image.fromarray(plane[:-1, :, 0].astype(np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError) as caught:  # noqa: PT011, all of the message is looked at
        on_grid_of(load_image(tmp_path / "a.png"), image)
    assert str(caught.value) == "image and mask must have the same size, got (9, 7) and (8, 7)"


def test_the_rows_of_a_picture_are_the_second_axis_of_a_volume(tmp_path, truth):
    """As ITK, and with it 3D Slicer and nnU-Net, stores pictures: a square one could be read either way."""
    square = truth[:7, :, 0].astype(np.uint8)
    Image.fromarray(square).save(tmp_path / "a.png")
    itk.imwrite(itk.imread(str(tmp_path / "a.png")), str(tmp_path / "itk.nii.gz"))
    picture, plane = load_image(tmp_path / "a.png"), load_image(tmp_path / "itk.nii.gz")
    np.testing.assert_array_equal(on_grid_of(plane, picture).numpy()[0], square)
    np.testing.assert_array_equal(on_grid_of(picture, plane).numpy()[0], square.T)
    assert on_grid_of(plane, picture).meta["outside"] == 0  # so that a report tells of it


def test_pages_of_a_tiff_belong_to_an_image_of_its_size(tmp_path, truth):
    pages = [Image.fromarray(page.T.astype(np.uint8)) for page in np.moveaxis(truth, 2, 0)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    labels = load_image(tmp_path / "a.tif")
    assert on_grid_of(labels, save(tmp_path / "a.nii", np.zeros(SHAPE), TILTED)) is labels


def test_a_nifti_file_without_any_form_states_no_place(tmp_path, truth):
    nib.save(nib.Nifti1Image(truth.astype(np.uint8), None), tmp_path / "labels.nii")
    labels = load_image(tmp_path / "labels.nii")
    assert on_grid_of(labels, save(tmp_path / "a.nii", np.zeros(SHAPE), TILTED)) is labels


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("a.nrrd", "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 9 7 5\nspacings: 1 1 2\nencoding: raw\n\n"),
        ("a.mha", "NDims = 3\nDimSize = 9 7 5\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n"),
    ],
)
def test_a_header_without_origin_and_directions_states_no_place(tmp_path, truth, name, header):
    (tmp_path / name).write_bytes(header.encode() + truth.astype(np.uint8).tobytes(order="F"))
    labels = load_image(tmp_path / name)
    np.testing.assert_array_equal(labels.numpy()[0], truth)
    assert on_grid_of(labels, save(tmp_path / "a.nii", np.zeros(SHAPE), TILTED)) is labels


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".mhd"])
@pytest.mark.parametrize("flips", [(), (0, 2)])
def test_labels_of_itk_lie_where_those_of_nibabel_lie(tmp_path, truth, suffix, flips):
    image = save(tmp_path / "a.nii", np.zeros(SHAPE), np.diag([1, 1.5, 2, 1]))
    flipped, affine = stored(truth, np.diag([1, 1.5, 2, 1]), flips=flips)
    written = itk.image_from_array(np.ascontiguousarray(flipped.transpose(2, 1, 0).astype(np.uint8)))
    written.SetSpacing((1, 1.5, 2))
    written.SetDirection(itk.matrix_from_array(np.diag([-1.0, -1, 1]) @ affine[:3, :3] / (1, 1.5, 2)))
    written.SetOrigin((affine[:3, 3] * (-1, -1, 1)).tolist())
    itk.imwrite(written, str(tmp_path / f"labels{suffix}"))
    np.testing.assert_array_equal(on_grid_of(load_image(tmp_path / f"labels{suffix}"), image).numpy()[0], truth)


def save_flat(path, plane, spacing=(1.0, 1.0), origin=(0.0, 0.0)):
    image = itk.image_from_array(np.ascontiguousarray(plane.T.astype(np.uint8)))
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    itk.imwrite(image, str(path))
    return load_image(path)


def test_files_of_two_axes_are_compared_in_their_plane(tmp_path, truth):
    plane = truth[:, :, 0]
    labels = save_flat(tmp_path / "labels.mha", plane, origin=(2, 0))
    np.testing.assert_array_equal(on_grid_of(labels, save_flat(tmp_path / "a.mha", plane)).numpy()[0, 2:], plane[:-2])


def test_a_file_of_two_axes_lies_in_the_slice_that_is_parallel_to_it(tmp_path, truth):
    plane = truth[:, :, :1]
    affine = np.diag([1.0, -1, 3, 1])  # first axis flipped against ITK's, which has x and y the other way round
    affine[:3, 3] = (-8, 0, 55)
    image = save(tmp_path / "slice.nii", np.zeros(plane.shape), affine)
    labels = save_flat(tmp_path / "labels.mha", plane[..., 0])
    np.testing.assert_array_equal(on_grid_of(labels, image).numpy()[0], plane[::-1, :, 0])
    upright = save(tmp_path / "upright.nii", np.zeros(plane.shape), affine[[0, 2, 1, 3]])
    assert on_grid_of(labels, upright) is labels


def test_a_file_of_two_axes_is_no_volume(tmp_path, truth):
    with pytest.raises(ValueError, match=r"must have the same size, got \(9, 7, 5\) and \(9, 7\)"):
        on_grid_of(save_flat(tmp_path / "a.mha", truth[:, :, 0]), save(tmp_path / "a.nii", np.zeros(SHAPE), np.eye(4)))


def test_all_channels_are_brought(tmp_path, truth):
    image = save(tmp_path / "a.nii", np.zeros(SHAPE), TILTED)
    flipped, affine = stored(truth, TILTED, flips=(0,))
    loaded = save(tmp_path / "b.nii", flipped, affine)
    both = MetaTensor(torch.cat([loaded.as_tensor(), 3 - loaded.as_tensor()]), meta=loaded.meta)
    np.testing.assert_array_equal(on_grid_of(both, image).numpy(), [truth, 3 - truth])


def test_masks_of_one_image_on_different_grids_are_united_on_its_grid(tmp_path, truth):
    image = save(tmp_path / "a.nii", np.zeros(SHAPE), TILTED)
    save(tmp_path / "left.nii", truth == 1, TILTED)
    save(tmp_path / "right.nii", *stored(truth == 2, TILTED, (2, 0, 1), flips=(1,)))
    united = load_mask_on_grid_of([tmp_path / "left.nii", tmp_path / "right.nii"], image)
    assert united.dtype == torch.uint8
    np.testing.assert_array_equal(united.numpy()[0], (truth == 1) | (truth == 2))
    assert united.meta["outside"] == 0
    assert "outside" not in load_mask_on_grid_of(tmp_path / "left.nii", image).meta


def test_of_several_masks_the_one_that_lies_elsewhere_is_named(tmp_path, truth):
    image = save(tmp_path / "a.nii", np.zeros(SHAPE), np.eye(4))
    save(tmp_path / "left.nii", truth, np.eye(4))
    far = np.eye(4)
    far[0, 3] = 99
    save(tmp_path / "right.nii", truth, far)
    with pytest.raises(ValueError, match=r"^right\.nii: the mask lies outside the image, "):
        load_mask_on_grid_of([tmp_path / "left.nii", tmp_path / "right.nii"], image)


def test_the_transform_takes_paths_and_leaves_the_image(tmp_path, truth):
    image = save(tmp_path / "a.nii", np.zeros(SHAPE), TILTED)
    save(tmp_path / "mask.nii", *stored(truth, TILTED, flips=(2,)))
    sample = LoadMaskOnGridd("label")({"image": image, "label": str(tmp_path / "mask.nii")})
    np.testing.assert_array_equal(sample["label"].numpy()[0], truth > 0)
    assert sample["image"] is image
    assert LoadMaskOnGridd("label", allow_missing_keys=True)({"image": image}) == {"image": image}


def test_grids_along_the_same_axes_need_no_interpolation_and_give_the_same(tmp_path):
    """Voxels of any size, flipped and permuted, against what an interpolation of all three axes at once gives."""
    random = np.random.default_rng(2)
    for _ in range(20):
        shape, own_shape = random.integers(1, 12, (2, 3))
        scales, shifts = random.uniform(0.3, 2.5, 3) * random.choice([-1, 1], 3), random.uniform(-1, 6, 3)
        to_labels = np.eye(4)
        to_labels[:3, :3] = np.diag(scales)[random.permutation(3)]
        to_labels[:3, 3] = shifts
        labels = random.integers(0, 9, own_shape).astype(np.int32)
        turned = to_labels.copy()
        turned[0, :3] += 1e-9 * random.normal(size=3)
        expected = ndimage.affine_transform(
            labels, turned[:3, :3], shifts + 1e-4, shape, order=0, mode="grid-constant", cval=-1
        )
        np.testing.assert_array_equal(grids._nearest(labels, to_labels, tuple(shape)), expected)
