import itertools

import numpy as np
import pytest
import torch

from monai_fusenet.losses import EdgeRefinementLoss, edge_disagreement, published_edge_map

# What antialiased bilinear resampling does along one axis, by hand: output i looks at (i + 1/2) * scale with a tent as
# wide as the scale (at least 1) to each side, and its weights are normalised to sum 1.
DOWN_3_TO_1 = np.array([[2, 3, 2]]) / 7
UP_1_TO_3 = np.array([[1], [1], [1]])
DOWN_4_TO_2 = np.array([[3, 3, 1, 0], [0, 1, 3, 3]]) / 7
UP_2_TO_4 = np.array([[4, 0], [3, 1], [1, 3], [0, 4]]) / 4
DOWN_5_TO_2 = np.array([[7, 9, 5, 1, 0], [0, 1, 5, 9, 7]]) / 22
UP_2_TO_5 = np.array([[10, 0], [9, 1], [5, 5], [1, 9], [0, 10]]) / 10
ALONG = {
    3: torch.from_numpy(UP_1_TO_3 @ DOWN_3_TO_1),
    4: torch.from_numpy(UP_2_TO_4 @ DOWN_4_TO_2),
    5: torch.from_numpy(UP_2_TO_5 @ DOWN_5_TO_2),
}


def certain(clusters, count):
    """Scores whose softmax is exactly 0 or 1."""
    return 1000.0 * torch.nn.functional.one_hot(torch.as_tensor(clusters), count).movedim(-1, 1).double()


def slow_edge_disagreement(scores):
    """By the matrices above, axis for axis, for factor 2 and sides of 3 to 5 pixels."""
    p = scores.softmax(dim=1)
    q = p
    for axis in range(2, scores.ndim):
        q = torch.tensordot(q, ALONG[scores.shape[axis]], dims=([axis], [1])).movedim(-1, axis)
    return (p - q).abs().sum(dim=1) / 2


def test_a_straight_edge():
    # [1, 1, 0, 0] becomes [6, 1] / 7 from afar and [24, 19, 9, 4] / 28 again: differences of 4, 9, 9 and 4.
    scores = certain([[[0, 0, 1, 1]] * 3], 2)
    expected = torch.tensor([4.0, 9, 9, 4]).double() / 28
    torch.testing.assert_close(edge_disagreement(scores, factor=2), expected.expand(1, 3, 4))
    assert EdgeRefinementLoss(factor=2)(scores).item() == pytest.approx(13 / 56)


def test_a_straight_edge_along_the_other_axis():
    scores = certain([[[0] * 5, [0] * 5, [1] * 5, [1] * 5]], 2)
    assert EdgeRefinementLoss(factor=2)(scores).item() == pytest.approx(13 / 56)


def test_an_edge_off_the_middle():
    # [1, 0, 0, 0] becomes [3, 0] / 7 and [12, 9, 3, 0] / 28.
    expected = torch.tensor([[[16.0, 9, 3, 0]] * 3]).double() / 28
    torch.testing.assert_close(edge_disagreement(certain([[[1, 0, 0, 0]] * 3], 2), factor=2), expected)


def test_an_isolated_pixel_costs_more_than_a_straight_edge():
    # In a side of 3, the middle has weight 3/7; of 4, the second has 3/7 * 3/4 + 1/7 * 1/4 = 10/28 of itself.
    clusters = torch.zeros(1, 3, 4, dtype=torch.long)
    clusters[0, 1, 1] = 1
    loss = EdgeRefinementLoss(factor=2, reduction="none")(certain(clusters, 2))
    assert loss[0, 1, 1].item() == pytest.approx(1 - 3 / 7 * 10 / 28)
    assert loss[0, 1, 1] > edge_disagreement(certain([[[0, 0, 1, 1]] * 3], 2), factor=2).max()


@pytest.mark.parametrize("spatial", [*itertools.permutations((3, 4, 5), 2), *itertools.permutations((3, 4, 5))])
@pytest.mark.parametrize("clusters", [2, 4])
def test_equals_explicit_matrices(spatial, clusters):
    torch.manual_seed(0)
    scores = 3 * torch.randn(2, clusters, *spatial, dtype=torch.float64)
    loss = edge_disagreement(scores, factor=2)
    assert loss.shape == (2, *spatial)
    torch.testing.assert_close(loss, slow_edge_disagreement(scores), rtol=1e-10, atol=1e-12)


