"""The field of view in use: cropped to, put back, and kept to by clusterings and the rule."""

import nibabel as nib
import numpy as np
import pytest
import torch
from field_tools import circle
from monai.data import DataLoader, Dataset, MetaTensor, PersistentDataset, decollate_batch
from monai.transforms import Compose, Invertd, Resized
from PIL import Image

from monai_fusenet.data import LoadMedicalImaged, ScaleByPercentilesd, WorkingGridd
from monai_fusenet.transforms import (
    ClustersToMaskd,
    CropToFieldd,
    FieldOfViewd,
    KMeansClustersd,
    ScoresToClustersd,
)

# Cropped, and put back.


class Given:
    """Puts a field (*spatial) into a sample."""

    def __init__(self, field):
        self.field = torch.from_numpy(field).unsqueeze(0)

    def __call__(self, sample):
        return {**sample, "field": self.field}


def framed(tmp_path, volume):
    """An image on disk, its field and its affine."""
    random = np.random.default_rng(0)
    shape = (60, 71, 24) if volume else (90, 121)
    pixels = random.uniform(100, 200, shape).astype(np.float32)
    field = np.zeros(shape, bool)
    field[9:-12, 13:-7] = True
    field[9:20, 13:30] = False
    if volume:
        affine = np.array([[-1.0, 0.1, 0, 30], [0.1, 1.2, 0, -20], [0, 0, 2.0, 5], [0, 0, 0, 1]])
        path = tmp_path / "scan.nii.gz"
        nib.save(nib.Nifti1Image(pixels, affine), path)
    else:
        affine, path = np.eye(4), tmp_path / "scan.png"
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return {"image": str(path)}, field, affine


def cropping(field):
    resize = WorkingGridd("image", (20, 20, 20)) if field.ndim == 3 else Resized("image", (32, 40))
    return Compose([LoadMedicalImaged("image"), Given(field), CropToFieldd(), resize])


@pytest.mark.parametrize("volume", [False, True])
def test_the_inverse_is_exact_in_the_field_and_0_outside(volume, tmp_path):
    item, field, affine = framed(tmp_path, volume)
    steps = Compose([LoadMedicalImaged("image"), Given(field), CropToFieldd()])
    loaded, sample = LoadMedicalImaged("image")(item)["image"], steps(item)
    assert sample["image"].shape[1:] == ((39, 51, 24) if volume else (69, 101))
    sample["pred"] = sample["image"].clone()
    pred = Invertd("pred", steps, "image")(sample)["pred"]
    assert torch.equal(pred.as_tensor(), loaded.as_tensor() * torch.from_numpy(field))
    np.testing.assert_allclose(pred.affine, affine, atol=1e-6)
    assert pred.applied_operations == []
    back = steps.inverse(steps(item))["image"]
    assert torch.equal(torch.as_tensor(back), torch.as_tensor(pred))


