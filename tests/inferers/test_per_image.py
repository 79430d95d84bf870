import copy
import logging
import random
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, CopyItemsd, Lambdad
from torch import nn

from monai_fusenet.inferers import FitRecord, PerImageInferer, content_seed, per_image
from monai_fusenet.inferers.fit import LOOK_EVERY
from monai_fusenet.losses import FeatureClusteringLoss, FuseNetLoss
from monai_fusenet.networks import FuseNet
from monai_fusenet.transforms import AugmentPaird
from monai_fusenet.utils.scores import guided_upsampling, merge_twin_scores

SIZES = [(24, 17), (7, 5, 6)]


def draw_network(spatial_dims=2, seed=0, **options):
    torch.manual_seed(seed)
    return FuseNet(spatial_dims, features=4, patch_grid=3, **options)


def draw_images(spatial=(24, 17), batch_size=1, dtype=torch.float32):
    """A bright box on a dark, noisy ground, somewhere else in each image."""
    generator = torch.Generator().manual_seed(0)
    images = 0.3 * torch.rand(batch_size, 3, *spatial, generator=generator)
    for index, image in enumerate(images):
        image[(slice(None), *(slice(1 + index, side // 2 + index) for side in spatial))] += 0.6
    return images.to(dtype)


def by_hand(image, network, steps, seed=0, lr=0.005, min_clusters=3, final_dropout=False):
    """The published procedure for one image (1, C, *spatial), in a loop: scores, steps and the second view."""
    seed = content_seed(image[0], seed)
    torch.manual_seed(seed)
    for module in network.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    augmented = AugmentPaird().set_random_state(seed=seed)({"image": image[0]})["augmented"].unsqueeze(0)
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9)
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        output = network(image, augmented)
        FuseNetLoss()(output).backward()
        optimizer.step()
        if step >= 6 and len(output.scores.argmax(dim=1).unique()) <= min_clusters:
            break
    for module in network.modules():
        if isinstance(module, nn.Dropout) and not final_dropout:
            module.eval()
    with torch.no_grad():
        return network(image, augmented).scores, step, augmented[0]


@pytest.mark.parametrize("spatial", SIZES)
@pytest.mark.parametrize("final_dropout", [False, True])
def test_equals_a_hand_written_loop(spatial, final_dropout):
    image = draw_images(spatial)
    inferer = PerImageInferer(steps=7, final_dropout=final_dropout, min_clusters=0)
    scores = inferer(image, draw_network(len(spatial), dropout=0.5))
    expected, _, augmented = by_hand(
        image, draw_network(len(spatial), seed=9, dropout=0.5), 7, min_clusters=0, final_dropout=final_dropout
    )
    assert torch.equal(scores, expected)
    torch.testing.assert_close(inferer.record[0].augmented, augmented, rtol=0, atol=0)


def test_a_hand_written_loop_ends_at_few_clusters_too():
    image, network = draw_images(), draw_network()
    # At this learning rate the clusters of eight soon become few.
    inferer = PerImageInferer(steps=30, lr=0.1, min_clusters=6, max_refits=0)
    scores = inferer(image, network)
    expected, steps, _ = by_hand(image, network, 30, lr=0.1, min_clusters=6)
    assert 6 <= steps < 30
    assert inferer.record[0].steps == steps
    assert torch.equal(scores, expected)


@pytest.mark.parametrize("every", [2, 5, 40])
def test_looking_every_few_steps_changes_nothing(every, monkeypatch):
    options = {"steps": 30, "resolutions": (12, 24), "lr": 0.1, "min_clusters": 6, "final_dropout": True}
    inferer, image = PerImageInferer(**options), draw_images()
    expected = inferer(image, draw_network(dropout=0.5))
    steps = inferer.record[0].steps
    assert 6 < steps < 30
    monkeypatch.setitem(LOOK_EVERY, "cpu", every)
    assert torch.equal(inferer(image, draw_network(dropout=0.5)), expected)
    assert inferer.record[0].steps == steps


@pytest.mark.parametrize("min_clusters", [1, 8])
def test_never_ends_before_the_sixth_step(min_clusters):
    inferer = PerImageInferer(steps=8, min_clusters=min_clusters)
    inferer(draw_images(), draw_network())
    assert inferer.record[0].steps == (6 if min_clusters == 8 else 8)


def test_fresh_weights_are_those_of_a_network_built_under_the_seed():
    image = draw_images()
    torch.manual_seed(content_seed(image[0]))
    built = FuseNet(features=4, patch_grid=3, dropout=0.0).train()
    scores = PerImageInferer(steps=1, lr=0.0)(image, draw_network(dropout=0.0))
    augmented = AugmentPaird().set_random_state(seed=content_seed(image[0]))({"image": image[0]})["augmented"]
    with torch.no_grad():
        assert torch.equal(scores, built(image, augmented.unsqueeze(0)).scores)


# What the caller owns stays as it was.


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_the_network_stays_as_it_was(steps, fresh, training):
    network = draw_network().train(training)
    network.image_head.train(not training)
    network.encoder.conv.weight.requires_grad_(False)
    before = copy.deepcopy(network)
    PerImageInferer(steps=steps, fresh=fresh)(draw_images(batch_size=2), network)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before.state_dict()[name]), name
    assert [m.training for m in network.modules()] == [m.training for m in before.modules()]
    assert [p.requires_grad for p in network.parameters()] == [p.requires_grad for p in before.parameters()]
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_and_frozen_weights_of_the_network_do_not_matter(training):
    image = draw_images()
    expected = PerImageInferer(steps=2)(image, draw_network())
    network = draw_network().requires_grad_(False).train(training)
    assert torch.equal(PerImageInferer(steps=2)(image, network), expected)


@pytest.mark.parametrize("steps", [0, 2])
def test_the_global_random_state_stays_as_it_was(steps):
    def draw():
        return torch.rand(1).item(), np.random.rand(), random.random()

    def seed():
        torch.manual_seed(1)
        np.random.seed(2)
        random.seed(3)

    image, network = draw_images(batch_size=2), draw_network()
    seed()
    expected = draw()
    seed()
    PerImageInferer(steps=steps)(image, network)
    assert draw() == expected


def test_the_global_random_state_stays_when_a_fit_fails():
    image, network = draw_images(), draw_network()
    torch.manual_seed(1)
    expected = torch.rand(1).item()
    torch.manual_seed(1)
    with pytest.raises(ValueError, match="diverged"):
        PerImageInferer(steps=6, lr=1e30)(image, network)
    assert torch.rand(1).item() == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_fit_on_the_cpu_leaves_the_random_state_of_the_gpu():
    image, network = draw_images(), draw_network()  # which seeds all generators
    before = torch.cuda.get_rng_state()
    PerImageInferer(steps=1)(image, network)
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_the_augmentation_stays_as_it_was():
    sample = {"image": draw_images()[0]}
    expected = AugmentPaird().set_random_state(seed=4)(sample)["augmented"]
    augmentation = AugmentPaird().set_random_state(seed=4)
    PerImageInferer(steps=1, augmentation=augmentation)(draw_images(), draw_network())
    assert torch.equal(augmentation(sample)["augmented"], expected)


def test_the_image_stays_as_it_was():
    image = draw_images()
    before = image.clone()
    PerImageInferer(steps=2)(image, draw_network())
    assert torch.equal(image, before)


# How it is called.


def test_works_without_gradients():
    image, network = draw_images(), draw_network()
    expected = PerImageInferer(steps=2)(image, network)
    with torch.no_grad():
        scores = PerImageInferer(steps=2)(image, network.eval())
        assert not torch.is_grad_enabled()
    assert torch.equal(scores, expected)
    assert not expected.requires_grad


def test_inference_mode():
    with torch.inference_mode():
        with pytest.raises(RuntimeError) as error:
            PerImageInferer(steps=1)(draw_images(), draw_network())
        scores = PerImageInferer(steps=0)(draw_images(), draw_network())
    assert scores.shape == (1, 8, 24, 17)
    assert str(error.value) == (
        "PerImageInferer fits a network and needs gradients, which torch.inference_mode() forbids: "
        "use torch.no_grad(), or steps=0 for plain feed-forward"
    )


def test_what_cannot_be_fitted_says_so():
    network = torch.jit.trace(nn.Conv2d(1, 8, 1), draw_images()[:, :1])
    for given in (network, lambda image: image):
        name = type(given).__name__
        with pytest.raises(ValueError, match=f"^PerImageInferer fits a network to each image .*, got {name}: Torch"):
            PerImageInferer(steps=1)(draw_images()[:, :1], given)
    assert PerImageInferer(steps=0)(draw_images()[:, :1], network).shape == (1, 8, 24, 17)


def test_a_network_of_another_number_of_views_says_so():
    with pytest.raises(ValueError, match=r"^Conv2d does not take the 2 views") as told:
        PerImageInferer(steps=1)(draw_images(), nn.Conv2d(3, 8, 1))
    assert str(told.value) == (
        "Conv2d does not take the 2 views that the augmentation makes of an image, image and augmented; "
        "augmentation=dict makes only one"
    )
    one_view = PerImageInferer(steps=1, augmentation=dict, loss_function=FeatureClusteringLoss())
    assert one_view(draw_images(), nn.Conv2d(3, 8, 1)).shape == (1, 8, 24, 17)


@pytest.mark.parametrize("spatial", SIZES)
def test_values_of_another_scale_are_told(spatial):
    image = 2000 * draw_images(spatial) - 1000
    inferer = PerImageInferer(steps=1, augmentation=lambda sample: {**sample, "augmented": sample["image"]})
    with pytest.warns(UserWarning, match=r"^an image must have values in \[0, 1\], got -9.* to .*: scale it"):
        inferer(image, draw_network(len(spatial)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inferer(1.2 * draw_images(spatial) - 0.1, draw_network(len(spatial)))  # filters overshoot a little


def test_a_record_is_printed_in_a_line():
    inferer = PerImageInferer(steps=1)
    inferer(draw_images(), draw_network())
    assert "tensor" not in repr(inferer.record[0])


@pytest.mark.parametrize("fresh", [True, False])
def test_the_same_image_gives_the_same_scores_in_any_company(fresh):
    images, network = draw_images(batch_size=3), draw_network()
    inferer = PerImageInferer(steps=3, fresh=fresh)
    together = inferer(images, network)
    alone = torch.cat([inferer(images[index : index + 1], network) for index in (2, 1, 0)])
    assert torch.equal(together, alone.flip(0))
    assert torch.equal(PerImageInferer(steps=3, fresh=fresh)(images[1:2], network), together[1:2])
    assert not torch.equal(together[0], together[1])


def test_another_seed_gives_other_scores():
    image, network = draw_images(), draw_network()
    views, scores = [], []
    for seed in (0, 1):
        inferer = PerImageInferer(steps=2, seed=seed)
        scores.append(inferer(image, network))
        views.append(inferer.record[0].augmented)
    assert not torch.allclose(*scores, atol=1e-2)
    assert not torch.allclose(*views, atol=1e-3)


@pytest.mark.parametrize("spatial", SIZES)
def test_no_steps_are_plain_feed_forward(spatial):
    images, network = draw_images(spatial, batch_size=2), draw_network(len(spatial))
    network(images, images)  # running statistics
    inferer = PerImageInferer(steps=0)
    scores = inferer(images, network)
    with torch.no_grad():
        torch.testing.assert_close(scores, network.eval()(images))
    assert [(fit.steps, fit.augmented) for fit in inferer.record] == [(0, None), (0, None)]


def test_not_fresh_starts_from_the_given_weights():
    image, network = draw_images(), draw_network(dropout=0.0)
    inferer = PerImageInferer(steps=3, fresh=False, lr=0.0)
    scores = inferer(image, network)
    with torch.no_grad():
        expected = network.train()(image, inferer.record[0].augmented.unsqueeze(0)).scores
    torch.testing.assert_close(scores, expected, rtol=0, atol=0)


def test_fresh_does_not_depend_on_the_given_weights():
    image = draw_images()
    scores = [PerImageInferer(steps=2)(image, draw_network(seed=seed)) for seed in (0, 1)]
    assert torch.equal(*scores)
    scores = [PerImageInferer(steps=2, fresh=False)(image, draw_network(seed=seed)) for seed in (0, 1)]
    assert not torch.allclose(*scores, atol=1e-2)


def test_a_fit_lowers_the_loss():
    image, network = draw_images(), draw_network(dropout=0.0)
    losses = []
    for steps in (1, 8):
        scores = PerImageInferer(steps=steps, lr=0.01)(image, network)
        losses.append((scores.logsumexp(dim=1) - scores.amax(dim=1)).mean().item())
    assert losses[1] < losses[0]


def test_final_dropout_is_the_only_difference_in_the_last_pass():
    image, network = draw_images(), draw_network(dropout=0.5)
    with_dropout, without = (PerImageInferer(steps=2, final_dropout=final)(image, network) for final in (True, False))
    assert not torch.allclose(with_dropout, without, atol=1e-2)
    network = draw_network(dropout=0.0)
    with_dropout, without = (PerImageInferer(steps=2, final_dropout=final)(image, network) for final in (True, False))
    assert torch.equal(with_dropout, without)


def test_an_augmentation_of_the_users_own():
    inverted = Compose([CopyItemsd("image", names="augmented"), Lambdad("augmented", lambda view: 1 - view)])
    inferer, image = PerImageInferer(steps=1, augmentation=inverted), draw_images()
    inferer(image, draw_network())
    torch.testing.assert_close(inferer.record[0].augmented, 1 - image[0])


def test_a_loss_of_the_users_own():
    image, network = draw_images(), draw_network(dropout=0.0)
    idle = PerImageInferer(
        steps=2, fresh=False, loss_function=FuseNetLoss(lambda_self=0, lambda_cross=0, edge_mode="published")
    )
    scores = idle(image, network)
    with torch.no_grad():
        expected = network.train()(image, idle.record[0].augmented.unsqueeze(0)).scores
    assert torch.equal(scores, expected)


# What it leaves.


def test_record():
    images = draw_images(batch_size=2)
    inferer = PerImageInferer(steps=7, min_clusters=0)
    scores = inferer(images, draw_network())
    assert len(inferer.record) == 2
    for fit, one in zip(inferer.record, scores, strict=True):
        assert isinstance(fit, FitRecord)
        assert fit.steps == 7
        assert fit.clusters == len(one.argmax(dim=0).unique())
        assert 0 < fit.seconds < 60
        assert fit.augmented.shape == (3, 24, 17)
    assert not torch.allclose(inferer.record[0].augmented, inferer.record[1].augmented)


def test_record_is_that_of_the_last_call():
    inferer, network = PerImageInferer(steps=1), draw_network()
    inferer(draw_images(batch_size=3), network)
    inferer(draw_images(batch_size=1), network)
    assert len(inferer.record) == 1


def test_a_fit_logs_nothing(caplog):
    with caplog.at_level(logging.INFO):
        PerImageInferer(steps=2)(draw_images(), draw_network())
    assert caplog.records == []


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_are_float32_whatever_the_network_is(steps, dtype):
    scores = PerImageInferer(steps=steps)(draw_images(dtype=dtype), draw_network().to(dtype))
    assert type(scores) is torch.Tensor
    assert scores.dtype == torch.float32


def test_a_meta_tensor_gives_what_its_values_give():
    image, network = draw_images(), draw_network()
    scores = PerImageInferer(steps=2)(MetaTensor(image.clone()), network)
    assert torch.equal(torch.as_tensor(scores), PerImageInferer(steps=2)(image, network))


def test_an_enclosing_autocast_and_amp_are_one():
    image, network = draw_images(), draw_network()
    mixed = PerImageInferer(steps=3, amp=True)(image, network)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        enclosed = PerImageInferer(steps=3)(image, network)
    assert mixed.dtype == enclosed.dtype == torch.float32
    assert not torch.equal(mixed, PerImageInferer(steps=3)(image, network))
    torch.testing.assert_close(mixed, enclosed, rtol=0.1, atol=0.2)


# The seed of an image.


def test_content_seed_is_in_range_and_known():
    image = torch.zeros(1, 2, 3)
    seed = content_seed(image)
    assert 0 <= seed < 2**32
    assert content_seed(image.clone()) == content_seed(image.double()) == content_seed(MetaTensor(image)) == seed


def test_content_seed_depends_on_shape_values_and_seed():
    image = torch.zeros(1, 2, 3)
    other = image.clone()
    other[0, 1, 2] = 0.01
    seeds = [content_seed(image), content_seed(image, 1), content_seed(image.reshape(1, 3, 2)), content_seed(other)]
    assert len(set(seeds)) == 4


@pytest.mark.parametrize("spatial", [(31, 18), (9, 11, 12)])
def test_content_seed_does_not_depend_on_the_last_bits(spatial):
    torch.manual_seed(0)
    image = torch.rand(3, *spatial)
    assert content_seed(image * (1 + 1e-6)) == content_seed(image) == content_seed(image.double())


def test_content_seed_does_not_depend_on_the_layout():
    image = torch.rand(3, 5, 4)
    assert content_seed(image.permute(1, 2, 0).contiguous().permute(2, 0, 1)) == content_seed(image)


# Bad input.


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("steps", [0, 2])
def test_an_image_that_is_not_finite(value, steps):
    image = draw_images()
    image[0, 1, 2, 3] = value
    with pytest.raises(ValueError, match=r"^the image holds NaN or infinite values$"):
        PerImageInferer(steps=steps)(image, draw_network())


def test_a_fit_that_diverges():
    message = r"^the fit diverged: its scores are not finite; try a smaller lr or fewer steps$"
    with pytest.raises(ValueError, match=message):
        PerImageInferer(steps=6, lr=1e30)(draw_images(), draw_network())


def test_negative_steps():
    with pytest.raises(ValueError, match=r"^steps must be a whole number of at least 0, got -1$"):
        PerImageInferer(steps=-1)


# Coarse to fine.


def resized(image, size):
    return torch.nn.functional.interpolate(image, size=size, mode="area")


def test_coarse_to_fine_equals_a_hand_written_loop_over_two_sizes():
    image = draw_images((24, 36))
    inferer = PerImageInferer(steps=4, resolutions=(12, 24), min_clusters=0)
    scores = inferer(image, draw_network(dropout=0.0))
    seed = content_seed(image[0])
    torch.manual_seed(seed)
    network = FuseNet(features=4, patch_grid=3, dropout=0.0).train()
    optimizer = torch.optim.SGD(network.parameters(), 0.005, 0.9)
    for view in (resized(image, (12, 18)), image):
        augmented = AugmentPaird().set_random_state(seed=seed)({"image": view[0]})["augmented"].unsqueeze(0)
        for _ in range(4):
            optimizer.zero_grad()
            FuseNetLoss()(network(view, augmented)).backward()
            optimizer.step()
    with torch.no_grad():
        expected = network(image, augmented).scores
    assert inferer.record[0].steps == 8
    torch.testing.assert_close(scores, expected, rtol=0, atol=0)


@pytest.mark.parametrize("spatial", [(41, 29), (13, 19, 11)])
def test_scores_have_the_size_of_the_image_whatever_the_last_resolution(spatial):
    inferer = PerImageInferer(steps=2, resolutions=[6, 9])
    network = draw_network(len(spatial))
    image = draw_images(spatial)
    scores = inferer(image, network)
    assert scores.shape == (1, 8, *spatial)
    small = tuple(round(side * 9 / min(spatial)) for side in spatial)
    assert inferer.record[0].augmented.shape == (3, *small)
    assert inferer.record[0].steps == 4


def test_no_resolution_is_larger_than_the_image():
    image, network = draw_images((17, 23)), draw_network()
    inferer = PerImageInferer(steps=2, resolutions=(9, 17, 64, 128))
    scores = inferer(image, network)
    assert inferer.record[0].steps == 4  # at 9 and at 17, and once only
    assert torch.equal(scores, PerImageInferer(steps=2, resolutions=(9, 17))(image, network))
    assert torch.equal(
        PerImageInferer(steps=2, resolutions=[500])(image, network), PerImageInferer(steps=2)(image, network)
    )


def test_a_finer_resolution_ends_at_once_where_clusters_are_few():
    inferer = PerImageInferer(steps=9, resolutions=(12, 24), min_clusters=8)
    inferer(draw_images((24, 36)), draw_network())
    assert inferer.record[0].steps == 6 + 1


def test_parts_of_the_size():
    image, network = draw_images((24, 40)), draw_network()
    halves = PerImageInferer(steps=2, resolutions=[0.5, 1.0])(image, network)
    assert torch.equal(halves, PerImageInferer(steps=2, resolutions=[12, 24])(image, network))
    assert not torch.equal(halves, PerImageInferer(steps=2)(image, network))


@pytest.mark.parametrize("spatial", [(24, 36), (10, 14, 12)])
def test_a_network_that_was_fitted_to_a_small_version_scores_the_image(spatial):
    image = draw_images(spatial)
    inferer = PerImageInferer(steps=3, resolutions=[0.6, 1.0], min_clusters=0, final_steps=0)
    scores = inferer(image, draw_network(len(spatial), dropout=0.0))
    seed = content_seed(image[0])
    torch.manual_seed(seed)
    network = FuseNet(len(spatial), features=4, patch_grid=3, dropout=0.0).train()
    optimizer = torch.optim.SGD(network.parameters(), 0.005, 0.9)
    small = resized(image, [round(0.6 * side) for side in spatial])
    augmented, seen = (
        AugmentPaird().set_random_state(seed=seed)({"image": view[0]})["augmented"].unsqueeze(0)
        for view in (image, small)
    )
    for _ in range(3):
        optimizer.zero_grad()
        FuseNetLoss()(network(small, seen)).backward()
        optimizer.step()
    with torch.no_grad():
        torch.testing.assert_close(scores, network(image, augmented).scores, rtol=0, atol=0)
    (record,) = inferer.record
    assert (record.steps, record.size, record.augmented.shape) == (3, spatial, (3, *spatial))


@pytest.mark.parametrize(
    ("options", "steps"), [({}, 3 + 1), ({"final_steps": None}, 3 + 3), ({"resolutions": None}, 3)]
)
def test_other_steps_at_the_last_of_several_resolutions(options, steps):
    options = {"steps": 3, "resolutions": [9, 12], "min_clusters": 0, "final_steps": 1, "max_refits": 0, **options}
    images = draw_images((12, 17), batch_size=2)
    for at_once in (1, 2):
        inferer = PerImageInferer(at_once=at_once, **options)
        inferer(images, draw_network())
        assert [record.steps for record in inferer.record] == [steps, steps]


def test_final_steps_that_are_none():
    with pytest.raises(ValueError, match=r"^final_steps must be "):
        PerImageInferer(final_steps=-1)


@pytest.mark.parametrize("steps", [0, 2])
def test_a_second_view_among_the_channels(steps):
    image, second = draw_images((12, 17)), draw_images((12, 17)).flip(2)
    network = draw_network(shared_encoder=False)
    given = PerImageInferer(steps=steps, augmentation=AugmentPaird(second_view_channels=3))
    scores = given(torch.cat([image, second], dim=1), network)
    torch.testing.assert_close(given.record[0].augmented, second[0])
    if steps == 0:
        with torch.no_grad():
            expected = copy.deepcopy(network).eval()(image, second).scores
        torch.testing.assert_close(scores, expected)
    mirrored = given(torch.cat([image, second.flip(3)], dim=1), network)
    assert not torch.allclose(scores, mirrored)


@pytest.mark.parametrize("resolutions", [(), [0], [64, "128"], 0.5, [True], [96, 48], [0.5, 1.5], [0.5, 64], [0.0]])
def test_resolutions_that_are_none(resolutions):
    with pytest.raises(
        ValueError, match=r"^resolutions must be None or ascending whole numbers above 0, or parts up to 1\.0, got"
    ):
        PerImageInferer(resolutions=resolutions)


@pytest.mark.parametrize("shape", [(0, 3, 24, 17), (3, 24, 17)])
@pytest.mark.parametrize("steps", [0, 2])
def test_what_is_no_batch_of_images(shape, steps):
    with pytest.raises(ValueError, match=r"^expected images \(B, C, \*spatial\) in 2-D or 3-D, at least one, got \("):
        PerImageInferer(steps=steps)(torch.rand(shape), draw_network())


# Many at once.


@pytest.mark.parametrize("spatial", SIZES)
@pytest.mark.parametrize("options", [{}, {"resolutions": (5, 7)}, {"final_dropout": True, "fresh": False}])
def test_images_fitted_together_get_what_they_get_alone(spatial, options):
    images = draw_images(spatial, batch_size=3, dtype=torch.float64)
    network = draw_network(len(spatial), dropout=0.3).double()
    alone = PerImageInferer(steps=6, min_clusters=0, **options)
    together = PerImageInferer(steps=6, min_clusters=0, at_once=3, **options)
    scores = together(images, network)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, alone(images, network), rtol=0, atol=1e-6)
    for one, other in zip(together.record, alone.record, strict=True):
        assert (one.steps, one.clusters) == (other.steps, other.clusters)
        assert torch.equal(one.augmented, other.augmented)


def test_images_fitted_together_end_one_by_one():
    images = torch.cat([draw_images(batch_size=3), torch.rand(2, 3, 24, 17, generator=torch.manual_seed(5))]).double()
    network = draw_network(dropout=0.3).double()
    options = {"steps": 25, "lr": 0.01, "min_clusters": 3}
    alone, together = PerImageInferer(**options), PerImageInferer(**options, at_once=4)
    scores = together(images, network)
    torch.testing.assert_close(scores, alone(images, network), rtol=0, atol=1e-6)
    assert [record.steps for record in together.record] == [record.steps for record in alone.record]
    assert len({record.steps for record in alone.record}) > 1  # some went on while others had ended


def test_fitting_together_knows_no_checkpointing():
    with pytest.raises(ValueError, match="at_once must be 1 for a network with use_checkpoint"):
        PerImageInferer(steps=2, at_once=2)(draw_images(batch_size=2), draw_network(use_checkpoint=True))


def test_fitting_together_leaves_network_and_random_state_as_they_were():
    network = draw_network()
    before = copy.deepcopy(network.state_dict())
    torch.manual_seed(1)
    expected = torch.rand(1).item()
    torch.manual_seed(1)
    PerImageInferer(steps=2, at_once=2)(draw_images(batch_size=3), network)
    assert torch.rand(1).item() == expected
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


class Collapsing(nn.Module):
    """Scores a single cluster or its twin in the first fits, and two clusters in those that follow."""

    fits = 0

    def __init__(self, bad_fits):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.bad_fits = bad_fits

    def merge(self, scores):
        return merge_twin_scores(scores)

    def reset_parameters(self):
        Collapsing.fits += 1

    def forward(self, image, augmented):
        grey = image.mean(dim=1) - image.mean()
        other = 2 if Collapsing.fits <= self.bad_fits else 1  # cluster 2 is the twin of cluster 0
        scores = torch.zeros(len(image), 4, *image.shape[2:]) + 0 * self.weight
        tokens = nn.functional.normalize(torch.ones(len(image), 2, 3) + self.weight, dim=-1)
        return scores.index_copy(1, torch.tensor([0, other]), torch.stack([grey, -grey], dim=1)), tokens, tokens


@pytest.mark.parametrize(("bad_fits", "refits"), [(0, 0), (1, 1), (2, 2), (9, 2)])
def test_an_image_that_became_one_cluster_is_fitted_again(bad_fits, refits):
    Collapsing.fits = 0
    inferer = PerImageInferer(steps=7)
    scores = inferer(draw_images(), Collapsing(bad_fits))
    (record,) = inferer.record
    assert (record.refits, record.steps) == (refits, 6 * (refits + 1))
    assert len((scores.argmax(dim=1) % 2).unique()) == (1 if bad_fits == 9 else 2)


def test_an_image_of_one_value_is_not_fitted_again():
    inferer = PerImageInferer(steps=2)
    inferer(torch.full((1, 3, 9, 8), 0.5), draw_network())
    assert inferer.record[0].refits == 0


def test_no_refits():
    Collapsing.fits = 0
    inferer = PerImageInferer(steps=2, max_refits=0)
    inferer(draw_images(), Collapsing(9))
    assert inferer.record[0].refits == 0


# Memory that does not suffice.


class Demanding(nn.Module):
    """Needs more memory than there is above so many pixels, and says so as torch or numpy do."""

    def __init__(self, pixels, error):
        super().__init__()
        self.network = draw_network()
        self.pixels = pixels
        self.error = error

    def forward(self, image, augmented=None):
        if image[:, 0].numel() > self.pixels:
            raise self.error
        return self.network(image) if augmented is None else self.network(image, augmented)


ON_CPU = (
    "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"
)
ERRORS = [MemoryError(), torch.cuda.OutOfMemoryError("CUDA out of memory."), RuntimeError(ON_CPU)]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("steps", [2, 0])
@pytest.mark.parametrize(("pixels", "size"), [(64 * 80, (64, 80)), (64 * 80 - 1, (45, 56)), (32 * 40, (32, 40))])
def test_want_of_memory_makes_an_image_smaller(error, steps, pixels, size):
    inferer = PerImageInferer(steps=steps, max_refits=0)
    scores = inferer(draw_images((64, 80)), Demanding(pixels, error))
    (record,) = inferer.record
    assert scores.shape == (1, 8, 64, 80)
    assert (record.size, record.wanted_size) == (size, None if size == (64, 80) else (64, 80))
    assert record.steps == steps


def test_want_of_memory_makes_a_volume_smaller():
    volume = torch.rand(1, 3, 24, 20, 16, generator=torch.Generator().manual_seed(0))
    network = Demanding(12 * 10 * 8, MemoryError())
    network.network = draw_network(3)
    inferer = PerImageInferer(steps=2, max_refits=0)
    assert inferer(volume, network).shape == (1, 8, 24, 20, 16)
    assert inferer.record[0].size == (12, 10, 8)
    network.pixels -= 1
    with pytest.raises(MemoryError, match=r"^it suffices for no size from 24 x 20 x 16 down to 12 x 10 x 8$"):
        inferer(volume, network)


@pytest.mark.parametrize("steps", [3, 0])
def test_a_smaller_fit_is_that_of_the_resolution(steps):
    image = draw_images((64, 80))
    limited = PerImageInferer(steps=steps, max_refits=0)(image, Demanding(45 * 56, MemoryError()))
    if steps:
        expected = PerImageInferer(steps=steps, resolutions=[45], max_refits=0)(image, Demanding(10**6, None))
    else:
        small = nn.functional.interpolate(image, size=(45, 56), mode="area")
        expected = guided_upsampling(PerImageInferer(steps=0)(small, Demanding(10**6, None)), image)
    torch.testing.assert_close(limited, expected)


def test_only_resolutions_that_are_too_large_become_smaller():
    inferer = PerImageInferer(steps=2, resolutions=[32, 64], max_refits=0)
    inferer(draw_images((64, 80)), Demanding(64 * 80 - 1, MemoryError()))
    assert (inferer.record[0].size, inferer.record[0].steps) == ((45, 56), 4)


def test_no_memory_for_the_smallest_size_either():
    with pytest.raises(MemoryError, match=r"^it suffices for no size from 64 x 80 down to 32 x 40$"):
        PerImageInferer(steps=2)(draw_images((64, 80)), Demanding(0, MemoryError()))


def test_a_network_of_one_size_cannot_go_to_a_smaller_one():
    network = Demanding(64 * 80 - 1, MemoryError())
    network.network = FuseNet(features=4, patch_grid=3, img_size=(64, 80))
    with pytest.raises(MemoryError, match=r"^it does not suffice for 64 x 80, and at 45 x 56: .*64"):
        PerImageInferer(steps=2)(draw_images((64, 80)), network)


def test_other_images_of_a_batch_stay_as_they_were():
    images = draw_images((64, 80), batch_size=2)
    attempts = []

    class Unlucky(Demanding):  # the first attempt at the second image fails
        def forward(self, image, augmented):
            if torch.equal(image, images[1:]):
                attempts.append(image)
                if len(attempts) == 1:
                    raise MemoryError
            return super().forward(image, augmented)

    inferer = PerImageInferer(steps=2, max_refits=0)
    scores = inferer(images, Unlucky(10**6, None))
    assert [record.wanted_size for record in inferer.record] == [None, (64, 80)]
    alone = PerImageInferer(steps=2, max_refits=0)(images[:1], Demanding(10**6, None))
    assert torch.equal(scores[:1], alone)


def test_images_fitted_at_once_are_fitted_one_by_one_for_want_of_memory(monkeypatch):
    images = draw_images((40, 33), batch_size=2)
    inferer = PerImageInferer(steps=2, at_once=2, max_refits=0)
    monkeypatch.setattr(per_image, "descend_together", lambda fits, descent: torch.empty(2**60))  # more than there is
    scores = inferer(images, draw_network())
    assert [record.wanted_size for record in inferer.record] == [None, None]
    assert torch.equal(scores, PerImageInferer(steps=2, max_refits=0)(images, draw_network()))


LIMITED = """
import resource, torch
from monai_fusenet.inferers import PerImageInferer, per_image
from monai_fusenet.networks import FuseNet

torch.set_num_threads(1)
torch.backends.mkldnn.set_flags(_enabled=False)  # its kernels find no room in a heap that is cut up
inferer, network = PerImageInferer(steps=2, min_clusters=0, max_refits=0), FuseNet(features=8)
inferer(torch.rand(1, 3, 32, 40), network)
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 150 * 2**20,) * 2)
scores = inferer(torch.rand(1, 3, 256, 300), network)
print(tuple(scores.shape), *inferer.record[0].wanted_size, min(inferer.record[0].size))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of memory")
def test_a_real_limit_of_memory():
    run = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, encoding="utf-8", timeout=120)
    assert run.returncode == 0, run.stderr
    shape, side = run.stdout.strip().rsplit(" ", 1)
    assert shape == "(1, 16, 256, 300) 256 300"
    assert 32 <= int(side) < 256
