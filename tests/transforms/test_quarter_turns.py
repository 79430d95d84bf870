import itertools

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from monai_fusenet.data import collate_views
from monai_fusenet.transforms import RandQuarterTurnViewd
from monai_fusenet.transforms.quarter_turns import turned

SIZES = [(5, 8), (7, 7), (11, 3), (3, 5, 4)]
SPATIAL = pytest.mark.parametrize("spatial", SIZES, ids=str)


def draw(spatial, channels=2):
    return torch.rand(channels, *spatial, generator=torch.Generator().manual_seed(0))


def views_of(image, count, **options):
    transform = RandQuarterTurnViewd(**options).set_random_state(0)
    return [transform({"image": image}) for _ in range(count)]


@SPATIAL
def test_every_pixel_is_that_of_its_correspondence(spatial):
    image = draw(spatial)
    for sample in views_of(image, 20):
        assert sample["image"] is image
        numbers = sample["correspondence"]
        assert numbers.shape == (1, *spatial)
        assert numbers.dtype == torch.int64
        inside = (numbers >= 0)[0]
        assert torch.equal(sample["augmented"][:, inside], image.flatten(1)[:, numbers[0][inside]])
        assert (sample["augmented"][:, ~inside] == 0).all()
        assert numbers[0][inside].unique().numel() == inside.sum()  # each once
        assert set(numbers[0][~inside].tolist()) <= {-1}


@pytest.mark.parametrize(("spatial", "count"), [((4, 4), 8), ((5, 3), 8), ((3, 3, 3), 48)])
def test_all_views_are_drawn_as_often(spatial, count):
    samples = views_of(draw(spatial), 60 * count)
    seen = [tuple(sample["correspondence"].flatten().tolist()) for sample in samples]
    often = [seen.count(one) for one in set(seen)]
    assert len(often) == count
    assert min(often) > 25
    assert tuple(range(len(seen[0]))) in seen


def test_a_quarter_turn_by_hand():
    image = torch.arange(6.0).view(1, 2, 3)
    # The image transposed is [[0, 3], [1, 4], [2, 5]]; its middle row lies over the first row of the grid.
    assert turned(image, (1, 0), (False, False)).tolist() == [[[0, 3, 0], [1, 4, 0]]]
    assert turned(image, (0, 1), (True, False), outside=-1).tolist() == [[[3, 4, 5], [0, 1, 2]]]
    square = torch.tensor([[[1, 2], [3, 4]]])
    assert turned(square, (1, 0), (False, True)).tolist() == [[[3, 1], [4, 2]]]  # clockwise


@pytest.mark.parametrize("spatial", [(6, 6), (4, 4, 4)])
def test_turns_of_equal_sides_lose_nothing(spatial):
    for sample in views_of(draw(spatial), 30):
        assert (sample["correspondence"] >= 0).all()


@SPATIAL
def test_arrays_tensors_and_metatensors(spatial):
    image = draw(spatial)
    kinds = (image, MetaTensor(image, meta={"filename_or_obj": "a"}), image.numpy())
    samples = [RandQuarterTurnViewd().set_random_state(3)({"image": one}) for one in kinds]
    for one, kind in zip(samples, (torch.Tensor, torch.Tensor, np.ndarray), strict=True):
        assert type(one["augmented"]) is type(one["correspondence"]) is kind
        for key in ("augmented", "correspondence"):
            np.testing.assert_array_equal(one[key], samples[0][key])


def test_draws_follow_the_random_state():
    one, other = (
        Compose([RandQuarterTurnViewd()]).set_random_state(7)({"image": draw((5, 8))})["correspondence"]
        for _ in range(2)
    )
    assert torch.equal(one, other)
    seeds = {tuple(views_of(draw((4, 4)), 4)[n]["correspondence"].flatten().tolist()) for n in range(4)}
    assert len(seeds) > 1


def test_views_that_are_never_turned_are_the_image():
    for sample in views_of(draw((5, 8)), 5, prob=0):
        assert torch.equal(sample["augmented"], sample["image"])
        assert sample["augmented"] is not sample["image"]
        assert sample["correspondence"].flatten().tolist() == list(range(40))


@pytest.mark.parametrize("keys", [{"augmented_key": "image"}, {"correspondence_key": "augmented"}])
def test_keys_that_are_the_same(keys):
    with pytest.raises(ValueError, match=r"^keys, augmented_key and correspondence_key must differ, got image, "):
        RandQuarterTurnViewd(**keys)


def test_what_cannot_be_turned():
    with pytest.raises(ValueError, match=r"^keys must be one key, that of the image, got \('image', 'label'\)$"):
        RandQuarterTurnViewd(["image", "label"])
    with pytest.raises(ValueError, match=r"^the sample has a second view already, under augmented$"):
        RandQuarterTurnViewd()({"image": draw((5, 8)), "augmented": draw((5, 8))})
    with pytest.raises(
        ValueError, match=r"^the image must have the shape \(C, \*spatial\) in 2-D or 3-D, got \(2, 3\)$"
    ):
        RandQuarterTurnViewd()({"image": torch.zeros(2, 3)})
    with pytest.raises(KeyError):
        RandQuarterTurnViewd()({})


# In a batch.


@pytest.mark.parametrize("sizes", [((5, 8), (7, 3)), ((4, 4), (5, 4)), ((3, 5, 4), (4, 2, 7)), ((5, 8), (5, 8))])
@pytest.mark.parametrize("kind", ["tensor", "array"])
def test_padded_images_of_a_batch_keep_their_correspondence(sizes, kind):
    samples = [views_of(1 + draw(spatial), 5)[-1] for spatial in sizes]
    if kind == "array":
        samples = [{key: value.numpy() for key, value in sample.items()} for sample in samples]
    batch = collate_views(samples)
    largest = [max(sides) for sides in zip(*sizes, strict=True)]
    assert batch["image"].shape == (2, 2, *largest)
    assert batch["correspondence"].shape == (2, 1, *largest)
    for index, sample in enumerate(samples):
        numbers = batch["correspondence"][index, 0]
        inside = numbers >= 0
        assert inside.sum() == (torch.as_tensor(sample["correspondence"]) >= 0).sum()
        pixels = batch["image"][index].flatten(1)[:, numbers[inside]]
        assert torch.equal(batch["augmented"][index][:, inside], pixels)


def test_padding_repeats_edges():
    batch = collate_views([{"image": torch.ones(1, 1, 3)}, {"image": torch.arange(6.0).view(1, 2, 3)}])
    assert batch["image"][0].tolist() == [[[1, 1, 1], [1, 1, 1]]]


def test_padded_numbers_by_hand():
    small = {"image": torch.zeros(1, 1, 2), "correspondence": torch.tensor([[[1, -1]]])}
    large = {"image": torch.zeros(1, 2, 4), "correspondence": torch.arange(8).view(1, 2, 4)}
    # The small grid comes to lie over the middle of the first row of the large one.
    assert collate_views([small, large])["correspondence"][0, 0].tolist() == [[-1, 2, -1, -1], [-1] * 4]


@pytest.mark.parametrize("spatial", [(4, 3), (2, 3, 4)])
def test_turns_are_all_there_are(spatial):
    """Each permutation and mirror image, against NumPy's."""
    image = draw((4,) * len(spatial), channels=1)
    for axes in itertools.permutations(range(len(spatial))):
        for flips in itertools.product([False, True], repeat=len(spatial)):
            expected = np.flip(image[0].numpy().transpose(axes), [n for n, flip in enumerate(flips) if flip])
            np.testing.assert_array_equal(turned(image, axes, flips)[0], expected)
