"""The arithmetic of confidence, and what can be said without a training."""

import json
import math
import os
import subprocess
import sys
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
from monai_fusenet.distillation.candidates import PoolMaker
from monai_fusenet.distillation.folds import Folds, confidence_power, dice_of, expect, split, sureness
from monai_fusenet.distillation.known import without_vanished
from monai_fusenet.distillation.lesson import KnownFolder, lesson_of_teachers, mix
from monai_fusenet.distillation.ranker import Ranker, cross_votes
from monai_fusenet.distillation.regions import RegionDescriber
from monai_fusenet.distillation.schooling import follow_cosine
from monai_fusenet.distillation.student import check_runs
from monai_fusenet.distillation.teacher import check_seeds
from monai_fusenet.inferers import PerImageInferer
from monai_fusenet.transforms import ClustersToMaskd, KMeansClustersd, MaskConfidenced


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
    assert select_confident(many, 0.8) == list(range(9, 30))  # seven tenths
    assert select_confident([0.1, None], 0.8) == [0]  # all there is
    assert select_confident([None, None], 0.8) == []


def test_teachers_teach_their_mean_as_sure_as_they_agree():
    masks = [torch.tensor([[[1.0, 1, 0]], [[1, 0, 0]]]), torch.zeros(2, 1, 3)]
    lesson = lesson_of_teachers(masks)
    assert lesson.targets.tolist() == [[[1, 0.5, 0]], [[0, 0, 0]]]
    assert lesson.confidences == [pytest.approx(2 / 3), None]


def test_two_opinions_are_as_sure_as_they_agree():
    first, second = torch.tensor([[[0.75, 0.0]], [[0.5, 0.0]]]), torch.tensor([[[1.0, 0.25]], [[0.0, 0.25]]])
    lesson = mix(first, second, share=0.25)
    assert lesson.targets.tolist() == [[[0.9375, 0.1875]], [[0.125, 0.1875]]]
    assert lesson.confidences == [2 * 0.75 / 2, None]  # 2 (min + min) / (0.75 + 1.25), and nothing to learn


