import logging
import pickle

import numpy as np
import pytest
import torch
from monai.data import DataLoader
from monai.transforms import Compose, Lambdad, RandFlipd, RandGaussianNoised, RandomizableTransform
from PIL import Image

from monai_fusenet.data import LoadMedicalImaged, SeededCacheDataset


class Overwrite(RandomizableTransform):
    """Works in place, as a careless transform may."""

    def __call__(self, data):
        data["image"].fill_(self.R.rand())
        data["image"].meta["touched"] = True
        return data


@pytest.fixture
def items(tmp_path):
    items = []
    for index in range(5):
        pixels = (np.arange(35).reshape(7, 5) * (index + 1)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
        items.append({"image": str(tmp_path / f"{index}.png"), "file": f"{index}.png", "name": f"{index}"})
    return items


@pytest.fixture
def noise():
    return Compose([RandFlipd("image", prob=0.5), RandGaussianNoised("image", prob=1.0)])


def dataset_of(items, random_transform=None, **options):
    return SeededCacheDataset(items, LoadMedicalImaged("image"), random_transform, progress=False, **options)


def pixels(dataset, order=None):
    return {index: dataset[index]["image"].clone() for index in order or range(len(dataset))}


def equal(some, others):
    return all(torch.equal(some[index], others[index]) for index in some)


def test_samples_repeat_exactly_in_any_order(items, noise):
    dataset = dataset_of(items, noise)
    first = pixels(dataset)
    assert equal(first, pixels(dataset, order=[4, 2, 2, 0, 3, 1]))
    assert equal(first, pixels(dataset_of(items, noise)))
    assert torch.equal(dataset[-1]["image"], first[4])


def test_seed_epoch_and_index_each_change_the_draw(items, noise):
    dataset = dataset_of([items[0], items[0]], noise)
    first = pixels(dataset)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], dataset_of(items, noise, seed=1)[0]["image"])
    dataset.set_epoch(1)
    assert not torch.equal(first[0], dataset[0]["image"])
    dataset.set_epoch(0)
    assert equal(first, pixels(dataset))


def test_neighbouring_numbers_do_not_share_a_draw(items):
    values = set()
    for seed in range(3):
        dataset = dataset_of(items[:3], Overwrite(), seed=seed)
        for epoch in range(3):
            dataset.set_epoch(epoch)
            values |= {float(dataset[index]["image"].mean()) for index in range(3)}
    assert len(values) == 27


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_change_nothing(items, noise, persistent):
    def epochs(**options):
        dataset = dataset_of(items, noise)
        loader = DataLoader(dataset, batch_size=2, **options)
        batches = []
        for epoch in range(2):
            dataset.set_epoch(epoch)
            batches += [batch["image"].as_tensor().clone() for batch in loader]
        return torch.cat(batches)

    alone = epochs()
    assert torch.equal(alone, epochs(num_workers=2, persistent_workers=persistent))
    assert not torch.equal(alone[:5], alone[5:])


def test_it_pickles_with_what_it_has_loaded(items, noise):
    dataset = dataset_of(items, noise)
    dataset.set_epoch(3)
    expected = pixels(dataset)
    assert equal(expected, pixels(pickle.loads(pickle.dumps(dataset))))


def test_in_place_transforms_do_not_reach_the_cache(items):
    dataset = dataset_of(items, Overwrite())
    dataset[0]
    dataset.random_transform = None
    assert torch.equal(dataset[0]["image"], LoadMedicalImaged("image")(items[0])["image"])
    assert "touched" not in dataset[0]["image"].meta


def test_without_a_random_transform_nothing_is_copied(items):
    dataset = dataset_of(items)
    assert dataset[0]["image"].data_ptr() == dataset[0]["image"].data_ptr()
    assert dataset[0] is not dataset[0]


def test_loading_happens_once_and_late(items):
    calls = []
    count = Lambdad("image", lambda image: calls.append(1) or image)
    dataset = SeededCacheDataset(items, Compose([LoadMedicalImaged("image"), count]), progress=False)
    assert calls == []
    assert len(dataset) == 5
    dataset.prepare()
    dataset[0]
    assert len(calls) == 5
    assert isinstance(items[0]["image"], str)


def test_broken_images_are_left_out_and_named(items, tmp_path, caplog):
    (tmp_path / "1.png").write_text("a shopping list")
    (tmp_path / "3.png").unlink()
    dataset = dataset_of(items)
    with caplog.at_level(logging.WARNING):
        assert len(dataset) == 3
    assert [sample["name"] for sample in dataset] == ["0", "2", "4"]
    reasons = [
        ("1.png", f"cannot read {tmp_path / '1.png'}: not an image, or damaged"),
        ("3.png", f"cannot read {tmp_path / '3.png'}: no such file or folder"),
    ]
    assert dataset.failures == reasons
    assert [record.getMessage() for record in caplog.records] == [f"left out {file}: {why}" for file, why in reasons]


def test_all_images_broken(items, tmp_path):
    for item in items:
        (tmp_path / item["file"]).unlink()
    message = f"none of the 5 images could be loaded; the first, 0.png: cannot read {tmp_path}/0.png: no such file"
    with pytest.raises(ValueError, match=f"^{message} or folder$"):
        len(dataset_of(items))


def test_no_samples():
    with pytest.raises(ValueError, match=r"^expected samples to load, got an empty list$"):
        dataset_of([])


def test_progress_is_shown(items, capsys):
    SeededCacheDataset(items, LoadMedicalImaged("image")).prepare()
    assert "loading: 100%" in capsys.readouterr().err


def test_slices_are_subsets(items, noise):
    dataset = dataset_of(items, noise)
    assert torch.equal(dataset[3:][1]["image"], dataset[4]["image"])
