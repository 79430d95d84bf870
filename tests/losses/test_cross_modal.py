import math

import pytest
import torch
from torch.nn.functional import normalize

from monai_fusenet.losses import CrossModalLoss, cross_modal_similarity


def draw_tokens(batch_size=2, patches=5, features=3):
    torch.manual_seed(0)
    return normalize(torch.randn(2, batch_size, patches, features, dtype=torch.float64), dim=-1).unbind()


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def softmax(values):
    exponentials = [math.exp(value) for value in values]
    return [value / sum(exponentials) for value in exponentials]


def literal_loss(image_tokens, augmented_tokens, tau):
    """The formulas of arXiv 2311.13069, number by number, for the tokens of one image."""
    x, y = image_tokens.tolist(), augmented_tokens.tolist()
    n = range(len(x))
    logits = [[dot(x[i], y[j]) / tau for j in n] for i in n]
    targets = [softmax([tau * (dot(x[i], x[j]) + dot(y[i], y[j])) / 2 for j in n]) for i in n]
    to_augmented = [-sum(targets[i][j] * math.log(softmax(logits[i])[j]) for j in n) for i in n]
    columns = [[logits[i][j] for i in n] for j in n]
    to_image = [-sum(targets[i][j] * math.log(softmax(columns[j])[i]) for i in n) for j in n]
    return (sum(to_augmented) / len(x) + sum(to_image) / len(x)) / 2


@pytest.mark.parametrize("temperature", [0.5, 1.0, 5.0])
@pytest.mark.parametrize(("batch_size", "patches"), [(1, 1), (1, 4), (2, 5)])
def test_equals_its_formula(temperature, batch_size, patches):
    image_tokens, augmented_tokens = draw_tokens(batch_size, patches)
    expected = [literal_loss(*pair, temperature) for pair in zip(image_tokens, augmented_tokens, strict=True)]
    loss = CrossModalLoss(temperature)(image_tokens, augmented_tokens)
    assert loss.ndim == 0
    assert loss.item() == pytest.approx(sum(expected) / batch_size, rel=1e-10)


def test_temperature_is_5_by_default():
    tokens = draw_tokens()
    assert CrossModalLoss()(*tokens).item() == CrossModalLoss(temperature=5.0)(*tokens).item()


def test_similarity_of_two_orthogonal_patches():
    tokens = torch.eye(2).unsqueeze(0)
    logits, targets = cross_modal_similarity(tokens, tokens, temperature=2.0)
    assert logits.tolist() == [[[0.5, 0.0], [0.0, 0.5]]]
    e = math.exp(2)
    expected = torch.tensor([[[e, 1], [1, e]]]) / (e + 1)
    torch.testing.assert_close(targets, expected)


def test_patches_that_are_all_alike_cost_log_n():
    tokens = torch.zeros(2, 7, 3)
    tokens[..., 1] = 1
    assert CrossModalLoss()(tokens, tokens).item() == pytest.approx(math.log(7))


def test_identical_views_cost_more_than_nothing_and_less_than_swapped_ones():
    image_tokens, _ = draw_tokens()
    identical = CrossModalLoss(temperature=1.0)(image_tokens, image_tokens).item()
    swapped = CrossModalLoss(temperature=1.0)(image_tokens, image_tokens.flip(1)).item()
    assert 0 < identical < swapped


def test_one_patch_costs_nothing():
    assert CrossModalLoss()(*draw_tokens(patches=1)).item() == 0.0


def test_the_two_views_are_equal_partners():
    image_tokens, augmented_tokens = draw_tokens()
    # Not exactly so: targets have rows that sum to 1, whichever view comes first.
    logits, targets = cross_modal_similarity(image_tokens, augmented_tokens, 5.0)
    other_logits, other_targets = cross_modal_similarity(augmented_tokens, image_tokens, 5.0)
    torch.testing.assert_close(other_logits, logits.mT)
    torch.testing.assert_close(other_targets, targets)


def test_detached_targets_change_gradients_and_no_value():
    gradients, values = [], []
    for detach_targets in (False, True):
        image_tokens, augmented_tokens = (tokens.requires_grad_() for tokens in draw_tokens())
        loss = CrossModalLoss(detach_targets=detach_targets)(image_tokens, augmented_tokens)
        loss.backward()
        values.append(loss.item())
        gradients.append(image_tokens.grad)
    assert values[0] == values[1]
    assert not torch.allclose(*gradients, rtol=0.1)


def test_gradient_of_detached_targets_is_that_of_fixed_ones():
    image_tokens, augmented_tokens = (tokens.requires_grad_() for tokens in draw_tokens())
    CrossModalLoss(detach_targets=True)(image_tokens, augmented_tokens).backward()
    own = image_tokens.grad.clone()
    image_tokens.grad = None
    logits, targets = cross_modal_similarity(image_tokens, augmented_tokens, 5.0)
    fixed = targets.detach().clone()
    rows, columns = fixed * logits.log_softmax(2), fixed * logits.log_softmax(1)
    (-(rows + columns).sum() / (2 * 2 * 5)).backward()
    torch.testing.assert_close(own, image_tokens.grad)


@pytest.mark.parametrize("shapes", [((2, 5, 3), (2, 4, 3)), ((5, 3), (5, 3)), ((1, 5, 3), (2, 5, 3))])
def test_tokens_of_different_shape(shapes):
    with pytest.raises(ValueError, match=r"must have the same shape \(B, patches, features\), got \(") as error:
        CrossModalLoss()(torch.zeros(shapes[0]), torch.zeros(shapes[1]))
    assert str(error.value) == (
        "image_tokens and augmented_tokens must have the same shape (B, patches, features), "
        f"got {shapes[0]} and {shapes[1]}"
    )


@pytest.mark.parametrize("temperature", [0, -1.0])
def test_a_temperature_that_is_not_above_0(temperature):
    with pytest.raises(ValueError, match=rf"^temperature must be above 0, got {temperature}$"):
        CrossModalLoss(temperature=temperature)