def test_equals_explicit_matrices_on_a_noisy_map():
    torch.manual_seed(0)
    scores = certain(torch.randint(3, (1, 5, 4)), 3)
    torch.testing.assert_close(edge_disagreement(scores, factor=2), slow_edge_disagreement(scores))


@pytest.mark.parametrize("spatial", [(40, 20), (20, 40), (33, 1), (35, 40, 20)])
def test_swapped_axes_swap_the_result(spatial):
    # Seen from afar, some of these maps are a single column, for which torch's antialiased resampling is wrong.
    torch.manual_seed(0)
    scores = torch.randn(2, 3, *spatial, dtype=torch.float64)
    swapped = edge_disagreement(scores.transpose(-1, -2).contiguous()).transpose(-1, -2)
    torch.testing.assert_close(edge_disagreement(scores), swapped)


@pytest.mark.parametrize("axis", [2, 3, 4])
def test_a_volume_constant_along_an_axis_costs_what_its_plane_does(axis):
    torch.manual_seed(0)
    plane = torch.randn(2, 3, 37, 41, dtype=torch.float64)
    volume = plane.unsqueeze(axis).expand(*plane.shape[:axis], 19, *plane.shape[axis:])
    assert EdgeRefinementLoss()(volume).item() == pytest.approx(EdgeRefinementLoss()(plane).item(), rel=1e-10)


@pytest.mark.parametrize("spatial", [(37, 21), (1, 9), (3, 2), (5, 1, 3), (17, 4, 33)])
@pytest.mark.parametrize("factor", [1, 2, 16, 100])
def test_a_constant_map_costs_nothing(spatial, factor):
    scores = (
        torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64).reshape(1, 3, *[1] * len(spatial)).expand(2, 3, *spatial)
    )
    assert EdgeRefinementLoss(factor)(scores).item() == pytest.approx(0, abs=1e-12)
    assert EdgeRefinementLoss(factor, mode="published")(scores).item() == 0


@pytest.mark.parametrize("spatial", [(37, 21), (9, 17, 20)])
def test_lies_between_0_and_1(spatial):
    torch.manual_seed(0)
    loss = edge_disagreement(100 * torch.randn(1, 50, *spatial))
    assert loss.min() >= 0
    assert 0.9 < loss.max() <= 1 + 1e-6


def test_factor_1_sees_no_difference():
    assert EdgeRefinementLoss(factor=1)(torch.randn(1, 3, 7, 5)).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("spatial", [(7, 5), (4, 3, 5)])
def test_one_channel_is_a_foreground_logit(spatial):
    torch.manual_seed(0)
    logit = torch.randn(2, 1, *spatial, dtype=torch.float64)
    two_channels = torch.cat([torch.zeros_like(logit), logit], dim=1)
    for mode in ("soft", "published"):
        loss = EdgeRefinementLoss(factor=2, mode=mode)
        assert loss(logit).item() == loss(two_channels).item() > 0


def test_one_channel_in_figures():
    # A foreground of certainty sigmoid(log 3) = 3/4, and 1/4 beyond the edge: half of the contrast of a hard edge.
    logit = torch.log(torch.tensor(3.0)) * torch.tensor([[1.0, 1, -1, -1]] * 3).reshape(1, 1, 3, 4)
    assert EdgeRefinementLoss(factor=2)(logit).item() == pytest.approx(13 / 56 / 2)


@pytest.mark.parametrize("spatial", [(7, 5), (4, 3, 5)])
def test_reductions(spatial):
    torch.manual_seed(0)
    scores = torch.randn(2, 4, *spatial)
    for mode in ("soft", "published"):
        pixels = EdgeRefinementLoss(2, mode, reduction="none")(scores)
        assert pixels.shape == (2, *spatial)
        torch.testing.assert_close(EdgeRefinementLoss(2, mode, reduction="sum")(scores), pixels.sum())
        torch.testing.assert_close(EdgeRefinementLoss(2, mode)(scores), pixels.sum() / pixels.numel())


