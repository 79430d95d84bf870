import math
import re

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F

from benchmarks.transcription_s3net import transcribed_transform
from monai_fusenet.losses import (
    S3NetLoss,
    SpatialContinuityLoss,
    TransformConsistencyLoss,
    grey_values,
    label_cross_entropy,
    published_continuity,
)

SPATIAL = pytest.mark.parametrize("spatial", [(5, 3), (2, 3, 4)])
BATCH_SIZES = pytest.mark.parametrize("batch_size", [1, 2])


def draw(spatial, batch_size=2, clusters=3):
    """Scores of both heads, and the correspondence of a mirrored view, whose first pixel came from outside."""
    torch.manual_seed(0)
    scores = torch.randn(2, batch_size, clusters, *spatial, dtype=torch.float64)
    numbers = torch.arange(math.prod(spatial)).view(1, 1, *spatial).flip(-1).repeat(batch_size, 1, *[1] * len(spatial))
    numbers.flatten(1)[:, 0] = -1
    return *scores.unbind(), numbers


@SPATIAL
def test_label_cross_entropy_is_that_of_torch(spatial):
    scores, _, _ = draw(spatial)
    labels = torch.randint(0, 3, (2, *spatial))
    torch.testing.assert_close(label_cross_entropy(scores, labels), F.cross_entropy(scores, labels, reduction="none"))


# Equivariance.


def test_equivariance_by_hand():
    # One row of three pixels, of clusters 0, 1 and 1; the view shows the last, nothing, and the first.
    scores = torch.tensor([[3.0, 0, 0], [0, 2, 1]]).view(1, 2, 1, 3)
    auxiliary_scores = torch.tensor([[0.0, 9, 1], [0, 0, 0]]).view(1, 2, 1, 3)
    correspondence = torch.tensor([2, -1, 0]).view(1, 1, 1, 3)
    expected = (math.log(2) + math.log(1 + math.exp(-1))) / 2  # of label 1 with a tie, and of label 0 with 1 to 0
    assert TransformConsistencyLoss()(scores, auxiliary_scores, correspondence).item() == pytest.approx(expected)


@SPATIAL
def test_a_view_whose_scores_moved_along_costs_what_the_image_does(spatial):
    scores, _, correspondence = draw(spatial)
    correspondence = torch.arange(math.prod(spatial)).view(1, 1, *spatial).flip(-1).expand_as(correspondence)
    loss = TransformConsistencyLoss()(scores, scores.flip(-1), correspondence)
    torch.testing.assert_close(loss, F.cross_entropy(scores, scores.argmax(dim=1)))


@SPATIAL
def test_pixels_from_outside_do_not_count(spatial):
    scores, auxiliary_scores, correspondence = draw(spatial)
    before = TransformConsistencyLoss()(scores, auxiliary_scores, correspondence)
    auxiliary_scores.flatten(2)[:, 0, 0] += 100
    assert torch.equal(TransformConsistencyLoss()(scores, auxiliary_scores, correspondence), before)


@SPATIAL
def test_an_image_costs_in_a_batch_what_it_costs_alone(spatial):
    scores, auxiliary_scores, correspondence = draw(spatial)
    correspondence[0].flatten()[:4] = -1
    for mode in ("equivariant", "published"):
        if mode == "published" and len(spatial) == 3:
            continue
        loss = TransformConsistencyLoss(mode)
        alone = [loss(scores[[index]], auxiliary_scores[[index]], correspondence[[index]]).item() for index in range(2)]
        assert loss(scores, auxiliary_scores, correspondence).item() == pytest.approx(sum(alone) / 2)


def test_an_image_without_correspondence_costs_nothing():
    scores, auxiliary_scores, correspondence = draw((5, 3), batch_size=1)
    assert TransformConsistencyLoss()(scores, auxiliary_scores, torch.full_like(correspondence, -1)).item() == 0


@SPATIAL
@BATCH_SIZES
def test_gradients_of_equivariance(batch_size, spatial):
    scores, auxiliary_scores, correspondence = draw(spatial, batch_size)
    scores.requires_grad_()
    auxiliary_scores.requires_grad_()
    loss = TransformConsistencyLoss()
    assert gradcheck(lambda auxiliary: loss(scores, auxiliary, correspondence), auxiliary_scores)
    loss(scores, auxiliary_scores, correspondence).backward()
    assert scores.grad is None


