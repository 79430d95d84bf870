import pickle
from typing import NamedTuple

import pytest
import torch
from batch_norms import assert_right_behind_a_batch_norm
from torch import nn

from monai_fusenet.losses import FeatureClusteringLoss, FuseNetLoss, ScribbleLoss, WithScribbles
from monai_fusenet.losses.with_scribbles import with_scribbles
from monai_fusenet.utils.scores import merge_twin_scores

SIZES = pytest.mark.parametrize("spatial", [(5, 3), (4, 3, 5)])
NONE = 255


class Terms(NamedTuple):
    total: torch.Tensor
    size: torch.Tensor


class Size(nn.Module):
    def terms(self, output, batch=None):
        size = output[0].square().mean()
        return Terms(2 * size, size)


def draw(*shape):
    torch.manual_seed(0)
    return torch.randn(*shape, dtype=torch.float64)


def draw_scribble(batch_size, spatial):
    scribble = torch.full((batch_size, 1, *spatial), NONE)
    scribble[:, :, 0], scribble[:, :, 1] = 0, 1
    return scribble


@SIZES
def test_adds_a_term(spatial):
    scores, scribble = draw(2, 4, *spatial), draw_scribble(2, spatial)
    plain, terms = Size().terms((scores,)), WithScribbles(Size(), 0.25).terms((scores,), {"scribble": scribble})
    assert terms._fields == ("total", "size", "scribble")
    assert terms.size == plain.size
    torch.testing.assert_close(terms.scribble, 0.25 * ScribbleLoss()(scores, scribble))
    assert terms.total == plain.total + terms.scribble
    assert WithScribbles(Size(), 0.25)((scores,), {"scribble": scribble}) == terms.total


@pytest.mark.parametrize("batch", [None, {}, {"image": torch.rand(1, 3, 5, 3)}])
def test_without_scribbles_the_terms_are_those_of_the_loss(batch):
    scores = draw(1, 4, 5, 3)
    assert WithScribbles(Size()).terms((scores,), batch) == Size().terms((scores,), batch)


def test_terms_can_be_sent_to_other_processes():
    terms = WithScribbles(Size()).terms((draw(1, 4, 5, 3),), {"scribble": draw_scribble(1, (5, 3))})
    again = pickle.loads(pickle.dumps(terms))
    assert type(again) is type(terms)
    assert (again, again.scribble) == (terms, terms.scribble)


def test_twins_are_judged_together():
    scores, scribble = draw(1, 4, 5, 3), draw_scribble(1, (5, 3))
    terms = WithScribbles(Size(), 1, merge_twin_scores).terms((scores,), {"scribble": scribble})
    torch.testing.assert_close(terms.scribble, ScribbleLoss()(scores[:, :2] + scores[:, 2:], scribble))


@SIZES
@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("merge", [None, merge_twin_scores])
def test_gradients_behind_a_batch_norm(batch_size, spatial, merge):
    views, loss = {"scribble": draw_scribble(batch_size, spatial)}, WithScribbles(Size(), 0.5, merge)
    assert_right_behind_a_batch_norm(lambda scores: loss((scores,), views), batch_size, spatial)


def test_a_loss_that_listens_already_is_not_wrapped():
    loss = FeatureClusteringLoss()
    assert with_scribbles(loss) is loss
    assert with_scribbles(with_scribbles(FuseNetLoss())).loss_function.lambda_edge == 0.5


def test_a_negative_weight():
    with pytest.raises(ValueError, match=r"^lambda_scribble must be a finite number of at least 0, got -1$"):
        WithScribbles(Size(), -1)
