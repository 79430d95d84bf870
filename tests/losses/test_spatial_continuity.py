import itertools
import re

import pytest
import torch
from batch_norms import assert_right_behind_a_batch_norm

from monai_fusenet.losses import SpatialContinuityLoss, spatial_continuity
from monai_fusenet.utils import strips

SIZES = pytest.mark.parametrize("spatial", [(5, 3), (11, 7), (4, 3, 5), (9, 1), (1, 7)])


def draw(*shape):
    torch.manual_seed(0)
    return torch.randn(*shape, dtype=torch.float64)


def written_out(maps):
    """The formula, one image and one pair of neighbours after the other."""
    costs = []
    for image in maps:
        cost = 0.0
        for axis in range(1, image.ndim):
            slices = image.unbind(axis)
            if len(slices) > 1:
                cost += torch.stack([a - b for a, b in itertools.pairwise(slices)]).abs().mean()
        costs.append(cost)
    return torch.stack(costs)


def test_a_value_known_by_hand():
    maps = torch.tensor([[0.0, 1, 3], [2, 2, 2]]).view(1, 1, 2, 3)
    # Down: |2|, |1|, |-1|; across: 1, 2, 0, 0.
    assert spatial_continuity(maps).tolist() == pytest.approx([4 / 3 + 3 / 4])


def test_a_volume_known_by_hand():
    maps = torch.arange(8.0).view(1, 1, 2, 2, 2)  # steps of 4, 2 and 1
    assert spatial_continuity(maps).tolist() == [7.0]


def test_the_mean_is_over_clusters_too():
    maps = torch.zeros(1, 4, 3, 2)
    maps[0, 1, :, 1] = 8.0  # all 3 pairs across, in one cluster of 4
    assert spatial_continuity(maps).tolist() == [2.0]


@SIZES
def test_is_the_formula(spatial):
    maps = draw(2, 3, *spatial)
    torch.testing.assert_close(spatial_continuity(maps), written_out(maps), rtol=1e-12, atol=0)


@SIZES
def test_strips_change_nothing(spatial, monkeypatch):
    monkeypatch.setattr(strips, "CPU_VALUES", 1)
    monkeypatch.setattr(strips, "MIN_ROWS", 2)
    maps = draw(2, 3, *spatial).requires_grad_()
    costs = spatial_continuity(maps)
    torch.testing.assert_close(costs, written_out(maps), rtol=1e-12, atol=0)
    expected = torch.autograd.grad(written_out(maps)[1], maps)
    torch.testing.assert_close(torch.autograd.grad(costs[1], maps), expected)


def test_one_pixel_costs_nothing():
    maps = draw(2, 3, 1, 1).requires_grad_()
    SpatialContinuityLoss()(maps).backward()
    assert SpatialContinuityLoss()(maps).item() == 0
    assert not maps.grad.any()


@pytest.mark.parametrize("on", ["scores", "probabilities"])
def test_a_flat_map_costs_nothing_and_stays(on):
    scores = torch.full((1, 3, 4, 5), 2.0, requires_grad=True)
    loss = SpatialContinuityLoss(on)(scores)
    loss.backward()
    assert loss.item() == 0
    assert not scores.grad.any()


@SIZES
def test_an_image_costs_in_a_batch_what_it_costs_alone(spatial):
    maps = draw(3, 4, *spatial)
    alone = torch.cat([spatial_continuity(image) for image in maps.split(1)])
    torch.testing.assert_close(spatial_continuity(maps), alone, rtol=0, atol=0)
    torch.testing.assert_close(SpatialContinuityLoss()(maps), alone.mean())
    torch.testing.assert_close(SpatialContinuityLoss(reduction="sum")(maps), alone.sum())
    torch.testing.assert_close(SpatialContinuityLoss(reduction="none")(maps), alone)


@pytest.mark.parametrize("spatial", [(5, 3), (4, 3, 5)])
def test_memory_layout_does_not_matter(spatial):
    maps = draw(1, 4, *spatial)
    last = maps.movedim(1, -1).contiguous().movedim(-1, 1)
    torch.testing.assert_close(spatial_continuity(last), spatial_continuity(maps))


def test_probabilities_cannot_be_cheapened_by_scale():
    scores = 100 * draw(1, 3, 5, 7).sign()
    loss = SpatialContinuityLoss("probabilities")
    torch.testing.assert_close(loss(scores), loss(100 * scores))
    torch.testing.assert_close(SpatialContinuityLoss()(100 * scores), 100 * SpatialContinuityLoss()(scores))


def test_two_certain_half_planes():
    scores = torch.zeros(1, 2, 3, 6)
    scores[:, 0, :, :2] = scores[:, 1, :, 2:] = 1e4
    # One pair of five across a row differs, by 1 in both clusters.
    assert SpatialContinuityLoss("probabilities")(scores).item() == pytest.approx(1 / 5)


def test_one_logit_is_a_foreground_against_its_background():
    logits = draw(2, 1, 5, 3)
    both = torch.cat([torch.zeros_like(logits), logits], dim=1)
    loss = SpatialContinuityLoss("probabilities")
    torch.testing.assert_close(loss(logits), loss(both))


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("spatial", [(16, 9), (5, 8, 6)])
@pytest.mark.parametrize("on", ["scores", "probabilities"])
def test_gradients_behind_a_batch_norm(batch_size, spatial, on):
    assert_right_behind_a_batch_norm(SpatialContinuityLoss(on), batch_size, spatial)


def test_target_is_ignored():
    scores = draw(2, 3, 4, 5)
    assert SpatialContinuityLoss()(scores, torch.rand(2, 1, 4, 5)).item() == SpatialContinuityLoss()(scores).item()


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (1, 2, 3, 4, 5, 6)])
def test_scores_of_another_shape(shape):
    message = f"scores must have the shape (B, K, *spatial) in 2-D or 3-D, got {shape}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        SpatialContinuityLoss()(torch.zeros(shape))


def test_an_unknown_map():
    with pytest.raises(ValueError, match=r'^on must be "scores" or "probabilities", got "labels"$'):
        SpatialContinuityLoss(on="labels")


def test_an_unknown_reduction():
    with pytest.raises(ValueError, match="'average'"):
        SpatialContinuityLoss(reduction="average")