def test_background_is_no_opinion_on_the_foreground():
    classes = torch.tensor([[[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]])  # background, and two classes
    assert mix(classes, classes).confidences == [1]
    assert mix(classes, classes.flip(1)).confidences == [pytest.approx(2 * 1 / (1 + 2))]


def pool_of(masks):
    image = np.random.default_rng(0).random((1, *np.shape(masks)[1:])).astype(np.float32)
    return CandidatePool([np.array(mask, dtype=bool) for mask in masks], image)


@pytest.mark.parametrize("shape", [(5, 7), (4, 6, 3)])
def test_a_pool_gives_back_what_it_was_given(shape):
    masks = np.random.default_rng(0).random((5, *shape)) > 0.5
    pool = pool_of([*masks, masks[0], np.zeros(shape, dtype=bool)])
    assert len(pool) == len(pool.features) == 5  # once each, and none that is empty
    assert np.array_equal(pool.masks.reshape(5, *shape), masks)
    assert np.isfinite(pool.features).all()


def test_a_region_by_hand():
    image = np.zeros((2, 8, 10), dtype=np.float32)
    image[0, 2:6, 4:8] = 1
    mask = image[0] > 0
    values = RegionDescriber(image)(mask)
    # side, centre (rows from 2 to 5 of 8: the middle; columns from 4 to 7 of 10), its distance, box, border, extent,
    # solidity, roundness, outline
    expected = [0.2**0.5, 0, 0.2, 0.2, 0.25, 0.4, 0.75, 0.8, 0, 1, 1, 1, 12 / 4]
    assert values[:13].tolist() == pytest.approx(expected, abs=1e-6)
    assert values[13:16].tolist() == [1, 0, 0.5]  # both channels, and the grey value
    assert values[20:23].tolist() == [1, 0, 0.5]  # less what lies around it, which is nothing


@pytest.mark.parametrize("shape", [(1, 1), (3, 9), (2, 3, 4)])
def test_any_region_has_finite_features(shape):
    describe = RegionDescriber(np.random.default_rng(1).random((3, *shape)).astype(np.float32))
    lengths = set()
    for mask in (np.ones(shape, dtype=bool), np.arange(np.prod(shape)).reshape(shape) == 0):
        values = describe(mask)
        lengths.add(len(values))
        assert np.isfinite(values).all()
    assert len(lengths) == 1


def drawn(seed, objects=1):
    """An image of dark noise with discs that are bright, and bright bars at its border; and where the discs are."""
    rng = np.random.default_rng(seed)
    image = rng.normal(0.2, 0.03, (48, 56)).clip(0, 1)
    rows, columns = np.mgrid[:48, :56]
    disc = np.zeros((48, 56), dtype=bool)
    for number in range(objects):
        row, column = (
            rng.uniform(18, 30),
            (rng.uniform(20, 36), rng.uniform(12, 18), rng.uniform(38, 44))[0 if objects == 1 else number + 1],
        )
        disc |= (rows - row) ** 2 + (columns - column) ** 2 < rng.uniform(5, 8) ** 2
    bar = rows < rng.integers(4, 8)
    image[disc | bar] += 0.6
    return torch.from_numpy(image[None].astype(np.float32)), disc, bar


@pytest.mark.parametrize("objects", [1, 2])
def test_a_ranker_tells_what_two_masks_show(objects):
    maker = PoolMaker(ClustersToMaskd("clusters", objects=objects, border_weight=0, centre_weight=0, min_fraction=0.01))
    images = [drawn(seed, objects) for seed in range(6)]
    pools = [maker(image) for image, _, _ in images]
    targets = [torch.from_numpy(disc[None].astype(np.float32)) for _, disc, _ in images]
    ranker = Ranker(objects).fit(zip(pools[:2], targets[:2], strict=True))
    for pool, (_, disc, bar) in zip(pools[2:], images[2:], strict=True):
        vote = ranker.vote(pool, (48, 56))
        found = vote.probability[0].numpy() > 0.5
        assert vote.probability.shape == (1, 48, 56)
        assert 2 * (found & disc).sum() / (found.sum() + disc.sum()) > 0.9
        assert not (found & bar).any()
        assert 0.7 < vote.confidence <= 1
    assert ranker.vote(CandidatePool([], np.zeros((1, 4, 4))), (5, 7)).probability.tolist() == [[[0] * 7] * 5]
    nothing = Ranker(objects).fit([]).vote(pools[0], (48, 56))
    assert (float(nothing.probability.sum()), nothing.confidence) == (0, 0)


def test_no_image_is_ranked_by_itself(monkeypatch):
    """Each image is told by those of other folds."""
    maker = PoolMaker(ClustersToMaskd("clusters", objects=1))
    pools = [maker(drawn(seed)[0]) for seed in range(7)]
    learnt, asked = {}, []

    def fit(self, examples):
        learnt[self] = {id(pool) for pool, _ in examples}
        return self

    def vote(self, pool, size):
        asked.append((self, id(pool)))

    monkeypatch.setattr(Ranker, "fit", fit)
    monkeypatch.setattr(Ranker, "vote", vote)
    cross_votes(pools, {place: torch.zeros(1, 48, 56) for place in (0, 1, 2, 5)}, 1, (48, 56))
    assert [pool for _, pool in asked] == list(map(id, pools))
    assert len(learnt) == 4
    assert all(pool not in learnt[ranker] and len(learnt[ranker]) == 3 for ranker, pool in asked)


def test_who_is_left_out_in_turn():
    assert split([4, 2, 9]) == [[2], [4], [9]]
    assert split(range(8)) == [[0, 3, 6], [1, 4, 7], [2, 5]]
    assert split([3]) == []


def test_the_dice_of_classes_is_their_mean():
    target = torch.tensor([[[1.0, 0, 0, 0]], [[0, 1, 1, 0]], [[0, 0, 0, 1]]])
    said = torch.tensor([[[0.9, 0.1, 0, 0]], [[0.1, 0.9, 0, 0]], [[0, 0, 0, 1]]])
    assert dice_of(said, target) == pytest.approx((2 / 3 + 1) / 2)
    assert dice_of(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2)) == 1


def test_what_is_expected_lies_between_what_was_held_out_and_agreement():
    found = expect({"a": 0.6, "b": 0.8}, [0.9, 1.0])
    assert (found.dice, found.spread) == (pytest.approx((0.7 * 0.95) ** 0.5), pytest.approx(0.02**0.5))
    assert expect({"a": 0.6}, []) == (pytest.approx(0.6), 0, {"a": 0.6})
    assert expect({"a": 0.0, "b": 0.0}, [1.0]).dice == 0  # agreement on what no accepted mask shows


def test_how_sure_a_network_is_of_its_own_masks():
    mask, said = torch.tensor([[True, True, False]]), torch.tensor([[0.9, 0.7, 0.1]])
    assert sureness(mask, said) == pytest.approx(2 * 1.6 / (2 + 1.7))
    assert sureness(mask & False, said) == 0
    classes = torch.tensor([[0.2, 0.3, 0.9], [0.7, 0.3, 0.05], [0.1, 0.4, 0.05]])
    winners = torch.tensor([[False, False, True], [True, False, False], [False, True, False]])
    assert sureness(winners, classes) == pytest.approx(2 * 1.5 / (2 + 1.6))  # of the foreground, whatever class it is
    sample = {"pred": torch.tensor([[1, 2, 0]]), "probability": classes}
    assert MaskConfidenced("pred")(sample)["confidence"] == pytest.approx(sureness(winners, classes))


