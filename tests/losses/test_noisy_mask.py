import math

import pytest
import torch

from monai_fusenet.losses import EdgeRefinementLoss, NoisyMaskLoss, generalised_cross_entropy, soft_dice_distance

SHAPES = [(1, 1, 1, 2), (1, 1, 1, 1, 2)]


def pixels(*values, shape=(1, 1, 1, 2)):
    return torch.tensor(values).reshape(shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_cross_entropy_by_hand(shape):
    p = pixels(0.25, 0.25, shape=shape)
    # t = 1: (1 - sqrt(1/4)) / (1/2) = 1; t = 0: (1 - sqrt(3/4)) / (1/2).
    loss = generalised_cross_entropy(p, pixels(1.0, 0.0, shape=shape), exponent=0.5)
    torch.testing.assert_close(loss, pixels(1.0, 2 - math.sqrt(3), shape=shape))
    # q = 1 is the distance to the answer, here to both in equal parts: 3/4 and 1/4.
    loss = generalised_cross_entropy(p, pixels(0.5, 0.0, shape=shape), exponent=1)
    torch.testing.assert_close(loss, pixels(0.5, 0.25, shape=shape))


def test_cross_entropy_for_a_small_exponent_is_the_usual_one():
    p, t = torch.tensor([0.1, 0.6, 0.9]), torch.tensor([1.0, 0.3, 0.0])
    expected = torch.nn.functional.binary_cross_entropy(p, t, reduction="none")
    torch.testing.assert_close(generalised_cross_entropy(p, t, 1e-3), expected, rtol=2e-3, atol=0)


def test_an_outlier_pulls_less_than_in_cross_entropy():
    p = torch.tensor([0.01], requires_grad=True)
    (robust,) = torch.autograd.grad(generalised_cross_entropy(p, torch.ones(1)).sum(), p)
    assert robust.item() == pytest.approx(-(0.01**-0.3), rel=1e-5)  # -1 / p, times p ** q
    (impossible,) = torch.autograd.grad(generalised_cross_entropy(p * 0, torch.ones(1)).sum(), p)
    assert impossible.isfinite().all()


@pytest.mark.parametrize("shape", SHAPES)
def test_dice_by_hand(shape):
    p, t = pixels(1.0, 0.5, shape=shape), pixels(1.0, 0.0, shape=shape)
    # 1 - 2 / (1 + 1/4 + 1)
    assert soft_dice_distance(p, t, torch.ones(shape)).item() == pytest.approx(1 / 9, abs=1e-5)
    assert soft_dice_distance(p, t, t).item() == pytest.approx(0, abs=1e-5)
    assert soft_dice_distance(p, p, torch.ones(shape)).item() == pytest.approx(0, abs=1e-5)
    assert soft_dice_distance(p * 0, t * 0, torch.ones(shape)).item() == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_terms_by_hand(shape):
    logits, target = pixels(math.log(3), -math.log(3), shape=shape), pixels(1.0, 0.25, shape=shape)  # p = 3/4, 1/4
    terms = NoisyMaskLoss(exponent=1, lambda_dice=2.0, lambda_edge=0.1, edge_factor=2).terms(logits, target)
    # Weights 1 and 1/2, losses 1/4 and 3/8.
    assert terms.cross_entropy.item() == pytest.approx((1 / 4 + 3 / 16) / 1.5, rel=1e-5)
    # 2 (1 * 3/4 + 1/2 * 1/16) / (1 * 25/16 + 1/2 * 2/16) = 25/26
    assert terms.dice.item() == pytest.approx(2 / 26, rel=1e-4)
    assert terms.edge.item() == pytest.approx(0.1 * EdgeRefinementLoss(factor=2)(logits).item())
    assert terms.total.item() == pytest.approx(sum(value.item() for value in terms[1:]), rel=1e-5)


def test_divided_masks_teach_nothing():
    logits = torch.randn(2, 1, 3, 5, requires_grad=True)
    NoisyMaskLoss(lambda_edge=0)(logits, torch.full((2, 1, 3, 5), 0.5)).backward()
    assert logits.grad.abs().max() == 0


@pytest.mark.parametrize("spatial", [(3, 5), (2, 3, 4)])
def test_descending_finds_the_target(spatial):
    torch.manual_seed(0)
    target = (torch.rand(2, 1, *spatial) > 0.5).float()
    logits = torch.zeros(2, 1, *spatial, requires_grad=True)
    optimizer = torch.optim.Adam([logits], 0.5)
    for _ in range(30):
        optimizer.zero_grad()
        NoisyMaskLoss(lambda_edge=0)(logits, target).backward()
        optimizer.step()
    assert torch.equal((logits > 0).float(), target)


def classes(*pixels, dims=2):
    """(1, K, *spatial) of the values of K classes in each pixel of a row."""
    return torch.tensor(pixels).T.reshape(1, -1, *[1] * (dims - 1), len(pixels))


@pytest.mark.parametrize("dims", [2, 3])
def test_terms_of_classes_by_hand(dims):
    p = classes((1 / 2, 1 / 4, 1 / 4), (1 / 4, 1 / 4, 1 / 2), dims=dims)
    target = classes((0.0, 1.0, 0.0), (1 / 2, 1 / 4, 1 / 4), dims=dims)
    terms = NoisyMaskLoss(exponent=1, lambda_dice=2.0, lambda_edge=0.1, edge_factor=2).terms(p.log() + 3, target)
    # Weights 1 and (3/2 - 1) / 2 = 1/4, losses 3/4 and 1/2 * 3/4 + 1/4 * 3/4 + 1/4 * 1/2 = 11/16.
    assert terms.cross_entropy.item() == pytest.approx((3 / 4 + 11 / 64) / 1.25, rel=1e-5)
    # Of the foreground, the first class alone is the likeliest anywhere:
    # 2 (1/4 + 1/4 * 1/16) / (1/16 + 1 + 1/4 * 1/8) = 17/35
    assert terms.dice.item() == pytest.approx(2 * 18 / 35, rel=1e-4)
    foreground = classes((0.0,), (math.log(3),), dims=dims)  # odds 1 and 3
    assert terms.edge.item() == pytest.approx(0.1 * EdgeRefinementLoss(factor=2)(foreground).item(), rel=1e-5)
    assert terms.total.item() == pytest.approx(sum(value.item() for value in terms[1:]), rel=1e-5)


@pytest.mark.parametrize("spatial", [(7, 5), (3, 4, 5)])
def test_background_and_one_class_cost_what_the_class_alone_costs(spatial):
    torch.manual_seed(0)
    logits, target = torch.randn(2, 1, *spatial), torch.rand(2, 1, *spatial)
    both = torch.cat([torch.zeros_like(logits), logits], dim=1), torch.cat([1 - target, target], dim=1)
    torch.testing.assert_close(NoisyMaskLoss().terms(*both), NoisyMaskLoss().terms(logits, target))


def test_the_dice_of_classes_is_of_images_that_show_them():
    torch.manual_seed(0)
    logits, target = torch.randn(3, 3, 5, 7), torch.zeros(3, 3, 5, 7)
    target[0, 1, :2] = target[0, 2, 2:] = target[1, 2] = target[2, 0] = 1
    p, weight = logits.softmax(dim=1), torch.ones(1, 1, 5, 7)
    shown = [(0, 1), (0, 2), (1, 2)]  # of image and class; the third is background
    distances = [soft_dice_distance(p[i, k][None, None], target[i, k][None, None], weight).item() for i, k in shown]
    assert NoisyMaskLoss().terms(logits, target).dice.item() == pytest.approx(sum(distances) / 3, rel=1e-5)
    assert NoisyMaskLoss().terms(logits[2:], target[2:]).dice.item() == 0


@pytest.mark.parametrize("value", [0.0, 1 / 3])
def test_pixels_of_which_nothing_is_known_teach_nothing(value):
    logits = torch.randn(2, 3, 4, 5, requires_grad=True)
    NoisyMaskLoss(lambda_edge=0)(logits, torch.full((2, 3, 4, 5), value)).backward()
    assert logits.grad.abs().max() < 1e-6


def test_a_pixel_of_which_nothing_is_known_shows_no_class():
    torch.manual_seed(0)
    logits, target = torch.randn(1, 3, 4, 5), torch.zeros(1, 3, 4, 5)
    target[:, 1] = 1
    target[:, 1, 0, 0] = 0
    known = torch.ones(1, 1, 4, 5)
    known[..., 0, 0] = 0
    distance = soft_dice_distance(logits.softmax(dim=1)[:, 1:2], target[:, 1:2], known).item()
    assert NoisyMaskLoss().terms(logits, target).dice.item() == pytest.approx(distance, rel=1e-5)


@pytest.mark.parametrize("spatial", [(3, 5), (2, 3, 4)])
def test_descending_finds_the_classes(spatial):
    torch.manual_seed(0)
    labels = torch.randint(4, (2, *spatial))
    target = torch.nn.functional.one_hot(labels, 4).movedim(-1, 1)  # integers
    logits = torch.zeros(2, 4, *spatial, requires_grad=True)
    optimizer = torch.optim.Adam([logits], 0.5)
    for _ in range(40):
        optimizer.zero_grad()
        NoisyMaskLoss(lambda_edge=0)(logits, target).backward()
        optimizer.step()
    assert torch.equal(logits.argmax(dim=1), labels)


def test_bad_input():
    with pytest.raises(ValueError, match=r"^exponent must be a finite number from 1e-06 to 1, got 0$"):
        NoisyMaskLoss(exponent=0)
    for logits, target in (((1, 2, 3, 5), (1, 1, 3, 5)), ((1, 2, 3), (1, 2, 3)), ((1, 0, 3, 5), (1, 0, 3, 5))):
        with pytest.raises(ValueError, match=r"^logits and target must both have the shape \(B, K, \*spatial\)"):
            NoisyMaskLoss()(torch.zeros(logits), torch.zeros(target))
