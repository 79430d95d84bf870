import pytest
import torch
from batch_norms import assert_right_behind_a_batch_norm
from torch.autograd import gradcheck

from monai_fusenet.inferers.ensemble import SumOverImages
from monai_fusenet.losses import FeatureClusteringLoss, ScribbleLoss, SelfLabelingLoss, SpatialContinuityLoss

SIZES = pytest.mark.parametrize("spatial", [(5, 3), (4, 3, 5)])
NONE = 255


def draw(*shape):
    torch.manual_seed(0)
    return torch.randn(*shape, dtype=torch.float64)


def draw_scribble(batch_size, spatial):
    scribble = torch.full((batch_size, 1, *spatial), NONE)
    scribble[:, :, 0], scribble[:, :, 1] = 0, 1
    return scribble


@SIZES
def test_terms_are_weighted_and_summed(spatial):
    scores = draw(2, 4, *spatial)
    terms = FeatureClusteringLoss(2.0, 3.0).terms((scores,), {"image": scores})
    assert terms._fields == ("total", "self_labeling", "continuity", "scribble")
    torch.testing.assert_close(terms.self_labeling, 2 * SelfLabelingLoss()(scores))
    torch.testing.assert_close(terms.continuity, 3 * SpatialContinuityLoss()(scores))
    assert terms.scribble == 0
    assert terms.total == terms.self_labeling + terms.continuity
    assert FeatureClusteringLoss(2.0, 3.0)((scores,)) == terms.total


@SIZES
def test_scribbled_pixels_have_no_part_in_the_self_labeling(spatial):
    scores, scribble = draw(2, 4, *spatial), draw_scribble(2, spatial)
    terms = FeatureClusteringLoss().terms((scores,), {"scribble": scribble})
    torch.testing.assert_close(terms.self_labeling, SelfLabelingLoss()(scores[:, :, 2:]))
    torch.testing.assert_close(terms.scribble, 0.5 * ScribbleLoss()(scores, scribble))
    torch.testing.assert_close(terms.total, terms.self_labeling + terms.continuity + terms.scribble)


@SIZES
def test_an_image_costs_in_a_batch_what_it_costs_alone(spatial):
    scores, scribble = draw(3, 4, *spatial), draw_scribble(3, spatial)
    scribble[0] = NONE  # none
    scribble[2] = 0  # everywhere
    loss = FeatureClusteringLoss()
    alone = [
        loss.terms((one,), {"scribble": drawn}) for one, drawn in zip(scores.split(1), scribble.split(1), strict=True)
    ]
    assert alone[0].scribble == alone[2].self_labeling == 0
    together = SumOverImages(loss).terms((scores,), {"image": scores, "scribble": scribble})
    for term, parts in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(term, sum(parts))


@SIZES
@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("scribbled", [True, False])
def test_gradients(batch_size, spatial, scribbled):
    views = {"scribble": draw_scribble(batch_size, spatial)} if scribbled else {}
    loss = FeatureClusteringLoss()
    scores = draw(batch_size, 4, *spatial).requires_grad_()
    assert gradcheck(lambda scores: loss((scores,), views), scores)
    assert_right_behind_a_batch_norm(lambda scores: loss((scores,), views), batch_size, spatial)


@pytest.mark.parametrize("name", ["lambda_self", "lambda_continuity", "lambda_scribble"])
def test_a_negative_weight(name):
    with pytest.raises(ValueError, match=rf"^{name} must be a finite number of at least 0, got -1$"):
        FeatureClusteringLoss(**{name: -1})
