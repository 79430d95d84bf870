"""A mask lies where its image lies, whichever reader looks: nibabel, ITK or SimpleITK."""

from __future__ import annotations

import itk
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, MetaTensor, decollate_batch

from monai_fusenet.data import load_image
from monai_fusenet.results import ImageResult, placement_note, write_label_map

SHAPES = {"volume": (7, 5, 3), "slice": (7, 1, 5), "flat": (7, 5)}
SHEARED = "sheared grid: programs built on ITK (3D Slicer, ITK-SNAP) cannot open its NIfTI masks"


def grid(degrees=0, shear=0.0, left_handed=False, origin=(-10, 5, 7)):
    """The affine of voxels of 1 x 1.2 x 2 mm, turned about the third axis."""
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    affine = np.eye(4)
    affine[:3, :3] = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]]) @ np.diag([1, 1.2, 2])
    affine[:3, 1] += shear * affine[:3, 0]
    affine[:3, 0] *= -1 if left_handed else 1
    affine[:3, 3] = origin
    return affine


HERE, THERE = grid(), grid(12, origin=(20, -25, 7))
FORMS = {  # qform, its code, sform, its code
    "sform alone": (HERE, 0, THERE, 1),
    "qform alone": (THERE, 1, HERE, 0),
    "both equal": (THERE, 1, THERE, 1),
    "both equal, left-handed": (grid(30, left_handed=True), 1, grid(30, left_handed=True), 1),
    "coregistered by SPM: both, and different": (HERE, 1, THERE, 2),
    "both different, left-handed against right-handed": (grid(left_handed=True), 1, grid(30), 2),
    "standard space": (THERE, 0, THERE, 4),
    "standard space, with a qform": (HERE, 1, THERE, 4),
    "none": (HERE, 0, HERE, 0),
    "a form slightly off the other": (grid(0.001), 1, HERE, 1),
    "voxel sizes that differ by 4e-5": (HERE, 1, HERE @ np.diag([1.00004, 1, 1, 1]), 1),
    "sheared sform alone": (HERE, 0, grid(12, shear=0.3), 2),
    "sform sheared as rounding shears it": (HERE, 0, grid(12, shear=5e-5), 2),
    "sheared sform, rigid qform": (HERE, 1, grid(12, shear=0.3), 2),
}


def save_nifti(path, forms, shape=SHAPES["volume"], kind=nib.Nifti1Image, unit="mm"):
    qform, qform_code, sform, sform_code = forms
    image = kind(np.arange(np.prod(shape), dtype=np.int16).reshape(shape), None)
    image.set_sform(sform, sform_code)
    image.set_qform(qform, qform_code)  # after the sform, whose voxel sizes it replaces
    image.header.set_xyzt_units(unit)
    nib.save(image, path)


def save_mask_of(path, folder):
    image = load_image(path)
    return write_label_map(MetaTensor((image > 50).to(torch.uint8), meta=image.meta), folder, "a_mask")


def corners(shape):
    return np.stack(np.meshgrid(*([0, side - 1] for side in shape), indexing="ij"), -1).reshape(-1, len(shape))


def seen_by_nibabel(path):
    image = nib.load(path)
    indices = corners((*image.shape, 1)[:3])
    return indices @ image.affine[:3, :3].T + image.affine[:3, 3]


def seen_by_itk(path):
    """Places in mm (RAS), or "refused"."""
    try:
        image = itk.imread(str(path), itk.F)
    except RuntimeError:
        return "refused"
    shape = itk.size(image)
    places = [image.TransformIndexToPhysicalPoint([int(one) for one in index]) for index in corners(shape)]
    return np.array([list(place) for place in places]) * [-1, -1, 1][: len(shape)]


def seen_by_simple_itk(path):
    sitk = pytest.importorskip("SimpleITK")
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError:
        return "refused"
    places = [image.TransformIndexToPhysicalPoint([int(one) for one in index]) for index in corners(image.GetSize())]
    return np.array(places) * [-1, -1, 1][: image.GetDimension()]


READERS = {"nibabel": seen_by_nibabel, "ITK": seen_by_itk, "SimpleITK": seen_by_simple_itk}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("forms", FORMS.values(), ids=FORMS)
def test_the_affine_is_that_of_nibabel(tmp_path, forms, shape):
    save_nifti(tmp_path / "a.nii.gz", forms, shape)
    np.testing.assert_array_equal(
        load_image(tmp_path / "a.nii.gz").meta["original_affine"], nib.load(tmp_path / "a.nii.gz").affine
    )


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("forms", FORMS.values(), ids=FORMS)
def test_a_mask_lies_where_its_image_lies(tmp_path, forms, shape, reader):
    save_nifti(tmp_path / "a.nii.gz", forms, shape)
    of_image, of_mask = reader(tmp_path / "a.nii.gz"), reader(save_mask_of(tmp_path / "a.nii.gz", tmp_path))
    if isinstance(of_image, str):
        assert of_mask == of_image
    else:
        np.testing.assert_array_equal(of_mask, of_image)