# As published.


def test_turned_maps_by_hand():
    square = torch.tensor([[1.0, 2], [3, 4]]).view(1, 1, 2, 2)
    assert transcribed_transform(square).flatten().tolist() == [3, 1, 4, 2]  # clockwise
    oblong = torch.tensor([[9.0, 1, 2, 9], [9, 3, 4, 9]]).view(1, 1, 2, 4)
    assert transcribed_transform(oblong).squeeze().tolist() == [[0, 3, 1, 0], [0, 4, 2, 0]]


@pytest.mark.parametrize("spatial", [(6, 6), (7, 3), (2, 8)])
def test_published_consistency_is_that_of_turned_maps(spatial):
    scores, auxiliary_scores, _ = draw(spatial)
    labels = transcribed_transform(scores).argmax(dim=1)
    expected = F.cross_entropy(transcribed_transform(auxiliary_scores), labels)
    torch.testing.assert_close(TransformConsistencyLoss("published")(scores, auxiliary_scores), expected)


@pytest.mark.parametrize("shape", [(1, 2, 4, 5), (1, 2, 3, 3, 3)])
def test_shapes_that_cannot_be_turned(shape):
    message = f"the published turn is of maps (B, K, height, width) whose sides are both even or both odd, got {shape}"
    scores = torch.zeros(shape)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        TransformConsistencyLoss("published")(scores, scores)


def test_the_published_turn_cancels_on_a_square():
    scores, auxiliary_scores, _ = draw((7, 7))
    loss = TransformConsistencyLoss("published")(scores, auxiliary_scores)
    torch.testing.assert_close(loss, F.cross_entropy(auxiliary_scores, scores.argmax(dim=1)))


def test_zeros_that_the_published_turn_brings_in_cost_log_k():
    scores, auxiliary_scores, _ = draw((1, 3))
    middle = F.cross_entropy(auxiliary_scores[..., 1], scores[..., 1].argmax(dim=1))
    loss = TransformConsistencyLoss("published")(scores, auxiliary_scores)
    torch.testing.assert_close(loss, (middle + 2 * math.log(3)) / 3)


def test_grey_values_of_8_bit():
    colours = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [1, 2, 3]])  # blue, green, red
    assert grey_values(colours).tolist() == [29, 150, 76, 255, 2]


