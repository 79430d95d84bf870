"""The arithmetic of confidence, and what can be said without a training."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.networks.nets import BasicUNet, DynUNet, SegResNet
from monai.transforms import Identity

from monai_fusenet.distillation import CandidatePool, FolderPass, consensus, mean_pairwise_dice, select_confident
from monai_fusenet.distillation.lesson import lesson_of_network, lesson_of_teachers
from monai_fusenet.distillation.schooling import follow_cosine
from monai_fusenet.distillation.student import check_runs
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
    masks = [torch.tensor([[[1.0, 1, 0]], [[1, 0, 0]]]), torch.zeros(2, 1, 3)]
    lesson = lesson_of_teachers(masks)
    assert lesson.targets.tolist() == [[[1, 0.5, 0]], [[0, 0, 0]]]
    assert lesson.masks.tolist() == [[[True, False, False]], [[False] * 3]]
    assert lesson.confidences == [pytest.approx(2 / 3), None]


def test_what_a_rule_took_away_or_filled_is_certain():
    probabilities = torch.tensor([[[0.9, 0.8, 0.2, 0.1]]])
    masks = torch.tensor([[[True, False, True, False]]])  # the second taken away, the third filled
    lesson = lesson_of_network(probabilities, masks)
    assert lesson.targets.tolist() == [[pytest.approx([0.9, 0, 1, 0.1])]]
    assert torch.equal(lesson.masks, masks)
    assert lesson.confidences == [pytest.approx(2 * (0.9 + 1) / (2 + 0.9 + 1 + 0.1))]
    assert lesson_of_network(probabilities, torch.zeros_like(masks)).confidences == [None]  # there is nothing to learn


def test_a_candidate_that_the_network_means_teaches_in_its_place():
    probabilities = torch.tensor([[[0.9, 0.8, 0.2, 0.1]], [[0.9, 0.0, 0.0, 0.9]]])
    masks = probabilities > 0.5
    pools = [pool_of([[1, 1, 1, 0], [0, 0, 0, 1]]), pool_of([[0, 1, 1, 1]])]
    lesson = lesson_of_network(probabilities, masks, pools)
    # 2 (0.9 + 0.8 + 0.2) / (3 + 2) = 0.76 is enough; 2 * 0.9 / (3 + 1.8) = 0.375 is not
    assert lesson.confidences == [pytest.approx(0.76), pytest.approx(0.375)]
    assert lesson.targets.tolist() == [[[1, 1, 1, 0]], [pytest.approx([0.9, 0, 0, 0.9])]]
    assert lesson.masks.tolist() == [[[True, True, True, False]], [[True, False, False, True]]]


def pool_of(masks, objects=1):
    return CandidatePool([np.array(mask, dtype=bool) for mask in masks], objects)


def test_a_pool_gives_back_what_it_was_given():
    masks = np.random.default_rng(0).random((5, 3, 7)) > 0.5
    pool = CandidatePool([*masks, masks[0], np.zeros((3, 7), dtype=bool)], None)
    assert len(pool) == 5  # once each, and none that is empty
    assert np.array_equal(pool.masks, masks)


def test_so_many_objects_as_there_may_be_are_united():
    masks, wanted = [[1, 0, 0, 0], [0, 0, 1, 0], [1, 1, 1, 1]], torch.tensor([[1.0, 0, 1, 0]])
    union, agreement = pool_of(masks, 2).closest(wanted)
    assert (union.tolist(), agreement) == ([[True, False, True, False]], 1)
    union, agreement = pool_of(masks, 1).closest(wanted)
    assert (union.tolist(), agreement) == ([[True, False, False, False]], pytest.approx(2 / 3))
    union, agreement = pool_of(masks, 5).closest(torch.tensor([[1.0, 0, 0, 0]]))
    assert (union.tolist(), agreement) == ([[True, False, False, False]], 1)  # no object that adds nothing


def test_an_empty_pool():
    union, agreement = CandidatePool([], 1).closest(torch.ones(1, 2, 3))
    assert (union.tolist(), agreement) == ([[[False] * 3] * 2], 0)
    assert CandidatePool([], 1).masks.shape == (0,)


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
