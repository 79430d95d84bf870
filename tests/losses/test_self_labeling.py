import math

import pytest
import torch

from monai_fusenet.losses import EdgeRefinementLoss, SelfLabelingLoss, self_labeling_loss


@pytest.mark.parametrize("spatial", [(1,), (3, 5), (2, 3, 4)])
@pytest.mark.parametrize("clusters", [2, 7])
@pytest.mark.parametrize("value", [0.0, -3.5, 1e4])
def test_tied_scores_cost_log_k(spatial, clusters, value):
    loss = self_labeling_loss(torch.full((2, clusters, *spatial), value, dtype=torch.float64))
    assert loss.shape == (2, *spatial)
    torch.testing.assert_close(loss, torch.full_like(loss, math.log(clusters)), rtol=1e-9, atol=1e-9)


def test_known_values():
    # Odds 3 : 1 and 1 : 8 : 1, so the winner has 3/4 and 8/10.
    scores = torch.tensor([math.log(3), 0.0]).reshape(1, 2, 1)
    assert self_labeling_loss(scores).item() == pytest.approx(-math.log(3 / 4))
    scores = torch.tensor([0.0, math.log(8), 0.0]).reshape(1, 3, 1)
    assert self_labeling_loss(scores).item() == pytest.approx(-math.log(8 / 10))


@pytest.mark.parametrize("spatial", [(3, 5), (2, 3, 4)])
def test_is_the_cross_entropy_against_the_argmax(spatial):
    torch.manual_seed(0)
    scores = torch.randn(2, 5, *spatial, dtype=torch.float64)
    expected = torch.nn.functional.cross_entropy(scores, scores.argmax(dim=1))
    assert SelfLabelingLoss()(scores).item() == pytest.approx(expected.item(), rel=1e-12)


def test_certain_and_huge_scores_cost_nothing():
    scores = torch.zeros(1, 3, 2, 2)
    scores[:, 1] = 1e4
    assert SelfLabelingLoss()(scores).item() == 0.0


def test_one_cluster_costs_nothing():
    assert self_labeling_loss(torch.randn(1, 1, 3, 5)).abs().max() == 0.0


def test_descending_makes_the_winner_certain():
    scores = torch.tensor([1.0, 0.5, 0.0]).reshape(1, 3, 1, 1).requires_grad_()
    SelfLabelingLoss()(scores).backward()
    gradient = scores.grad.flatten().tolist()
    assert gradient[0] < 0 < gradient[1]
    assert sum(gradient) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("spatial", [(3, 5), (2, 3, 4)])
def test_reductions(spatial):
    torch.manual_seed(0)
    scores = torch.randn(2, 5, *spatial)
    pixels = SelfLabelingLoss(reduction="none")(scores)
    assert pixels.shape == (2, *spatial)
    torch.testing.assert_close(SelfLabelingLoss(reduction="sum")(scores), pixels.sum())
    torch.testing.assert_close(SelfLabelingLoss(reduction="mean")(scores), pixels.sum() / pixels.numel())
    torch.testing.assert_close(SelfLabelingLoss()(scores), pixels.mean())


def test_target_is_ignored():
    scores = torch.randn(2, 3, 4, 5)
    assert SelfLabelingLoss()(scores, torch.rand(2, 1, 4, 5)).item() == SelfLabelingLoss()(scores).item()


@pytest.mark.parametrize("shape", [(2, 3), (2, 2, 3, 8, 8, 8)])  # no spatial axis, and heads of deep supervision
def test_what_are_no_scores(shape):
    with pytest.raises(
        ValueError, match=r"^scores must have the shape \(B, K, \*spatial\) in 1-D or 2-D or 3-D"
    ) as told:
        SelfLabelingLoss()(torch.zeros(shape))
    assert str(told.value).endswith(f", got {shape}")


@pytest.mark.parametrize("loss", [SelfLabelingLoss(), EdgeRefinementLoss()])
def test_heads_of_deep_supervision_in_a_list(loss):
    with pytest.raises(
        ValueError, match=r"^scores must be a tensor \(B, K, .* got a list; with deep supervision, call "
    ):
        loss([torch.zeros(1, 2, 4, 4)])


@pytest.mark.parametrize("spatial", [(6, 5), (3, 4, 5)])
def test_one_channel_is_a_foreground_logit(spatial):
    logit = torch.tensor(math.log(3)) * torch.where(torch.rand(2, 1, *spatial) > 0.5, 1, -1)
    assert SelfLabelingLoss()(logit).item() == pytest.approx(-math.log(0.75))  # each pixel is sure of its side by 3/4


def test_an_unknown_reduction():
    with pytest.raises(ValueError, match="'average'"):
        SelfLabelingLoss(reduction="average")