@pytest.mark.parametrize("volume", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_is_undone_item_by_item(workers, volume, tmp_path):
    item, field, affine = framed(tmp_path, volume)
    steps = cropping(field)
    (batch,) = DataLoader(Dataset([item] * 2, steps), batch_size=2, num_workers=workers)
    batch["pred"] = torch.ones_like(batch["image"])
    for one in decollate_batch(batch):
        pred = Invertd("pred", steps, "image", nearest_interp=False)(one)["pred"]
        np.testing.assert_array_equal(pred[0].numpy() > 0.5, field)
        np.testing.assert_allclose(pred.affine, affine, atol=1e-4)


@pytest.mark.parametrize("weights_only", [True, False])
def test_a_cache_on_disk_keeps_what_the_inverse_needs(weights_only, tmp_path):
    item, field, _ = framed(tmp_path, False)
    options = {"cache_dir": tmp_path / "cache", "track_meta": True, "weights_only": weights_only}
    steps = cropping(field)
    PersistentDataset([item], steps, **options)[0]
    sample = PersistentDataset([item], steps, **options)[0]
    sample["pred"] = torch.ones_like(sample["image"])
    np.testing.assert_array_equal(Invertd("pred", steps, "image")(sample)["pred"][0].numpy() > 0.5, field)


@pytest.mark.parametrize("spacing", [3, (2, 4, 5)])
def test_the_grid_in_millimetres_is_that_of_the_box(spacing, tmp_path):
    item, field, affine = framed(tmp_path, True)
    steps = Compose(
        [LoadMedicalImaged("image"), Given(field), CropToFieldd(), WorkingGridd("image", (20, 20, 20), spacing)]
    )
    sample = steps(item)
    voxel = np.linalg.norm(affine[:3, :3], axis=0)
    box = np.array([39, 51, 24]) * voxel
    assert sample["image"].shape[1:] == tuple(np.rint(box / spacing).astype(int))
    np.testing.assert_allclose(
        np.linalg.norm(np.asarray(sample["image"].affine)[:3, :3], axis=0) * sample["image"].shape[1:], box, rtol=1e-6
    )
    sample["pred"] = torch.ones_like(sample["image"])
    pred = Invertd("pred", steps, "image")(sample)["pred"]
    np.testing.assert_array_equal(pred[0].numpy() > 0.5, field)
    np.testing.assert_allclose(pred.affine, affine, atol=1e-4)


def test_where_a_cropped_image_lies_in_space(tmp_path):
    item, field, affine = framed(tmp_path, True)
    image = Compose([LoadMedicalImaged("image"), Given(field), CropToFieldd()])(item)["image"]
    expected = affine @ [9, 13, 0, 1]
    np.testing.assert_allclose(np.asarray(image.affine)[:, 3], expected, atol=1e-6)


def test_what_is_left_outside_gets_values_from_inside():
    field = torch.from_numpy(circle((81, 90), (40, 45), 38)).unsqueeze(0)
    columns = torch.arange(90.0).expand(1, 81, 90)
    cropped = CropToFieldd()({"image": torch.where(field, columns + 100, 0), "field": field})["image"]
    assert cropped.shape == (1, 75, 75)
    assert 105 < cropped.min() < cropped.max() < 185  # of columns 8 to 82
    corner = cropped[0, :8, :8]
    assert (corner > 108).all()
    assert (corner < 130).all()


def test_values_are_scaled_by_what_the_field_holds():
    field = torch.zeros(1, 20, 30, dtype=torch.bool)
    field[:, 5:, 3:] = True
    image = torch.where(field, torch.linspace(100, 200, 600).view(1, 20, 30), 0)
    scaled = ScaleByPercentilesd("image", 0, 100, field_key="field")({"image": image, "field": field})["image"]
    assert scaled[field].min() == 0
    assert scaled[field].max() == 1
    assert torch.equal(
        ScaleByPercentilesd("image", field_key="field")({"image": image})["image"],
        ScaleByPercentilesd("image")({"image": image})["image"],
    )


@pytest.mark.parametrize("volume", [False, True])
def test_clusters_lie_on_the_grid_of_the_file_and_are_0_outside(volume, tmp_path):
    item, field, affine = framed(tmp_path, volume)
    sample = cropping(field)(item)
    halves = torch.zeros(2, *sample["image"].shape[1:])
    halves[0, : halves.shape[1] // 3] = halves[1, halves.shape[1] // 3 :] = 1
    clusters = ScoresToClustersd(field_key="field")({**sample, "scores": halves})["clusters"]
    np.testing.assert_array_equal(clusters[0].numpy() > 0, field)
    np.testing.assert_allclose(clusters.affine, affine, atol=1e-6)
    first = 9 + (field.any(axis=tuple(range(1, field.ndim))).sum()) / 3  # the smaller cluster is the upper third
    expected = field & (np.arange(field.shape[0]).reshape(-1, *[1] * (field.ndim - 1)) < first)
    assert ((clusters[0].numpy() == 2) ^ expected).mean() < 0.02


def test_an_image_that_was_not_cropped_is_refused():
    image = MetaTensor(torch.rand(1, 20, 30), meta={"spatial_shape": [20, 30], "loaded_affine": torch.eye(4)})
    field = torch.ones(1, 20, 30, dtype=torch.bool)
    field[:, :6] = False
    with pytest.raises(ValueError, match="cropped or resampled since it was loaded"):
        ScoresToClustersd(field_key="field")({"image": image, "field": field, "scores": torch.rand(2, 20, 30)})


def test_kmeans_sees_the_field_alone():
    field = torch.zeros(1, 20, 30, dtype=torch.bool)
    field[:, 5:, 3:] = True
    image = torch.zeros(1, 20, 30)
    image[:, 5:12] = 0.7
    image[:, 12:] = 0.9
    sample = KMeansClustersd("image", field_key="field")({"image": image, "field": field})
    expected = np.where(np.arange(20)[:, None] < 12, 2, 1) * field[0].numpy()
    np.testing.assert_array_equal(sample["clusters"][0].numpy(), expected)


# The rule keeps to the field.


def round_field():
    """An image with two like dark disks in a circle of light, one of which touches its edge; their clusters."""
    shape = (100, 120)
    field = circle(shape, (50, 60), 48)
    middle, edge = circle(shape, (50, 60), 12), circle(shape, (50, 16), 12) & field
    image = np.where(middle | edge, 0.3, 0.8) * field
    clusters = np.where(middle | edge, 2, 1) * field
    return (
        {
            "clusters": torch.from_numpy(clusters)[None],
            "image": torch.from_numpy(image)[None].float(),
            "field": torch.from_numpy(field)[None],
        },
        middle,
        edge,
    )


def test_the_edge_of_the_field_is_the_border_of_the_image():
    sample, middle, _ = round_field()
    rule = {"objects": 2, "polarity": "dark", "centre_weight": 0.0}
    regions = ClustersToMaskd(field_key="field", **rule)(sample)["regions"]
    (first, second) = (region for region in regions if region.chosen)
    assert (first.border, second.border > 0.05) == (0, True)
    field = sample["field"].numpy()
    assert first.fraction == pytest.approx(middle.sum() / field.sum())
    chosen = ClustersToMaskd(field_key="field", **{**rule, "objects": 1, "border_weight": 30.0})(sample)["pred"]
    np.testing.assert_array_equal(chosen[0].numpy() > 0, middle)


@pytest.mark.parametrize("options", [{"growth": 0.2}, {"convex": True, "objects": 1}, {"refinement": 0.1}])
def test_nothing_is_drawn_outside_the_field(options):
    sample, _, _ = round_field()
    mask = ClustersToMaskd(field_key="field", polarity="dark", **options)(sample)["pred"]
    assert mask.any()
    assert not (mask[0].numpy() > 0)[~sample["field"][0].numpy()].any()


def test_the_darkness_outside_is_no_contrast():
    sample, middle, _ = round_field()
    bright = sample["image"].clone()
    bright[0][torch.from_numpy(middle)] = 0.8  # nothing dark is left but the disk at the edge
    sample["clusters"][0][torch.from_numpy(middle)] = 1
    chosen = ClustersToMaskd(field_key="field", polarity="bright")({**sample, "image": bright})
    assert [region for region in chosen["regions"] if region.fraction > 0.9] == []


def test_a_whole_field_changes_nothing():
    sample, _, _ = round_field()
    sample["clusters"] = sample["clusters"] + 1
    sample["field"] = torch.ones_like(sample["field"])
    expected, with_field = ClustersToMaskd(objects=1)(sample), ClustersToMaskd(objects=1, field_key="field")(sample)
    assert torch.equal(expected["pred"], with_field["pred"])
    assert expected["regions"] == with_field["regions"]


def test_a_word_that_is_no_shape_is_refused():
    with pytest.raises(ValueError, match=r'^field must be null, "device" or "body", got circle$'):
        FieldOfViewd(shape="circle")


def test_a_field_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"^image and field must have the same shape, got \(9, 8\) and \(8, 9\)$"):
        CropToFieldd()({"image": torch.zeros(1, 9, 8), "field": torch.ones(1, 8, 9, dtype=torch.bool)})


def test_an_empty_field_is_refused():
    with pytest.raises(ValueError, match=r"^expected a mask with at least one pixel, got an empty one$"):
        CropToFieldd()({"image": torch.zeros(1, 9, 8), "field": torch.zeros(1, 9, 8, dtype=torch.bool)})