@pytest.mark.parametrize("forms", FORMS.values(), ids=FORMS)
def test_a_mask_has_both_forms_codes_sizes_and_the_unit_of_its_image(tmp_path, forms):
    save_nifti(tmp_path / "a.nii", forms, unit="micron")
    image, mask = nib.load(tmp_path / "a.nii").header, nib.load(save_mask_of(tmp_path / "a.nii", tmp_path)).header
    for field in (
        *("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
        *("srow_x", "srow_y", "srow_z", "xyzt_units", "pixdim"),
    ):
        np.testing.assert_array_equal(mask[field], image[field])
    assert mask.get_data_dtype() == np.uint8


def test_nifti_2_and_its_mask(tmp_path):
    save_nifti(tmp_path / "a.nii", FORMS["coregistered by SPM: both, and different"], kind=nib.Nifti2Image)
    image = nib.load(tmp_path / "a.nii")
    np.testing.assert_array_equal(load_image(tmp_path / "a.nii").affine, image.affine)
    mask = nib.load(save_mask_of(tmp_path / "a.nii", tmp_path))  # NIfTI-1, which ITK reads
    np.testing.assert_allclose(mask.get_sform(), image.get_sform(), atol=1e-5)
    np.testing.assert_allclose(mask.get_qform(), image.get_qform(), atol=1e-5)


def test_frames_of_a_time_series_are_channels_and_its_mask_has_three_axes(tmp_path):
    voxels = np.arange(7 * 5 * 3 * 4, dtype=np.int16).reshape(7, 5, 3, 4)
    nib.save(nib.Nifti1Image(voxels, THERE), tmp_path / "a.nii")
    image = load_image(tmp_path / "a.nii")
    np.testing.assert_array_equal(image.numpy(), voxels.transpose(3, 0, 1, 2))
    mask = nib.load(write_label_map(MetaTensor((image[:1] > 50).to(torch.uint8), meta=image.meta), tmp_path, "m"))
    assert mask.shape == (7, 5, 3)
    assert mask.header["pixdim"][4] == 1
    np.testing.assert_array_equal(mask.affine, nib.load(tmp_path / "a.nii").affine)


@pytest.mark.parametrize("shape", [(7, 5, 3), (7, 1, 5)])
@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("left_handed", [False, True])
def test_masks_of_other_formats_lie_in_one_place_for_all_readers(tmp_path, suffix, shape, left_handed):
    image = itk.image_from_array(np.zeros(shape[::-1], np.uint8))
    affine = np.diag([-1, -1, 1, 1]) @ grid(30, left_handed=left_handed)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetDirection(itk.matrix_from_array(affine[:3, :3] / spacing))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    itk.imwrite(image, str(tmp_path / f"a{suffix}"))
    mask = save_mask_of(tmp_path / f"a{suffix}", tmp_path)
    header = nib.load(mask).header
    assert (header["qform_code"], header["sform_code"], header.get_xyzt_units()[0]) == (1, 1, "mm")
    np.testing.assert_allclose(header.get_zooms(), (1, 1.2, 2), rtol=1e-6)
    expected = seen_by_itk(tmp_path / f"a{suffix}")
    np.testing.assert_allclose(seen_by_nibabel(mask), expected, atol=1e-4)
    np.testing.assert_allclose(seen_by_itk(mask), expected, atol=1e-4)
    np.testing.assert_allclose(seen_by_simple_itk(mask), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("forms", "note"),
    [
        ("sheared sform alone", SHEARED),
        ("sform sheared as rounding shears it", ""),
        ("sheared sform, rigid qform", ""),  # ITK takes the qform, for image and mask
        ("sform alone", ""),
        ("both equal, left-handed", ""),
        ("none", ""),
    ],
)
def test_a_note_tells_what_itk_cannot_open(tmp_path, forms, note):
    save_nifti(tmp_path / "a.nii", FORMS[forms])
    image = load_image(tmp_path / "a.nii")
    assert placement_note(image) == note
    labels = MetaTensor(1 + (image > 50).to(torch.uint8), meta=image.meta)
    told = ImageResult(image=image.numpy(), clusters=labels, mask=labels - 1).oddities()
    assert told == ([note] if note else [])  # of which the summary makes the message of the image
    mask = save_mask_of(tmp_path / "a.nii", tmp_path)
    assert (isinstance(seen_by_itk(mask), str), isinstance(seen_by_simple_itk(mask), str)) == (bool(note), bool(note))


@pytest.mark.parametrize(("shear", "note"), [(0.3, SHEARED), (0.04, SHEARED), (1e-3, ""), (1e-6, "")])
def test_a_sheared_grid_of_another_format_has_no_qform_that_would_misplace_it(tmp_path, shear, note):
    affine = grid(12, shear=shear)
    meta = {"has_geometry": True, "grid_shape": (7, 5, 3), "original_affine": affine, "nifti_header": b""}
    labels = MetaTensor(torch.ones(1, 7, 5, 3, dtype=torch.uint8), meta=meta)
    assert placement_note(labels) == note
    written = nib.load(write_label_map(labels, tmp_path, "a"))
    np.testing.assert_allclose(written.affine, affine, atol=1e-5)
    assert (written.header["qform_code"], written.header["sform_code"]) == (0 if note else 1, 1)
    np.testing.assert_allclose(written.header.get_zooms(), np.linalg.norm(affine[:3, :3], axis=0), rtol=1e-5)
    assert isinstance(seen_by_itk(tmp_path / "a.nii.gz"), str) == bool(note)


def test_both_forms_survive_a_batch_with_an_image_of_another_format(tmp_path):
    save_nifti(tmp_path / "a.nii", FORMS["coregistered by SPM: both, and different"])
    itk.imwrite(itk.image_from_array(np.zeros((3, 5, 7), np.uint8)), str(tmp_path / "b.nrrd"))
    images = [{"image": load_image(tmp_path / name)} for name in ("a.nii", "b.nrrd")]
    nifti, nrrd = (sample["image"] for sample in decollate_batch(next(iter(DataLoader(images, batch_size=2)))))
    assert nifti.meta["nifti_header"] == images[0]["image"].meta["nifti_header"] != b""
    assert nrrd.meta["nifti_header"] == b""
    other = nib.load(write_label_map((nrrd + 1).to(torch.uint8), tmp_path, "b_mask"))
    np.testing.assert_array_equal(other.get_qform(), np.diag([-1, -1, 1, 1]))
    mask = nib.load(write_label_map((nifti > 50).to(torch.uint8), tmp_path, "a_mask"))
    np.testing.assert_array_equal(mask.get_qform(), nib.load(tmp_path / "a.nii").get_qform())
    np.testing.assert_array_equal(mask.get_sform(), nib.load(tmp_path / "a.nii").get_sform())


def test_a_nifti_file_that_holds_no_voxels_is_refused(tmp_path):
    axes = [nib.cifti2.ScalarAxis(["a"]), nib.cifti2.BrainModelAxis.from_mask(np.ones((2, 2, 2)), affine=np.eye(4))]
    nib.save(nib.Cifti2Image(np.ones((1, 8), np.float32), axes), tmp_path / "a.dscalar.nii")
    with pytest.raises(ValueError, match="expected a NIfTI image of voxels, got a Cifti2Image"):
        load_image(tmp_path / "a.dscalar.nii")


def test_images_to_stack_must_lie_together_in_their_last_voxel_too(tmp_path):
    shape = (200, 5, 3)
    save_nifti(tmp_path / "a.nii", (HERE, 1, HERE, 1), shape)
    wider = HERE @ np.diag([1.005, 1, 1, 1])  # the last voxel lies 1 mm off
    save_nifti(tmp_path / "b.nii", (wider, 1, wider, 1), shape)
    with pytest.raises(ValueError, match="images to stack must lie on one grid"):
        load_image([tmp_path / "a.nii", tmp_path / "b.nii"])


def test_an_affine_whose_axes_lie_in_one_plane_is_refused(tmp_path):
    flat = np.array([[1.0, 2, 3, 0], [1, 2, 5, 0], [0, 0, 0, 0], [0, 0, 0, 1]])
    image = nib.Nifti1Image(np.zeros((7, 5, 3), np.int16), None)
    image.header["sform_code"] = 1
    for row, field in zip(flat, ("srow_x", "srow_y", "srow_z"), strict=False):
        image.header[field] = row
    nib.save(image, tmp_path / "a.nii")
    with pytest.raises(ValueError) as caught:  # noqa: PT011, all of the message is looked at
        load_image(tmp_path / "a.nii")
    assert str(caught.value) == (
        f"cannot read {tmp_path / 'a.nii'}: its affine {flat[:3].tolist()} is flat, not of three axes: save it with a "
        "true one (NIfTI with a right qform, by nibabel: image.set_sform(image.get_qform()))"
    )


def save_header(path, **fields):
    header = nib.Nifti1Image(np.zeros((7, 5, 3), np.uint8), None).header
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(header.binaryblock + bytes(4 + 7 * 5 * 3))


def test_a_sform_of_zeros_is_refused_and_mended_by_the_qform(tmp_path):
    save_header(tmp_path / "a.nii", sform_code=1, qform_code=1, qoffset_x=9)
    with pytest.raises(ValueError, match=r"gives an axis no length: save it with a true one .*nibabel: (.*)\)$"):
        load_image(tmp_path / "a.nii")
    image = nib.load(tmp_path / "a.nii")
    image.set_sform(image.get_qform())
    nib.save(image, tmp_path / "mended.nii")
    np.testing.assert_array_equal(load_image(tmp_path / "mended.nii").affine, image.get_qform())


def test_a_quaternion_that_is_none_is_refused(tmp_path):
    save_header(tmp_path / "a.nii", qform_code=1, quatern_b=0.9, quatern_c=0.9)
    with pytest.raises(ValueError) as caught:  # noqa: PT011, all of the message is looked at
        load_image(tmp_path / "a.nii")
    assert str(caught.value) == (
        f"cannot read {tmp_path / 'a.nii'}: its header states no valid place (w2 should be positive, but is "
        "-6.199999e-01): save it with a true affine, such as by nibabel's set_sform"
    )
