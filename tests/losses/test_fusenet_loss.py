import pytest
import torch
from torch.nn.functional import normalize

from monai_fusenet.losses import CrossModalLoss, EdgeRefinementLoss, FuseNetLoss, FuseNetTerms, SelfLabelingLoss
from monai_fusenet.networks import FuseNet


def draw_output(spatial=(7, 5), requires_grad=False):
    torch.manual_seed(0)
    scores = torch.randn(2, 6, *spatial, dtype=torch.float64)
    tokens = normalize(torch.randn(2, 2, 4, 3, dtype=torch.float64), dim=-1)
    return tuple(tensor.requires_grad_(requires_grad) for tensor in (scores, *tokens.unbind()))


@pytest.mark.parametrize("spatial", [(7, 5), (4, 3, 5)])
def test_terms_are_weighed_and_add_up(spatial):
    output = draw_output(spatial)
    terms = FuseNetLoss()(output), *FuseNetLoss().terms(output)
    expected = (
        2.5 * SelfLabelingLoss()(output[0]),
        0.5 * CrossModalLoss(temperature=5.0)(*output[1:]),
        0.5 * EdgeRefinementLoss(factor=16)(output[0]),
    )
    for term, value in zip(terms, (sum(expected), sum(expected), *expected), strict=True):
        assert term.ndim == 0
        assert term.item() == pytest.approx(value.item(), rel=1e-12)


def test_terms_have_names():
    assert FuseNetTerms._fields == ("total", "self_labeling", "cross_modal", "edge")


def test_the_views_play_no_part():
    output = draw_output()
    batch = {"image": torch.zeros(2, 3, 7, 5)}
    assert FuseNetLoss().terms(output, batch) == FuseNetLoss().terms(output)
    assert FuseNetLoss()(output, batch) == FuseNetLoss()(output)


def test_options_reach_their_terms():
    output = draw_output()
    loss = FuseNetLoss(
        lambda_self=1.0, lambda_cross=2.0, lambda_edge=3.0, temperature=0.7, edge_factor=2, edge_mode="published"
    )
    terms = loss.terms(output)
    assert terms.self_labeling.item() == pytest.approx(SelfLabelingLoss()(output[0]).item())
    assert terms.cross_modal.item() == pytest.approx(2 * CrossModalLoss(0.7)(*output[1:]).item())
    assert terms.edge.item() == pytest.approx(3 * EdgeRefinementLoss(2, "published")(output[0]).item())


def test_detached_targets_reach_the_cross_modal_term():
    gradients = []
    for detach_targets in (False, True):
        output = draw_output(requires_grad=True)
        FuseNetLoss(detach_targets=detach_targets)(output).backward()
        gradients.append(output[1].grad)
    assert not torch.allclose(*gradients, rtol=0.1)


def test_published_edge_term_adds_no_gradient():
    output = draw_output(requires_grad=True)
    FuseNetLoss(lambda_self=0, lambda_cross=0, edge_mode="published")(output).backward()
    assert output[0].grad.abs().max() == 0


def test_takes_what_the_network_puts_out():
    network = FuseNet(features=4, patch_grid=2)
    output = network(*torch.rand(2, 2, 3, 7, 5))
    assert FuseNetLoss()(output).item() == FuseNetLoss().terms(tuple(output)).total.item()


def test_scores_alone_are_refused():
    told = (
        r"^expected \(scores, image_tokens, augmented_tokens\), as FuseNet gives them in training, got one tensor: for"
    )
    with pytest.raises(ValueError, match=told):
        FuseNetLoss()(torch.zeros(3, 4, 8, 8))
