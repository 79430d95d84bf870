import pytest
import torch
from monai.data import MetaTensor

from monai_fusenet.transforms import ForLabelServerd


def sample(shape, has_geometry, grid_shape=None, **more):
    mask = torch.zeros(1, *shape, dtype=torch.uint8)
    mask[0, 1] = 1  # a row of a picture
    meta = {"has_geometry": has_geometry, "spatial_shape": shape, "grid_shape": grid_shape or shape}
    image = MetaTensor(torch.zeros(3, 8, 8), meta=meta)
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


def test_classes_above_255_need_16_bits():
    before = sample((5, 7), False, image_path="a.png")
    before["pred"] = before["pred"].to(torch.int32) * 300
    assert ForLabelServerd()(before)["result_dtype"] == "uint16"
    assert ForLabelServerd()({**before, "result_dtype": "int32"})["result_dtype"] == "int32"


@pytest.mark.parametrize("grid_shape", [(5, 7), (5, 7, 1), (5, 1, 7), (1, 5, 7)])
def test_a_slice_is_a_volume_of_one_slice(grid_shape):
    after = ForLabelServerd()(sample((5, 7), True, grid_shape, image_path="a.nii"))
    expected = grid_shape if len(grid_shape) == 3 else (5, 7, 1)
    assert after["pred"].shape == after["image"].meta["spatial_shape"] == expected
    assert after["pred"].squeeze()[1].all()
    assert after["result_extension"] == ".nii.gz"


def test_a_volume_keeps_its_channel():
    assert ForLabelServerd()(sample((5, 7, 3), True, image_path="a.nii"))["pred"].shape == (1, 5, 7, 3)


@pytest.mark.parametrize("asked", [".nii.gz", ".nrrd", "nrrd"])
def test_what_a_client_asks_for_counts(asked):
    after = ForLabelServerd()(sample((5, 7), False, image_path="a.png", result_extension=asked))
    assert after["result_extension"] == f".{asked.lstrip('.')}"


def test_a_jpeg_keeps_no_labels():
    with pytest.raises(
        ValueError, match=r"^result_extension must be that of a format which keeps labels, .*, got jpg$"
    ):
        ForLabelServerd()(sample((5, 7), False, image_path="a.png", result_extension="jpg"))
