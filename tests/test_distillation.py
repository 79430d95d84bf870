"""The arithmetic of confidence, and what can be said without a training."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.networks.nets import BasicUNet, DynUNet, SegResNet
from monai.transforms import Identity

from monai_fusenet.distillation import FolderPass, consensus, mean_pairwise_dice, select_confident
from monai_fusenet.distillation.lesson import lesson_of_network, lesson_of_teachers
from monai_fusenet.distillation.student import check_runs, follow_cosine
from monai_fusenet.distillation.teacher import check_seeds
from monai_fusenet.inferers import PerImageInferer
from monai_fusenet.transforms import KMeansClustersd


@pytest.mark.parametrize("shape", [(1, 4), (1, 2, 2)])
def test_agreement_by_hand(shape):
    masks = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]]).reshape(3, *shape)
    # 2/3 of the first two, 4/6 of the first and the last, 2/5 of the others.
    assert mean_pairwise_dice(masks) == pytest.approx((2 / 3 + 4 / 6 + 2 / 5) / 3)
    assert mean_pairwise_dice(masks[:2]) == pytest.approx(2 / 3)
    assert mean_pairwise_dice(masks[[0, 0]]) == mean_pairwise_dice(masks[:1]) == 1


def test_agreement_with_an_empty_mask():
    masks = torch.tensor([[1, 1], [0, 0]])
    assert mean_pairwise_dice(masks) == 0
    assert mean_pairwise_dice(masks[[1, 1]]) == 1


def test_consensus_is_the_mean_of_masks_that_are_not_empty():
    masks = torch.tensor([[1.0, 1, 0], [1, 0, 0], [0, 0, 0]])
    assert consensus(masks).tolist() == [1, 0.5, 0]
    assert consensus(masks[2:]).tolist() == [0, 0, 0]


def test_the_sure_ones_teach():
    confidences = [0.9, None, 0.8, 0.7, 0.95, 0.81, 0.99]
    assert select_confident(confidences, 0.8) == [0, 2, 4, 5, 6]


def test_where_few_are_sure_the_surest_teach():
    assert select_confident([0.1, 0.9, None, 0.2, 0.3, 0.4, 0.5], 0.8) == [1, 3, 4, 5, 6]  # five
    many = [index / 100 for index in range(30)]
    assert select_confident(many, 0.8) == list(range(20, 30))  # a third
    assert select_confident([0.1, None], 0.8) == [0]  # all there is
    assert select_confident([None, None], 0.8) == []


def test_teachers_teach_their_mean_as_sure_as_they_agree():
    masks = [torch.tensor([[1.0, 1, 0], [1, 0, 0]]), torch.zeros(2, 3)]
    lesson = lesson_of_teachers(masks)
    assert lesson.targets.tolist() == [[[1, 0.5, 0]], [[0, 0, 0]]]
    assert lesson.masks.tolist() == [[[True, False, False]], [[False] * 3]]
    assert lesson.confidences == [pytest.approx(2 / 3), None]


def test_what_a_rule_took_away_or_filled_is_certain():
    probabilities = torch.tensor([[[0.9, 0.8, 0.2, 0.1]]])
    masks = torch.tensor([[[True, False, True, False]]])  # the second taken away, the third filled
    before = torch.tensor([[[True, True, True, False]]])
    lesson, agreements = lesson_of_network(probabilities, masks, before)
    assert lesson.targets.tolist() == [[pytest.approx([0.9, 0, 1, 0.1])]]
    assert agreements == lesson.confidences == [pytest.approx(4 / 5)]
    lesson, agreements = lesson_of_network(probabilities, torch.zeros_like(masks), torch.zeros_like(masks))
    assert (lesson.confidences, agreements) == ([None], [1])  # there is nothing to learn


def test_another_seed_changes_nothing_else():
    inferer = PerImageInferer(seed=3)
    parts = (lambda item: item, torch.nn.Identity(), inferer, Identity(), torch.device("cpu"), {"steps": 2})
    first = FolderPass(Path("out"), *parts, num_workers=1)
    other = first.with_seed(5)
    assert (other.inferer.seed, inferer.seed) == (5, 3)
    assert (other.output_dir, other.settings) == (Path("out/seed_5"), {"steps": 2, "seed": 5})
    assert replace(other, output_dir=first.output_dir, inferer=inferer, settings=first.settings) == first


def loaded(pixels):
    return MetaTensor(pixels, meta={"loaded_affine": torch.eye(4), "spatial_shape": list(pixels.shape[1:])})


@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 5, 7), (1, 4, 5, 6), (4, 5, 7)])
def test_the_classical_teacher_tells_dark_from_bright(shape):
    pixels = torch.ones(shape)
    pixels[:, 1:3, 2:4] = 0
    clusters = KMeansClustersd()({"original": loaded(pixels)})["clusters"]
    assert clusters.shape == (1, *shape[1:])
    assert torch.equal(clusters.as_tensor(), (pixels[:1] == 0).to(torch.uint8) + 1)


@pytest.mark.parametrize("dims", [2, 3])
def test_networks_of_monai_run(dims):
    size = [32] * dims
    check_runs(BasicUNet(dims, 3, 1, features=(4, 4, 4, 4, 4, 4)), 3, size)
    check_runs(SegResNet(dims, init_filters=8, in_channels=3, out_channels=1), 3, size)
    check_runs(DynUNet(dims, 3, 1, [3, 3, 3], [1, 2, 2], [2, 2], filters=[4, 4, 4]), 3, size)


def test_a_network_that_does_not_fit():
    network = BasicUNet(2, 3, 2, features=(4, 4, 4, 4, 4, 4))
    with pytest.raises(ValueError, match=r"^student_def must put out one channel .* got \(2, 2, 32, 32\)$"):
        check_runs(network, 3, [32, 32])
    with pytest.raises(ValueError, match=r"^student_def does not run at student_size \[16, 16\]: Expected more than 1"):
        check_runs(network, 3, [16, 16])


def test_looking_at_a_network_changes_nothing():
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.BatchNorm2d(1), torch.nn.Dropout())
    before, state = torch.get_rng_state(), {name: value.clone() for name, value in network.state_dict().items()}
    check_runs(network, 1, [3, 4])
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("seeds", [None, [0, 0], 0, "01"])
def test_seeds_that_are_no_list(seeds):
    with pytest.raises(ValueError, match=r"^teacher_seeds must be a list of different whole numbers, as \[0,1\], got"):
        check_seeds(seeds)


def test_a_seed_that_is_no_number():
    with pytest.raises(ValueError, match=r"^each of teacher_seeds must be a whole number of at least 0, got -1$"):
        check_seeds([0, -1])


def test_the_rate_falls_along_a_cosine():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)
    rates = []

    def note(engine, batch):
        follow_cosine(engine, optimizer, 2.0)
        rates.append(optimizer.param_groups[0]["lr"])

    Engine(note).run([0, 1], max_epochs=2)
    assert rates == pytest.approx([1 + math.cos(math.pi * step / 4) for step in range(4)])
