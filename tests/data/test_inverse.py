"""The working grid is undone by MONAI's own Invertd, whatever lies between the file and it."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import Compose, Invertd, Orientationd, Resized, SpatialCropd
from PIL import Image

from monai_fusenet.data import LoadMedicalImaged, ScaleByPercentilesd, ToChannelsd, WorkingGridd

AFFINE = np.array([[-1.0, 0.1, 0, 30], [0.1, 1.2, 0, -20], [0, 0, 2.0, 5], [0, 0, 0, 1]])
SHAPE = (24, 21, 15)
BEFORE = {
    "nothing": [],
    "Orientationd": [Orientationd("image", "LPS", labels=None)],
    "axes exchanged": [Orientationd("image", "SAR", labels=None)],
    "cropped": [SpatialCropd("image", roi_start=(2, 0, 3), roi_end=(24, 18, 15))],
    "channels and percentiles": [ToChannelsd("image", 3), ScaleByPercentilesd("image")],
}
GRIDS = {
    "fewer voxels": WorkingGridd("image", (10, 10, 10)),
    "spacing": WorkingGridd("image", (10, 10, 10), spacing=1.5),
    "slices kept": WorkingGridd("image", (9, 9, 40), keep_slices=True),
}


@pytest.fixture
def path(tmp_path):
    axes = np.meshgrid(*(np.linspace(0, 1, side) for side in SHAPE), indexing="ij")
    nib.save(nib.Nifti1Image(sum(axes).astype(np.float32), AFFINE), tmp_path / "scan.nii.gz")
    return str(tmp_path / "scan.nii.gz")


def inverted(before, sample, **options):
    sample["pred"] = sample["image"].clone()
    return Invertd("pred", transform=before, orig_keys="image", **options)(sample)["pred"]


@pytest.mark.parametrize("steps", BEFORE.values(), ids=BEFORE.keys())
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
@pytest.mark.parametrize("nearest", [True, False])
def test_a_volume_comes_back_onto_the_grid_of_its_file(steps, grid, nearest, path):
    before = Compose([LoadMedicalImaged("image"), *steps, grid])
    sample = before({"image": path})
    assert sample["image"].shape[1:] != SHAPE
    pred = inverted(before, sample, nearest_interp=nearest)
    assert pred.shape[1:] == SHAPE
    np.testing.assert_allclose(pred.affine, AFFINE, atol=1e-4)
    assert pred.applied_operations == []


def test_values_come_back_to_where_they_were(path):
    before = Compose([LoadMedicalImaged("image"), Orientationd("image", "SAR", labels=None), GRIDS["fewer voxels"]])
    pred = inverted(before, before({"image": path}), nearest_interp=False)
    original = LoadMedicalImaged("image")({"image": path})["image"]
    inside = (slice(None), *[slice(2, -2)] * 3)  # a ramp, which linear interpolation keeps but at the border
    torch.testing.assert_close(pred.as_tensor()[inside], original.as_tensor()[inside], rtol=0, atol=0.05)


def test_nearest_interpolation_makes_no_new_labels(path):
    before = Compose([LoadMedicalImaged("image"), GRIDS["fewer voxels"]])
    sample = before({"image": path})
    labels = MetaTensor((sample["image"].as_tensor() > 1.5).float() * 7)
    pred = Invertd("pred", transform=before, orig_keys="image")({**sample, "pred": labels})["pred"]
    assert pred.unique().tolist() == [0, 7]


def test_it_lies_where_that_of_monai_does(path):
    ours = Compose([LoadMedicalImaged("image"), WorkingGridd("image", (12, 12, 12))])
    sample = ours({"image": path})
    theirs = Compose([LoadMedicalImaged("image"), Resized("image", sample["image"].shape[1:], mode="bilinear")])
    expected = theirs({"image": path})
    np.testing.assert_allclose(sample["image"].affine, expected["image"].affine, atol=1e-9)
    values = sample["image"].as_tensor()
    for nearest in (True, False):
        mine, other = (
            Invertd("pred", before, "image", nearest_interp=nearest)({**one, "pred": MetaTensor(values)})["pred"]
            for before, one in ((ours, sample), (theirs, expected))
        )
        assert torch.equal(mine.as_tensor(), other.as_tensor())


def test_a_picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (30, 41, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "scan.png")
    before = Compose([LoadMedicalImaged("image"), WorkingGridd("image", (16, 16))])
    sample = before({"image": str(tmp_path / "scan.png")})
    pred = inverted(before, sample, nearest_interp=False)
    assert pred.shape == (3, 30, 41)
    np.testing.assert_allclose(pred.affine, np.eye(4), atol=1e-9)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_is_undone_item_by_item(workers, path):
    before = Compose([LoadMedicalImaged("image"), Orientationd("image", "LPS", labels=None), GRIDS["spacing"]])
    loader = DataLoader(Dataset([{"image": path}] * 2, before), batch_size=2, num_workers=workers)
    (batch,) = loader
    batch["pred"] = batch["image"].clone()
    for item in decollate_batch(batch):
        pred = Invertd("pred", transform=before, orig_keys="image", nearest_interp=False)(item)["pred"]
        assert pred.shape[1:] == SHAPE
        np.testing.assert_allclose(pred.affine, AFFINE, atol=1e-4)


def test_what_was_loaded_stays_in_the_metadata(path):
    image = Compose([LoadMedicalImaged("image"), GRIDS["spacing"]])({"image": path})["image"]
    assert image.meta["grid_shape"].tolist() == list(SHAPE)
    np.testing.assert_allclose(image.meta["loaded_affine"], AFFINE, atol=1e-6)
    (step,) = image.applied_operations
    assert (step["class"], tuple(step["orig_size"])) == ("WorkingGridd", SHAPE)