def test_published_continuity_by_hand():
    # Two half planes, left 0 and right 1: across the edge x is 4 in two columns, y and xy are 0.
    scores = torch.zeros(1, 2, 3, 6)
    scores[:, 1, :, 3:] = 1
    parts = published_continuity(scores, torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(parts, torch.tensor([[4 / 3, 4 / 3, 0]]))
    loss = SpatialContinuityLoss(mode="published", greys=[0, 255])
    assert loss(scores).item() == pytest.approx(8 / 3)
    assert loss(torch.cat([scores, 0 * scores])).item() == pytest.approx(4 / 3)
    assert SpatialContinuityLoss(mode="published", greys=[0, 255], reduction="none")(scores).shape == (1,)


def test_published_continuity_trains_nothing():
    scores, auxiliary_scores, _ = (part.requires_grad_() if part.is_floating_point() else part for part in draw((5, 3)))
    assert not SpatialContinuityLoss(mode="published")(scores).requires_grad
    terms = S3NetLoss(0, 0, 4, transform_mode="published", spatial_mode="published").terms((scores, auxiliary_scores))
    assert terms.total > 0
    terms.total.backward()
    assert scores.grad.abs().max() == 0


def test_colours_are_drawn_once_and_for_all():
    one, other = (SpatialContinuityLoss(mode="published").greys for _ in range(2))
    assert torch.equal(one, other)
    assert one.shape == (100,)
    assert one.unique().numel() > 50
    assert 0 <= one.min() <= one.max() <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "hard"}, 'mode must be "soft" or "published", got "hard"'),
        ({"greys": [0, 300]}, "greys must be a list of values from 0 to 255, got [0, 300]"),
        ({"greys": [0.0, float("nan")]}, "greys must be a list of values from 0 to 255, got [0.0, nan]"),
        ({"greys": []}, "greys must be a list of values from 0 to 255, got []"),
    ],
)
def test_arguments_of_continuity(options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        SpatialContinuityLoss(**options)


@pytest.mark.parametrize("shape", [(1, 2, 1, 5), (1, 2, 3, 3, 3)])
def test_shapes_without_published_continuity(shape):
    message = f'mode "published" takes scores (B, K, height, width), no side shorter than 2, got {shape}'
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        SpatialContinuityLoss(mode="published")(torch.zeros(shape))


# The sum.


@SPATIAL
def test_terms_add_up(spatial):
    scores, auxiliary_scores, correspondence = draw(spatial)
    terms = S3NetLoss(2, 3, 5).terms((scores, auxiliary_scores), {"correspondence": correspondence})
    assert terms._fields == ("total", "self_labeling", "transform_consistency", "spatial_continuity")
    torch.testing.assert_close(terms.total, sum(terms[1:]))
    torch.testing.assert_close(terms.self_labeling, 2 * F.cross_entropy(scores, scores.argmax(dim=1)))
    expected = TransformConsistencyLoss()(scores, auxiliary_scores, correspondence)
    torch.testing.assert_close(terms.transform_consistency, 3 * expected)
    torch.testing.assert_close(terms.spatial_continuity, 5 * SpatialContinuityLoss()(scores))
    assert S3NetLoss(2, 3, 5)((scores, auxiliary_scores), {"correspondence": correspondence}) == terms.total


@SPATIAL
@BATCH_SIZES
def test_gradients_through_a_norm(batch_size, spatial):
    """The scores of S3-Net end in a batch norm, from some layouts of gradients of which torch makes wrong ones."""
    scores, auxiliary_scores, correspondence = draw(spatial, batch_size)
    loss = S3NetLoss()
    axes = [0, *range(2, scores.ndim)]

    def by_hand(maps):
        centred = maps - maps.mean(axes, keepdim=True)
        return centred / (centred.square().mean(axes, keepdim=True) + 1e-5).sqrt()

    gradients = []
    for norm in (by_hand, lambda maps: F.batch_norm(maps, None, None, training=True)):
        leaves = [part.clone().requires_grad_() for part in (scores, auxiliary_scores)]
        total = loss([norm(leaf) for leaf in leaves], {"correspondence": correspondence})
        gradients.append(torch.autograd.grad(total, leaves))
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


def test_what_is_missing_is_told():
    scores, auxiliary_scores, correspondence = draw((5, 3))
    loss = S3NetLoss()
    for output in ((scores,), (scores, auxiliary_scores, scores)):
        message = (
            "expected scores of the image and auxiliary scores of a second view, which the augmentation must add, "
            f"got {len(output)} outputs"
        )
        with pytest.raises(ValueError, match=f"^{message}$"):
            loss.terms(output, {})
    for batch in (None, {}):
        with pytest.raises(
            ValueError, match=r"^the batch has no correspondence: the second view must be a geometric one"
        ):
            loss.terms((scores, auxiliary_scores), batch)
    message = "the correspondence must be whole numbers of shape (2, 1, 5, 3), got torch.int64 of (2, 5, 3)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        loss.terms((scores, auxiliary_scores), {"correspondence": correspondence[:, 0]})
    with pytest.raises(ValueError, match=r"^the correspondence must be whole numbers of .*, got torch.float32 of "):
        loss.terms((scores, auxiliary_scores), {"correspondence": correspondence.float()})
    with pytest.raises(
        ValueError, match=r"^scores and auxiliary_scores must have the same shape .*, got \(2, 3, 5, 3\) and"
    ):
        loss.terms((scores, auxiliary_scores[1:]), {"correspondence": correspondence})


@pytest.mark.parametrize("name", ["lambda_self", "lambda_transform", "lambda_spatial"])
def test_negative_weights(name):
    with pytest.raises(ValueError, match=rf"^{name} must be a finite number of at least 0, got -1$"):
        S3NetLoss(**{name: -1})
    with pytest.raises(ValueError, match=r'^mode must be "equivariant" or "published", got "soft"$'):
        S3NetLoss(transform_mode="soft")
