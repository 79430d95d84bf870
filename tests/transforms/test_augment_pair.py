import numpy as np
import pytest
import torch
from monai.data import CacheDataset, DataLoader, MetaTensor
from monai.transforms import Compose, Lambdad, RandGaussianNoised

from monai_fusenet.transforms import AugmentPaird, RandColorJitterd, adjust_brightness, blur, shift_hue


def draw(*shape):
    return np.random.default_rng(0).random(shape).astype(np.float32)


KINDS = {
    "numpy": lambda array: array,
    "tensor": torch.from_numpy,
    "MetaTensor": lambda array: MetaTensor(array, meta={"filename_or_obj": "a.png"}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(3, 11, 8), (1, 11, 8), (4, 7, 9), (1, 6, 7, 5), (3, 6, 7, 5)])
def test_leaves_the_image_untouched(kind, shape):
    array = draw(*shape)
    sample = {"image": KINDS[kind](array.copy()), "file": "a.png"}
    pair = AugmentPaird().set_random_state(seed=0)(sample)
    assert set(sample) == {"image", "file"}
    assert set(pair) == {"image", "augmented", "file"}
    assert type(pair["image"]) is type(pair["augmented"]) is type(sample["image"])
    np.testing.assert_array_equal(np.asarray(pair["image"]), array)
    assert pair["augmented"].shape == shape
    assert pair["augmented"].dtype == sample["image"].dtype
    assert not np.allclose(np.asarray(pair["augmented"]), array)
    assert not np.shares_memory(np.asarray(pair["augmented"]), np.asarray(pair["image"]))


def test_is_jitter_then_blur():
    image = draw(3, 11, 8).astype(np.float64)
    augment = AugmentPaird().set_random_state(seed=0)
    augmented = augment({"image": image})["augmented"]
    jitter, smooth = (part.transform for part in augment.transform.transforms)
    assert 0.1 <= smooth._sigma <= 5
    if jitter._hue_first:
        jittered = adjust_brightness(shift_hue(image, 0.06), 1.4)
    else:
        jittered = shift_hue(adjust_brightness(image, 1.4), 0.06)
    np.testing.assert_allclose(augmented, blur(jittered, (9, 5), smooth._sigma), atol=1e-9)


@pytest.mark.parametrize("second", ["a string", np.zeros((1, 2)), 7])
def test_a_second_view_is_kept_as_it_is(second):
    pair = AugmentPaird()({"image": draw(3, 5, 4), "augmented": second})
    assert pair["augmented"] is second


def test_keys_can_be_named():
    pair = AugmentPaird("t1", augmented_key="t2")({"t1": draw(1, 11, 8)})
    assert set(pair) == {"t1", "t2"}


def test_the_same_seed_gives_the_same_pair():
    sample = {"image": draw(3, 11, 8)}
    first = AugmentPaird().set_random_state(seed=5)(sample)["augmented"]
    np.testing.assert_array_equal(AugmentPaird().set_random_state(seed=5)(sample)["augmented"], first)
    assert not np.allclose(AugmentPaird().set_random_state(seed=6)(sample)["augmented"], first)


def test_each_call_draws_anew():
    augment, sample = AugmentPaird().set_random_state(seed=5), {"image": draw(3, 11, 8)}
    assert not np.allclose(augment(sample)["augmented"], augment(sample)["augmented"])


def test_does_not_touch_the_global_random_state():
    np.random.seed(0)
    expected = np.random.rand()
    np.random.seed(0)
    AugmentPaird().set_random_state(seed=5)({"image": draw(3, 11, 8)})
    assert np.random.rand() == expected


def test_compose_seeds_it():
    sample = {"image": draw(3, 11, 8)}
    pairs = []
    for seed in (1, 1, 2):
        pipeline = Compose([AugmentPaird(), RandGaussianNoised("image", prob=1.0)]).set_random_state(seed=seed)
        pairs.append(pipeline(sample))
    np.testing.assert_array_equal(pairs[0]["augmented"], pairs[1]["augmented"])
    assert not np.allclose(pairs[0]["augmented"], pairs[2]["augmented"])


def test_a_transform_of_the_users_own():
    own = AugmentPaird(transform=Lambdad("augmented", lambda view: 1 - view))
    pair = own.set_random_state(seed=0)({"image": draw(1, 5, 4)})
    np.testing.assert_allclose(pair["augmented"], 1 - pair["image"])
    drawn = [
        AugmentPaird(transform=RandColorJitterd("augmented", brightness=(0.5, 1))).set_random_state(seed=seed)(
            {"image": draw(1, 5, 4)}
        )["augmented"]
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.allclose(drawn[0], drawn[2])


def test_goes_through_a_cached_dataset_and_a_loader():
    samples = [{"image": torch.from_numpy(draw(3, 11, 8))} for _ in range(3)]
    dataset = CacheDataset(samples, AugmentPaird(), cache_rate=1.0, progress=False)
    first, second = DataLoader(dataset, batch_size=2), DataLoader(dataset, batch_size=2)
    shapes = [batch["augmented"].shape for batch in first]
    assert shapes == [(2, 3, 11, 8), (1, 3, 11, 8)]
    # Random transforms are not cached: each pass draws anew.
    assert not torch.allclose(next(iter(first))["augmented"], next(iter(second))["augmented"])


def test_a_sample_without_the_image():
    with pytest.raises(KeyError, match="image"):
        AugmentPaird()({"picture": draw(3, 5, 4)})


def test_more_than_one_image():
    with pytest.raises(ValueError, match=r"^keys must be one key, that of the image, got \('image', 'label'\)$"):
        AugmentPaird(["image", "label"])


@pytest.mark.parametrize("shape", [(2, 5, 4), (6, 5, 4, 3)])
def test_a_second_view_among_the_channels(shape):
    image = draw(*shape)
    half = shape[0] // 2
    sample = {"image": image, "file": "a.nii"}
    pair = AugmentPaird(second_view_channels=half)(sample)
    np.testing.assert_array_equal(pair["image"], image[:half])
    np.testing.assert_array_equal(pair["augmented"], image[half:])
    assert sample["image"] is image


def test_a_second_view_of_too_few_channels():
    message = "^an image whose last 2 channels are a second view must have 4, got 3$"
    with pytest.raises(ValueError, match=message):
        AugmentPaird(second_view_channels=2)({"image": draw(3, 5, 4)})


def test_a_batch_is_no_image():
    with pytest.raises(ValueError, match=r"^an image must have the shape .*, without a batch, got \(1, 3, 4, 5, 6\)$"):
        AugmentPaird()({"image": draw(1, 3, 4, 5, 6)})


def test_values_of_another_scale_are_told():
    with pytest.warns(UserWarning, match=r"^an image must have values in \[0, 1\], got "):
        AugmentPaird()({"image": 255 * draw(3, 5, 4)})