def test_confidence_becomes_what_is_expected_on_average():
    sure = [0.99, 0.9, 0.95]
    for expected in (0.98, 0.9, 0.6):
        power = confidence_power(sure, expected)
        assert np.mean(np.array(sure) ** power) == pytest.approx(expected, abs=1e-3)
    assert confidence_power([0.9, 0.9], 0.81) == pytest.approx(2, abs=1e-3)
    assert confidence_power([0.9, 0.9], 0.0) == 20
    assert confidence_power([0.9, 0.9], 1.0) == 0.1
    assert confidence_power([1.0, 1.0], 0.9) == 20  # no power changes it


class Halved:
    @staticmethod
    def decide(probabilities):
        return probabilities > 0.5


def test_the_better_an_opinion_is_on_held_out_masks_the_more_say_it_has():
    mask = torch.tensor([[[1.0, 1, 0, 0]]])
    folder = KnownFolder([], [], [], {3: mask, 5: mask}, 1)
    half, nothing = torch.tensor([[[1.0, 0, 0, 0]]]), torch.zeros(1, 1, 4)
    shares = Folds(Halved, 1, {})._shares([{3: mask, 5: half}, {3: nothing, 5: nothing}, {}], folder)
    weights = [math.exp((1 + 2 / 3) / 2 / 0.2), math.exp(0), math.exp(0.5 / 0.2)]  # of the last, nothing is known
    assert shares == pytest.approx([weight / sum(weights) for weight in weights])


def test_the_guess_of_a_folder_is_that_of_the_rule_on_its_own_grid():
    image = torch.full((1, 200, 150), 0.8)
    image[:, 60:120, 50:100] = 0.2
    guess = PoolMaker(ClustersToMaskd("clusters", objects=1, polarity="dark", partitions=[2, 3])).guess(image)
    assert guess.shape == image.shape
    assert guess.dtype == torch.float32
    assert (guess[0] != (image[0] < 0.5)).float().mean() < 0.02


def test_candidates_come_in_one_order_whatever_words_hash_to():
    code = """
import hashlib, numpy as np, torch
from monai_fusenet.distillation import PoolMaker
from monai_fusenet.transforms import ClustersToMaskd
image = torch.from_numpy(np.random.default_rng(0).random((1, 24, 26)).astype(np.float32))
image[:, 6:15, 8:19] *= 0.3
maker = PoolMaker(ClustersToMaskd("clusters", objects=1, polarity="dark", convex=True, growth=0.05), means=(2, 3))
print(hashlib.sha256(maker(image).masks.tobytes()).hexdigest())
"""
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in (0, 1, 3)
    }
    assert len(told) == 1
    assert len(told.pop().strip()) == 64


def test_accepted_objects_that_vanish_teach_nothing(caplog):
    targets = {2: torch.full((1, 3, 4), 0.3), 5: torch.eye(4)[None], 6: torch.zeros(1, 4, 4)}
    assert list(without_vanished(targets, list("abcdefg"))) == [5, 6]  # that there is nothing can be taught
    assert caplog.messages == [
        "1 accepted masks are not used, as their objects are smaller than a pixel at student_size (a larger one keeps "
        "them): c"
    ]


def test_an_expectation_on_disk(tmp_path):
    expect({"scan\u00e4": 0.61234}, []).write(tmp_path / "expectation.json")
    told = json.loads((tmp_path / "expectation.json").read_text("utf-8"))
    assert told == {"expected_dice": 0.6123, "spread": 0.0, "held_out": {"scan\u00e4": 0.6123}}


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
    with pytest.raises(ValueError, match=r"^student_def must put out one channel .* got \(1, 2, 32, 32\)$"):
        check_runs(network, 3, [32, 32])
    told = r"^student_def must put out 3 channels of the size of its input, \(1, 3, 32, 32\), got \(1, 2, 32, 32\)$"
    with pytest.raises(ValueError, match=told):
        check_runs(network, 3, [32, 32], channels=3)
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
        follow_cosine(engine, optimizer, 2.0, steps=4)
        rates.append(optimizer.param_groups[0]["lr"])

    Engine(note).run([0, 1], max_epochs=3)
    assert rates == pytest.approx([1 + math.cos(math.pi * step / 4) for step in (0, 1, 2, 3, 0, 1)])