def test_target_is_ignored():
    scores = torch.randn(2, 3, 4, 5)
    assert EdgeRefinementLoss()(scores, torch.rand(2, 1, 4, 5)).item() == EdgeRefinementLoss()(scores).item()


# As published: a difference of label numbers.


def test_published_mode_by_hand():
    # One pixel of cluster 5 in a map of cluster 2 (3 x 4) is out of sight from afar: 5 - 2, and 0 elsewhere.
    clusters = torch.full((1, 3, 4), 2)
    clusters[0, 1, 1] = 5
    edges = published_edge_map(certain(clusters, 7), factor=2)
    expected = torch.zeros(1, 3, 4, dtype=torch.float64)
    expected[0, 1, 1] = 3
    assert torch.equal(edges, expected)
    assert EdgeRefinementLoss(factor=2, mode="published")(certain(clusters, 7)).item() == 3 / 12


def test_published_mode_takes_the_difference_without_its_sign():
    clusters = torch.full((1, 3, 4), 5)
    clusters[0, 1, 1] = 2
    assert published_edge_map(certain(clusters, 7), factor=2).min() == -3
    assert EdgeRefinementLoss(factor=2, mode="published")(certain(clusters, 7)).item() == 3 / 12


@pytest.mark.parametrize("spatial", [(19, 35), (9, 17, 20)])
def test_published_mode_counts_in_integers_and_has_no_gradient(spatial):
    torch.manual_seed(0)
    scores = torch.randn(2, 6, *spatial, requires_grad=True)
    edges = EdgeRefinementLoss(mode="published", reduction="none")(scores)
    assert edges.dtype == scores.dtype
    assert torch.equal(edges, edges.round())
    assert 0 <= edges.min() < edges.max() < 6
    assert not EdgeRefinementLoss(mode="published")(scores).requires_grad


# What it is for.


def isolated(clusters):
    """How many pixels have no neighbour above, below, left or right of the same label."""
    padded = torch.nn.functional.pad(clusters, (1, 1, 1, 1), value=-1)
    neighbours = [padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]
    return int(torch.stack([neighbour != clusters for neighbour in neighbours]).all(dim=0).sum())


def test_isolated_pixels_are_counted_right():
    assert isolated(torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 2]])) == 3


def test_descending_it_makes_isolated_pixels_fewer():
    torch.manual_seed(0)
    truth = (torch.arange(40) >= 22).long().expand(34, 40)
    noisy = torch.where(torch.rand(34, 40) < 0.1, 1 - truth, truth)
    scores = torch.nn.functional.one_hot(noisy, 2).movedim(-1, 0).unsqueeze(0).float().requires_grad_()
    before = isolated(scores[0].argmax(dim=0))
    optimizer = torch.optim.SGD([scores], lr=300.0)
    for _ in range(40):
        optimizer.zero_grad()
        EdgeRefinementLoss(factor=4)(scores).backward()
        optimizer.step()
    clusters = scores[0].argmax(dim=0)
    assert before > 50
    assert isolated(clusters) < before / 4
    assert (clusters == truth).float().mean() > 0.97  # and no region is swallowed


# Bad input.


@pytest.mark.parametrize("factor", [0, -2, 2.5])
def test_a_factor_below_1(factor):
    with pytest.raises(ValueError, match=rf"^factor must be a whole number of at least 1, got {factor}$"):
        EdgeRefinementLoss(factor=factor)


def test_an_unknown_mode():
    with pytest.raises(ValueError, match=r'^mode must be "soft" or "published", got "hard"$'):
        EdgeRefinementLoss(mode="hard")


def test_an_unknown_reduction():
    with pytest.raises(ValueError, match="'average'"):
        EdgeRefinementLoss(reduction="average")


@pytest.mark.parametrize("shape", [(1, 3, 7), (1, 3, 4, 5, 6, 7)])
def test_neither_an_image_nor_a_volume(shape):
    with pytest.raises(
        ValueError, match=r"^scores must have the shape \(B, K, \*spatial\) in 2-D or 3-D, got"
    ) as error:
        EdgeRefinementLoss()(torch.zeros(shape))
    assert str(error.value).endswith(f"got {shape}")
