"""Places are compared where both files state one, in millimetres; else index belongs to index."""

from __future__ import annotations

import itk
import nibabel as nib
import numpy as np
import pytest
from dicom_tools import write_dicom_file
from grid_tools import SHAPE, TILTED, save, stored
from monai.data import DataLoader, decollate_batch
from PIL import Image
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    NuclearMedicineImageStorage,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
)

from monai_fusenet.data import load_image, on_grid_of

TURNED = np.array([[4.0, -3.6, 0, -20], [3.0, 4.8, 0, 30], [0, 0, 7, 5], [0, 0, 0, 1]])  # voxels of 5 x 6 x 7


@pytest.fixture
def truth():
    return np.random.default_rng(0).integers(0, 4, SHAPE)


def save_in_unit(path, array, affine, unit):
    image = nib.Nifti1Image(np.asarray(array, np.uint8), affine)
    image.header.set_xyzt_units(unit)
    nib.save(image, path)
    return load_image(path)


@pytest.mark.parametrize("unit", ["micron", "meter"])
@pytest.mark.parametrize("suffix", [".nii", ".nrrd"])
def test_files_are_compared_in_millimetres_which_itk_writes(tmp_path, truth, unit, suffix):
    sitk = pytest.importorskip("SimpleITK")
    save_in_unit(tmp_path / "a.nii", np.zeros(SHAPE), TURNED, unit)
    labels = sitk.GetImageFromArray(truth.astype(np.uint8).transpose(2, 1, 0))
    labels.CopyInformation(sitk.ReadImage(str(tmp_path / "a.nii")))
    image = load_image(tmp_path / "a.nii")
    for name, written, expected in (("same", labels, truth), ("shifted", labels[2:], truth[2:])):
        sitk.WriteImage(written, str(tmp_path / f"{name}{suffix}"))
        brought = on_grid_of(load_image(tmp_path / f"{name}{suffix}"), image).numpy()[0]
        np.testing.assert_array_equal(brought[-len(expected) :], expected)
        assert not brought[: -len(expected)].any()


@pytest.mark.parametrize("unit", ["unknown", "mm"])
def test_the_numbers_of_an_image_without_its_unit_are_its_place(tmp_path, truth, unit):
    """As `nib.Nifti1Image(labels, image.affine)` drops the unit."""
    image = save_in_unit(tmp_path / "a.nii", np.zeros(SHAPE), TILTED, "micron")
    labels = save_in_unit(tmp_path / "labels.nii", truth, TILTED, unit)
    assert on_grid_of(labels, image) is labels


def test_labels_of_an_unknown_unit_have_that_of_their_image(tmp_path, truth):
    image = save_in_unit(tmp_path / "a.nii", np.zeros(SHAPE), TILTED, "micron")
    flipped, affine = stored(truth, TILTED, flips=(0,))
    np.testing.assert_array_equal(on_grid_of(save(tmp_path / "b.nii", flipped, affine), image).numpy()[0], truth)


def xray_with(tmp_path, truth, **own):
    """A DICOM image of 7 rows and 9 columns."""
    write_dicom_file(tmp_path / "a.dcm", np.zeros((7, 9), np.uint16), **own)
    return load_image(tmp_path / "a.dcm"), truth[:, :, 0].astype(np.uint8)


NO_PLACE = {
    "X-ray": {"sop_class": DigitalXRayImageStorageForPresentation, "Modality": "DX", "PixelSpacing": [0.2, 0.2]},
    "X-ray with a position": {"sop_class": DigitalXRayImageStorageForPresentation, "position": (5, 6, 7)},
    "ultrasound": {"sop_class": UltrasoundImageStorage, "Modality": "US"},
    "secondary capture": {"sop_class": SecondaryCaptureImageStorage, "Modality": "OT"},
    "nuclear medicine": {"sop_class": NuclearMedicineImageStorage, "Modality": "NM"},
}


@pytest.mark.parametrize("own", NO_PLACE.values(), ids=NO_PLACE)
def test_a_dicom_image_without_a_place_and_its_mask_are_compared_by_index(tmp_path, truth, own):
    image, plane = xray_with(tmp_path, truth, **own)
    for name, affine in (("eye", np.eye(4)), ("spacing", np.diag([0.2, 0.2, 1, 1])), ("tilted", TILTED)):
        labels = save(tmp_path / f"{name}.nii", plane, affine)
        assert on_grid_of(labels, image) is labels
    Image.fromarray(plane.T).save(tmp_path / "a.png")
    np.testing.assert_array_equal(on_grid_of(load_image(tmp_path / "a.png"), image).numpy()[0], plane)
    for suffix in (".nrrd", ".mha"):
        itk.imwrite(itk.image_from_array(np.ascontiguousarray(plane.T)), str(tmp_path / f"a{suffix}"))
        np.testing.assert_array_equal(on_grid_of(load_image(tmp_path / f"a{suffix}"), image).numpy()[0], plane)
        assert on_grid_of(image, load_image(tmp_path / f"a{suffix}")) is image


def test_a_slice_of_dicom_states_its_place(tmp_path, truth):
    image, plane = xray_with(tmp_path, truth, position=(0, 0, 0))
    assert image.meta["states_place"]
    flipped = np.diag([0.5, 0.7, 1, 1])  # DICOM's x and y are opposite to those of NIfTI
    flipped[:2, 3] = (-8 * 0.5, -6 * 0.7)
    np.testing.assert_array_equal(
        on_grid_of(save(tmp_path / "b.nii", plane[::-1, ::-1], flipped), image).numpy()[0], plane
    )


@pytest.mark.parametrize(("other", "shape"), [("b.png", (9, 7)), ("b.nrrd", (9, 7)), ("b.dcm", (9, 7, 1))])
def test_whether_a_place_is_stated_survives_a_batch_with_another_format(tmp_path, other, shape):
    save(tmp_path / "a.nii", np.zeros(shape), TILTED)
    Image.fromarray(np.zeros((9, 7), np.uint8)).save(tmp_path / "b.png")
    itk.imwrite(itk.image_from_array(np.zeros((7, 9), np.uint8)), str(tmp_path / "b.nrrd"))
    write_dicom_file(tmp_path / "b.dcm", np.zeros((7, 9), np.uint16), **NO_PLACE["ultrasound"])
    images = [{"image": load_image(tmp_path / name)} for name in ("a.nii", other)]
    states = [
        sample["image"].meta["states_place"] for sample in decollate_batch(next(iter(DataLoader(images, batch_size=2))))
    ]
    assert states == [True, other == "b.nrrd"]
