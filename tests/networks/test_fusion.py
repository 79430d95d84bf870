import itertools

import pytest
import torch

from monai_fusenet.networks import FusionBlock, MixFeedForward


def drawn(module):
    """With weights, biases and normalisations that all differ from 0 and 1."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        parameter.data.normal_()
    return module.double()


def softmax(x, axis):
    exponentials = torch.exp(x - x.max())
    return exponentials / exponentials.sum(axis, keepdim=True)


def layer_norm(layer, x):
    deviation = x - x.mean(1, keepdim=True)
    return layer.weight * deviation / ((deviation**2).mean(1, keepdim=True) + layer.eps) ** 0.5 + layer.bias


def gelu(x):
    return x * (1 + torch.erf(x / 2**0.5)) / 2


def linear(layer, x):
    return x @ layer.weight.T + layer.bias


def depthwise(conv, tokens, spatial):
    """Every token gathers its neighbours on the grid, weighted by where they are."""
    grid = list(itertools.product(*map(range, spatial)))
    rows = []
    for here in grid:
        total = conv.bias
        for token, there in enumerate(grid):
            offset = [b - a + 1 for a, b in zip(here, there, strict=True)]
            if all(0 <= side <= 2 for side in offset):
                total = total + conv.weight[(slice(None), 0, *offset)] * tokens[token]
        rows.append(total)
    return torch.stack(rows)


def mix(feed_forward, x, spatial):
    """W_b GELU(LN(DWConv3x3(h) + h)) with h = W_a x."""
    h = linear(feed_forward.fc1, x)
    inner = layer_norm(feed_forward.norm, depthwise(feed_forward.depthwise, h, spatial) + h)
    return linear(feed_forward.fc2, gelu(inner))


def one_direction(block, a, b, spatial):
    """F(a, b) as arXiv 2311.13069 has it, step by step, for tokens (N, d) of one image."""
    a_normed, b_normed = layer_norm(block.norm1, a), layer_norm(block.norm1, b)
    keys, queries, values = softmax(a_normed, 0), softmax(a_normed, 1), b_normed
    context = keys.T @ values
    r = layer_norm(block.attention_norm, linear(block.reprojection, queries @ context))
    z = torch.cat([a, b], 1) + r
    return z + mix(block.feed_forward, layer_norm(block.norm2, z), spatial)


@pytest.mark.parametrize("spatial", [(3, 5), (1, 4), (2, 3, 4)])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_equals_the_formulas_of_both_directions(spatial, batch_size):
    block = drawn(FusionBlock(len(spatial), features=3))
    first, second = torch.randn(2, batch_size, 3, *spatial, dtype=torch.float64)
    scores = block(first, second)
    assert scores.shape == (batch_size, 6, *spatial)
    for image in range(batch_size):
        a, b = first[image].flatten(1).T, second[image].flatten(1).T
        expected = one_direction(block, a, b, spatial) + one_direction(block, b, a, spatial)
        torch.testing.assert_close(scores[image].flatten(1).T, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("spatial", [(3, 5), (2, 3, 4)])
def test_the_order_of_the_views_does_not_matter(spatial):
    block = drawn(FusionBlock(len(spatial), features=3))
    first, second = torch.randn(2, 2, 3, *spatial, dtype=torch.float64)
    torch.testing.assert_close(block(first, second), block(second, first), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("spatial", [(4, 3), (7, 1), (2, 3, 2)])
def test_feed_forward_looks_at_its_neighbours(spatial):
    feed_forward = drawn(MixFeedForward(len(spatial), features=2, hidden=3))
    tokens = torch.randn(2, *spatial, 2, dtype=torch.float64).flatten(1, -2)
    expected = torch.stack([mix(feed_forward, image, spatial) for image in tokens])
    torch.testing.assert_close(feed_forward(tokens, list(spatial)), expected, rtol=1e-9, atol=1e-10)


def test_images_of_a_batch_do_not_meet():
    block = drawn(FusionBlock(2, features=3))
    first, second = torch.randn(2, 2, 3, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(block(first, second)[1:], block(first[1:], second[1:]), rtol=1e-10, atol=1e-10)
