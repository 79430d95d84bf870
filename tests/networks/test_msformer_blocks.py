"""What MS-Former is made of: values known by hand, and a slow, plain computation beside the fast one."""

import pytest
import torch

from monai_fusenet.networks import EfficientTransformerBlock, PatchExpanding, ShiftedPatchAttention, efficient_attention
from monai_fusenet.networks.blocks.layout import to_map, to_tokens

LN2 = 0.6931471805599453


def draw(*shape):
    torch.manual_seed(0)
    return torch.randn(*shape, dtype=torch.float64)


def test_attention_by_hand():
    # The first feature of the keys weighs the two pixels 2 to 1, the second one alike; so does the first pixel its
    # features, and the second one weighs them 1 to 3.
    keys = torch.tensor([[[LN2, 0.0], [0.0, 0.0]]])
    queries = torch.tensor([[[0.0, 0.0], [0.0, 3.0]]]).clamp(max=torch.tensor(3.0).log())
    attended, context = efficient_attention(keys, queries, torch.tensor([[[3.0], [6.0]]]))
    torch.testing.assert_close(context, torch.tensor([[[4.0], [4.5]]]))
    torch.testing.assert_close(attended, torch.tensor([[[4.25], [4.375]]]))


@pytest.mark.parametrize("spatial", [(70, 41), (3, 5), (1, 4), (19, 6, 5), (1, 3, 2)])
@pytest.mark.parametrize("use_checkpoint", [False, True])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_block_in_strips_is_the_formula(spatial, use_checkpoint, batch_size, monkeypatch):
    monkeypatch.setattr("monai_fusenet.networks.blocks.efficient_transformer.CPU_VALUES", 1)  # the smallest strips
    block = EfficientTransformerBlock(len(spatial), features=3, use_checkpoint=use_checkpoint).double()
    features = draw(batch_size, 3, *spatial).requires_grad_()
    parameters = [features, *block.parameters()]

    def gradients(mixed, context):
        weights = torch.linspace(0, 1, mixed.numel(), dtype=mixed.dtype).view(mixed.shape)
        cost = (weights * mixed).sum() + context.square().sum()
        return torch.autograd.grad(cost, parameters)

    tokens = to_tokens(features)
    normalized = block.norm1(tokens)
    attended, expected_context = efficient_attention(
        block.keys(normalized), block.queries(normalized), block.values(normalized)
    )
    tokens = tokens + block.reprojection(attended)
    expected = to_map(tokens + block.feed_forward(block.norm2(tokens), list(spatial)), list(spatial))
    mixed, context = block(features)
    torch.testing.assert_close(mixed, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(context, expected_context, rtol=1e-12, atol=1e-12)
    for actual, right in zip(gradients(mixed, context), gradients(expected, expected_context), strict=True):
        torch.testing.assert_close(actual, right, rtol=1e-9, atol=1e-10)


def test_expansion_runs_over_rows_then_columns_then_features():
    expansion = PatchExpanding(2, features=2)
    with torch.no_grad():
        expansion.linear.weight.copy_(torch.arange(16.0).view(8, 2))
    raised = expansion(torch.tensor([1.0, 0.0]).view(1, 2, 1, 1))
    # The first column of the weights is 0, 2, ..., 14: two features for each of (0, 0), (0, 1), (1, 0), (1, 1).
    assert raised[0, 0].tolist() == [[0, 4], [8, 12]]
    assert raised[0, 1].tolist() == [[2, 6], [10, 14]]


@pytest.mark.parametrize("spatial", [(3, 2), (2, 3, 4)])
def test_expansion_doubles_each_side(spatial):
    expansion, coarse = PatchExpanding(len(spatial), features=3).double(), draw(2, 3, *spatial)
    raised = expansion(coarse)
    assert raised.shape == (2, 3, *(2 * side for side in spatial))
    last = expansion.linear.weight[-3:] @ coarse[(1, slice(None), *(side - 1 for side in spatial))]
    torch.testing.assert_close(raised[(1, slice(None), *(2 * side - 1 for side in spatial))], last)
    first = expansion.linear.weight[:3] @ coarse[(1, slice(None), *(side - 1 for side in spatial))]
    torch.testing.assert_close(raised[(1, slice(None), *(2 * side - 2 for side in spatial))], first)


@pytest.mark.parametrize("spatial", [(3, 2), (2, 3, 4)])
def test_a_projection_may_follow_the_expansion(spatial):
    expansion, coarse, projection = PatchExpanding(len(spatial), 3).double(), draw(2, 3, *spatial), draw(5, 3)
    expected = torch.einsum("oc,bc...->bo...", projection, expansion(coarse))
    torch.testing.assert_close(expansion(coarse, projection), expected)


@pytest.mark.parametrize("spatial", [(7, 6), (5, 4, 3)])
def test_patches_of_two_windows_one_pixel_apart(spatial):
    """Size-free tokens, from torch's own pooling of the two windows."""
    attention = ShiftedPatchAttention(len(spatial), features=3, patch_grid=2, scale=0.5).double()
    features = draw(2, 3, *spatial)
    axes = (0, *range(2, features.ndim))
    centred = features - features.mean(axes, keepdim=True)
    normalized = centred / (features.var(axes, unbiased=False, keepdim=True) + 1e-5).sqrt()
    pool = {2: torch.nn.functional.adaptive_avg_pool2d, 3: torch.nn.functional.adaptive_avg_pool3d}[len(spatial)]
    late = normalized[(..., *[slice(1, None)] * len(spatial))]
    early = normalized[(..., *[slice(None, -1)] * len(spatial))]
    queries, keys = (attention.projection(to_tokens(pool(window, 2))) for window in (late, early))
    torch.testing.assert_close(attention(features), (0.5 * queries @ keys.mT).softmax(dim=-1))


@pytest.mark.parametrize("spatial", [(7, 5), (5, 7, 3)])
def test_published_patches_are_flattened_by_row_column_and_channel(spatial):
    attention = ShiftedPatchAttention(len(spatial), features=2, patch_grid=2, img_size=spatial).double().eval()
    features = draw(1, 2, *spatial)
    sides = [(side - 1) // 2 for side in spatial]
    patch = features[(0, slice(None), *(slice(1 + n, 1 + 2 * n) for n in sides))]  # the last of the late window
    expected = attention.projection(patch.movedim(0, -1).flatten() / (1 + 1e-5) ** 0.5)
    torch.testing.assert_close(attention.tokens(features)[0][0, -1], expected)


def test_rows_of_a_patch_attention_sum_to_one():
    attention = ShiftedPatchAttention(2, features=3)(draw(2, 3, 9, 11).float())
    torch.testing.assert_close(attention.sum(dim=2), torch.ones(2, 64))
