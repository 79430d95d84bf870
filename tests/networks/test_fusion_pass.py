"""The backward pass of a fusion that is written by hand, beside autograd's."""

import pytest
import torch

from monai_fusenet.networks import FusionBlock
from monai_fusenet.networks.blocks import fusion

GRIDS = pytest.mark.parametrize(("spatial", "rows"), [((13, 9), 13), ((7, 6), 3), ((7, 3, 5), 3), ((1, 5), 8)])


def drawn_block(spatial, use_checkpoint=False):
    """By hand, or, with checkpoints, by autograd; the same weights."""
    torch.manual_seed(0)
    block = FusionBlock(len(spatial), 3, (3.0, 0.8), use_checkpoint).double()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return block


def drawn_views(spatial, batch=2):
    torch.manual_seed(1)
    return [torch.randn(batch, 3, *spatial, dtype=torch.float64, requires_grad=True) for _ in range(2)]


@pytest.fixture
def in_strips(monkeypatch):
    return lambda rows: monkeypatch.setattr(fusion, "rows_at_once", lambda *_, **__: rows)


@GRIDS
def test_scores_and_gradients_are_those_of_autograd(spatial, rows, in_strips):
    in_strips(rows)
    views, results = drawn_views(spatial), []
    for use_checkpoint in (False, True):
        block = drawn_block(spatial, use_checkpoint)
        scores = block(*views)
        assert ("_FuseBackward" in names_behind(scores)) == (not use_checkpoint)
        torch.manual_seed(2)
        gradient = torch.randn_like(scores)
        results.append([scores, *torch.autograd.grad(scores, [*views, *block.parameters()], gradient)])
    for by_hand, expected in zip(*results, strict=True):
        torch.testing.assert_close(by_hand, expected)


def names_behind(result):
    seen, left = set(), [result.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            seen.add(node)
            left += [parent for parent, _ in node.next_functions]
    return {type(node).__name__ for node in seen}


@pytest.mark.parametrize(("spatial", "rows"), [((5, 3), 2), ((3, 2, 4), 2)])
def test_gradients_are_those_of_small_steps(spatial, rows, in_strips):
    in_strips(rows)
    block = drawn_block(spatial)
    names = [name for name, _ in block.named_parameters()]

    def scores(first, second, *weights):
        return torch.func.functional_call(block, dict(zip(names, weights, strict=True)), (first, second))

    inputs = [*drawn_views(spatial, batch=1), *block.parameters()]
    assert torch.autograd.gradcheck(scores, inputs, fast_mode=True)


def test_many_networks_at_once():
    blocks, views = [drawn_block((5, 4)) for _ in range(2)], drawn_views((5, 4), batch=2)
    torch.nn.init.normal_(blocks[1].norm2.weight)
    weights, _ = torch.func.stack_module_state(blocks)

    def one(own, *pair):
        return torch.func.functional_call(blocks[0], own, tuple(view.unsqueeze(0) for view in pair))[0]

    together = torch.vmap(one)(weights, *views)
    alone = torch.stack([block(*(view[i : i + 1] for view in views))[0] for i, block in enumerate(blocks)])
    torch.testing.assert_close(together, alone)
    together.square().sum().backward()
    alone.square().sum().backward()
    for name, stacked in weights.items():
        expected = torch.stack([block.get_parameter(name).grad for block in blocks])
        torch.testing.assert_close(stacked.grad, expected)


def test_no_gradient_no_pass_by_hand():
    with torch.no_grad():
        alone = drawn_block((5, 4))(*drawn_views((5, 4)))
    torch.testing.assert_close(alone, drawn_block((5, 4))(*drawn_views((5, 4))).detach())
