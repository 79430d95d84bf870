"""What MONAI's caching datasets, pickling and worker processes leave of a loaded image is enough for a mask."""

import pickle

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import (
    CacheDataset,
    DataLoader,
    Dataset,
    MetaTensor,
    PersistentDataset,
    SmartCacheDataset,
    decollate_batch,
)
from monai.transforms import Compose, CopyItemsd, RandAdjustContrastd, RandFlipd, RandScaleIntensityd
from PIL import Image

from monai_fusenet.data import CheckImaged, LoadMedicalImaged, ScaleByPercentilesd, ToChannelsd, WorkingGridd
from monai_fusenet.transforms import AugmentPaird, ClustersToMaskd, ScoresToClustersd

AFFINE = np.diag([1, 1.2, 2, 1])
SHAPE = (24, 20, 16)


@pytest.fixture
def items(tmp_path):
    centres = [(8, 9, 7), (14, 9, 8)]
    for index, centre in enumerate(centres):
        distance = np.linalg.norm(np.indices(SHAPE) - np.reshape(centre, (3, 1, 1, 1)), axis=0)
        nib.save(nib.Nifti1Image((distance < 5).astype(np.float32) + 0.1, AFFINE), tmp_path / f"{index}.nii.gz")
    return [{"image": str(tmp_path / f"{index}.nii.gz")} for index in range(len(centres))]


def preparation():
    return Compose(
        [
            LoadMedicalImaged("image"),
            CheckImaged("image", 3, 4),
            ToChannelsd("image", 1),
            ScaleByPercentilesd("image"),
            CopyItemsd("image", names="original"),
            WorkingGridd("image", (12, 12, 12)),
            RandScaleIntensityd("image", 0.0, prob=1.0),  # random: a PersistentDataset keeps what is before it
        ]
    )


def mask_of(sample):
    sample = {**sample, "scores": torch.cat([torch.as_tensor(sample["image"]), 1 - torch.as_tensor(sample["image"])])}
    return ClustersToMaskd(image_key="original")(ScoresToClustersd(guide_key="original")(sample))["pred"]


def assert_same_mask(sample, item):
    mask, expected = mask_of(sample), mask_of(preparation()(item))
    assert 200 < expected.sum() < 800
    assert torch.equal(mask.as_tensor(), expected.as_tensor())
    np.testing.assert_allclose(mask.affine, AFFINE, atol=1e-6)


@pytest.mark.parametrize("weights_only", [True, False])
def test_files_of_a_persistent_dataset(weights_only, items, tmp_path):
    options = {"cache_dir": tmp_path / "cache", "track_meta": True, "weights_only": weights_only}
    list(PersistentDataset(items, preparation(), **options))
    dataset = PersistentDataset(items, preparation(), **options)
    for index, item in enumerate(items):
        assert_same_mask(dataset[index], item)


def test_files_of_a_persistent_dataset_without_metadata_lack_the_place_and_nothing_else(items, tmp_path):
    dataset = PersistentDataset(items, preparation(), cache_dir=tmp_path / "cache", track_meta=False)
    list(dataset)  # the first time, samples come from memory
    for index, item in enumerate(items):
        mask = mask_of(dataset[index])
        assert torch.equal(torch.as_tensor(mask), mask_of(preparation()(item)).as_tensor())
        assert not isinstance(mask, MetaTensor)


@pytest.mark.parametrize(
    "random",
    [
        RandScaleIntensityd("image", 0.0, prob=0),
        RandAdjustContrastd("image", prob=0),
        RandFlipd("image", prob=1, spatial_axis=0),
    ],
)
def test_a_cache_without_metadata_does_not_change_the_grid_in_silence(random, items, tmp_path):
    steps = Compose([LoadMedicalImaged("image"), random, WorkingGridd("image", (8, 8, 8), 4.0)])
    kept = PersistentDataset(items, steps, tmp_path / "kept", track_meta=True)
    assert [kept[0]["image"].shape for _ in range(3)] == [(1, 6, 6, 8)] * 3
    bare = PersistentDataset(items, steps, tmp_path / "bare")
    assert bare[0]["image"].shape == (1, 6, 6, 8)  # the first time, samples come from memory
    with pytest.warns(UserWarning, match=r"^the image has no metadata, so that its voxels count as 1 mm wide: "):
        bare[0]


def test_a_cache_without_metadata_does_not_shrink_the_clusters_in_silence(items, tmp_path):
    steps = Compose([LoadMedicalImaged("image"), WorkingGridd("image", (8, 8, 8)), AugmentPaird()])
    dataset = PersistentDataset(items, steps, tmp_path / "cache")
    first, cached = ({**dataset[0], "scores": torch.rand(3, 8, 7, 9)} for _ in range(2))
    assert ScoresToClustersd()(first)["clusters"].shape == (1, *SHAPE)
    with pytest.warns(UserWarning, match=r"^the image has no metadata, so that its clusters get its present shape: "):
        ScoresToClustersd()(cached)


def test_transparency_that_nothing_speaks_of(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (9, 13, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    item = {"image": str(tmp_path / "a.png")}
    cached = PersistentDataset([item], [LoadMedicalImaged("image")], tmp_path / "cache", track_meta=True)
    expected = ToChannelsd("image", 3)(LoadMedicalImaged("image")(item))["image"]
    assert torch.equal(ToChannelsd("image", 3)(cached[0])["image"], expected)
    bare = PersistentDataset([item], [LoadMedicalImaged("image")], tmp_path / "bare", track_meta=False)
    list(bare)  # the first time, samples come from memory
    with pytest.raises(
        ValueError,
        match=r"^expected an image of 3 channels, or grey, got 4 channels; in_channels says how many; whether the last "
        r"one is transparency is not known without the metadata of LoadMedicalImaged, which a PersistentDataset keeps "
        r"with track_meta=True$",
    ):
        ToChannelsd("image", 3)(bare[0])


def test_datasets_in_memory(items):
    for dataset in (
        CacheDataset(items, preparation(), progress=False),
        SmartCacheDataset(items, preparation(), replace_rate=0.5, cache_num=2, shuffle=False, progress=False),
    ):
        assert_same_mask(dataset[1], items[1])


def test_a_pickled_sample(items):
    assert_same_mask(pickle.loads(pickle.dumps(preparation()(items[0]))), items[0])


def test_worker_processes(items):
    (batch,) = DataLoader(Dataset(items, preparation()), batch_size=2, num_workers=2)
    for sample, item in zip(decollate_batch(batch), items, strict=True):
        assert_same_mask(sample, item)
