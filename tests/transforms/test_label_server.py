import pytest
import torch
from monai.data import MetaTensor

from monai_fusenet.transforms import ForLabelServerd


def sample(shape, has_geometry, **more):
    mask = torch.zeros(1, *shape, dtype=torch.uint8)
    mask[0, 1] = 1  # a row of a picture
    image = MetaTensor(torch.zeros(3, 8, 8), meta={"has_geometry": has_geometry, "spatial_shape": shape})
    return {"pred": mask, "image": image, **more}


def test_samples_from_elsewhere_stay_as_they_are():
    before = sample((5, 7), False)
    after = ForLabelServerd()(before)
    assert after.keys() == before.keys()
    assert after["pred"] is before["pred"]


def test_a_picture_has_its_column_first():
    after = ForLabelServerd()(sample((5, 7), False, image_path="a.jpg"))
    assert after["pred"].shape == (7, 5)
    assert after["pred"][:, 1].all()
    assert after["image"].meta["spatial_shape"] == (7, 5)
    assert (after["result_dtype"], after["result_extension"]) == ("uint8", ".png")


def test_a_nifti_slice_keeps_its_axes():
    after = ForLabelServerd()(sample((5, 7), True, image_path="a.nii"))
    assert after["pred"].shape == (5, 7)
    assert after["result_extension"] == ".nii.gz"


def test_a_volume_keeps_its_channel():
    assert ForLabelServerd()(sample((5, 7, 3), True, image_path="a.nii"))["pred"].shape == (1, 5, 7, 3)


@pytest.mark.parametrize("asked", [".nii.gz", ".nrrd"])
def test_what_a_client_asks_for_counts(asked):
    after = ForLabelServerd()(sample((5, 7), False, image_path="a.png", result_extension=asked))
    assert after["result_extension"] == asked
