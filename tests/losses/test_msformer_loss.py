import math
import re

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

from monai_fusenet.losses import InterScaleConsistencyLoss, IntraScaleConsistencyLoss, MSFormerLoss


def draw(*shape):
    torch.manual_seed(0)
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def draw_output(batch_size, spatial=(5, 3)):
    attention = draw(batch_size, 4, 4).softmax(dim=-1)
    return draw(batch_size, 3, *spatial), draw(batch_size, 3, 3), draw(batch_size, 3, 3) ** 2, attention


def test_inter_scale_by_hand():
    # Rows at 0, 60, 90 and 180 degrees.
    fine = torch.tensor([[[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [1.0, 1.0]]])
    coarse = torch.tensor([[[5.0, 0.0], [1.0, math.sqrt(3)], [7.0, 0.0], [-2.0, -2.0]]])
    assert InterScaleConsistencyLoss()(fine, coarse).item() == pytest.approx((0 + 0.5 + 1 + 2) / 4)


def test_rows_without_length_cost_one():
    zeros = torch.zeros(1, 2, 3, requires_grad=True)
    loss = InterScaleConsistencyLoss()(zeros, torch.zeros(1, 2, 3))
    assert loss.item() == 1
    loss.backward()
    assert zeros.grad.isfinite().all()


def test_intra_scale_by_hand():
    attention = torch.tensor([[[0.7, 0.3], [0.1, 0.9]]])
    assert IntraScaleConsistencyLoss()(attention).item() == pytest.approx((0.3 + 0.3 + 0.1 + 0.1) / 4)


def test_intra_scale_is_told_by_the_diagonal():
    attention = draw(2, 5, 5).softmax(dim=-1)
    diagonal = attention.diagonal(dim1=1, dim2=2).mean()
    torch.testing.assert_close(IntraScaleConsistencyLoss()(attention), 2 / 5 * (1 - diagonal))


def test_patches_told_apart_cost_nothing():
    assert IntraScaleConsistencyLoss()(torch.eye(6).expand(3, 6, 6)).item() == 0


def test_terms_are_weighted():
    output = draw_output(2)
    plain, weighted = MSFormerLoss(1, 1, 1).terms(output), MSFormerLoss().terms(output)
    assert weighted._fields == ("total", "self_labeling", "inter_scale", "intra_scale")
    torch.testing.assert_close(weighted.self_labeling, plain.self_labeling)
    torch.testing.assert_close(weighted.inter_scale, 2 * plain.inter_scale)
    torch.testing.assert_close(weighted.intra_scale, 1.2 * plain.intra_scale)
    torch.testing.assert_close(weighted.total, sum(weighted[1:]))


def test_a_batch_costs_the_mean_over_its_images():
    output = draw_output(2)
    singles = [MSFormerLoss().terms([part[index : index + 1] for part in output]) for index in range(2)]
    for whole, *alone in zip(MSFormerLoss().terms(output), *singles, strict=True):
        torch.testing.assert_close(whole, sum(alone) / 2)


def test_half_precision_costs_float32():
    terms = MSFormerLoss().terms([part.detach().bfloat16() for part in draw_output(2)])
    assert {term.dtype for term in terms} == {torch.float32}


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("spatial", [(5, 3), (2, 3, 4)])
def test_gradients(batch_size, spatial):
    assert gradcheck(lambda *output: MSFormerLoss()(output), draw_output(batch_size, spatial))


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("spatial", [(5, 3), (2, 3, 4)])
def test_gradients_through_a_batch_norm(batch_size, spatial):
    """Torch 2.13 on the CPU may compute wrong ones; the reference is a batch norm written out by hand."""
    scores, *rest = draw_output(batch_size, spatial)
    axes = (0, *range(2, scores.ndim))

    def by_hand(values):
        variance = values.var(axes, unbiased=False, keepdim=True)
        return (values - values.mean(axes, keepdim=True)) / (variance + 1e-5).sqrt()

    norm = {4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[scores.ndim](3).double()
    got, expected = (
        torch.autograd.grad(MSFormerLoss()((normalize(scores), *rest)), scores)[0] for normalize in (norm, by_hand)
    )
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["lambda_self", "lambda_inter", "lambda_intra"])
def test_a_negative_weight(name):
    with pytest.raises(ValueError, match=rf"^{name} must be a finite number of at least 0, got -1$"):
        MSFormerLoss(**{name: -1})


def test_contexts_of_different_shape():
    message = "fine_context and coarse_context must have the same shape (B, d, e), got (1, 2, 3) and (1, 3, 2)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        InterScaleConsistencyLoss()(torch.zeros(1, 2, 3), torch.zeros(1, 3, 2))


def test_a_patch_attention_that_is_not_square():
    with pytest.raises(ValueError, match=r"^patch_attention must have the shape \(B, n, n\), got \(1, 2, 3\)$"):
        IntraScaleConsistencyLoss()(torch.zeros(1, 2, 3))


def test_scores_alone():
    message = (
        "MSFormerLoss needs scores, two contexts and a patch attention, which MSFormer returns for "
        "network(image, image), got 1 of them"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        MSFormerLoss().terms((torch.zeros(1, 2, 3, 3),))
