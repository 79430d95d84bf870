"""Images that a program holds already, in the place of a path."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirst, LoadImage

from monai_fusenet.data import LoadMedicalImaged, load_image

AFFINE = np.array([[0, -1.5, 0, 10], [2, 0, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1]], dtype=float)


def loaded(image):
    return LoadMedicalImaged("image")({"image": image})["image"]


@pytest.mark.parametrize("shape", [(5, 6), (1, 5, 6), (4, 5, 6, 7)])
@pytest.mark.parametrize("as_given", [np.asarray, torch.from_numpy])
def test_arrays_and_tensors_have_their_channels_first(shape, as_given):
    values = np.random.default_rng(0).random(shape, dtype=np.float32)
    image = loaded(as_given(values))
    assert image.dtype == torch.float32
    assert image.shape == ((1, *shape) if len(shape) == 2 else shape)
    assert np.array_equal(np.asarray(image).reshape(shape), values)
    assert image.meta["has_geometry"] == (len(shape) == 4)
    assert not image.meta["states_place"]


@pytest.mark.parametrize("after", [[], [EnsureChannelFirst()]])
@pytest.mark.parametrize("shape", [(5, 6, 7), (6, 6, 6), (5, 6, 1)])
def test_what_monai_has_loaded_is_what_is_loaded_here(tmp_path, after, shape):
    values = np.random.default_rng(0).random(shape).astype(np.float32)
    nib.save(nib.Nifti1Image(values, AFFINE), tmp_path / "image.nii.gz")
    given = Compose([LoadImage(image_only=True), *after])(tmp_path / "image.nii.gz")
    image, own = loaded(given), load_image(tmp_path / "image.nii.gz")
    assert np.array_equal(image, own)
    assert torch.allclose(image.affine, own.affine)
    for name in ("original_affine", "loaded_affine", "grid_shape", "has_geometry", "filename_or_obj"):
        assert np.array_equal(image.meta[name], own.meta[name]), name


def test_channels_behind():
    values = torch.rand(5, 6, 7, 2)
    image = loaded(MetaTensor(values, meta={"original_channel_dim": -1, "spatial_shape": (5, 6, 7)}))
    assert torch.equal(image.as_tensor(), values.movedim(-1, 0))
    image = loaded(MetaTensor(values, meta={"original_channel_dim": 3}))
    assert torch.equal(image.as_tensor(), values.movedim(-1, 0))


def test_the_space_of_dicom():
    image = loaded(MetaTensor(torch.rand(1, 5, 6, 7), affine=torch.from_numpy(AFFINE), meta={"space": "LPS"}))
    assert np.allclose(image.affine, np.diag([-1, -1, 1, 1]) @ AFFINE)
    assert image.meta["space"] == "RAS"
    assert image.meta["states_place"]


def test_an_image_that_was_loaded_here_stays_as_it_is(tmp_path):
    nib.save(nib.Nifti1Image(np.ones((5, 6, 1), np.float32), AFFINE), tmp_path / "image.nii.gz")
    image = load_image(tmp_path / "image.nii.gz")
    assert loaded(image) is image


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.array(["a"]), "an image must hold real numbers, got an array of <U1"),
        (np.ones((2, 3), complex), "an image must hold real numbers, got an array of complex128"),
        (np.ones(3), "an image must have the shape (C, *spatial) in 2-D or 3-D, got (3,)"),
        (np.ones((1, 2, 3, 4, 5)), "an image must have the shape (C, *spatial) in 2-D or 3-D, got (1, 2, 3, 4, 5)"),
        (torch.ones(1, 0, 4), "an image must have the shape (C, *spatial) in 2-D or 3-D, got (1, 0, 4)"),
        (
            MetaTensor(torch.ones(1, 3, 4), affine=torch.full((4, 4), torch.nan)),
            "the affine of an image must be a finite matrix 4 x 4, got ",
        ),
        (
            MetaTensor(torch.ones(1, 3, 4, 5), affine=torch.diag(torch.tensor([1.0, 0, 1, 1]))),
            "cannot read an image in memory: its affine ",
        ),
    ],
)
def test_what_is_no_image(image, message):
    with pytest.raises(ValueError) as told:  # noqa: PT011
        loaded(image)
    assert str(told.value).startswith(message)
