import pytest
import torch
from torch.autograd import gradcheck
from torch.nn.functional import normalize

from monai_fusenet.losses import (
    CrossModalLoss,
    EdgeRefinementLoss,
    FuseNetLoss,
    SelfLabelingLoss,
    SpatialContinuityLoss,
)


def draw(*shape):
    torch.manual_seed(0)
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("spatial", [(5, 3), (2, 3, 4)])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_self_labeling(batch_size, spatial, reduction):
    assert gradcheck(SelfLabelingLoss(reduction), draw(batch_size, 3, *spatial))


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("spatial", [(5, 3), (2, 3, 4)])
@pytest.mark.parametrize("clusters", [1, 3])
@pytest.mark.parametrize("factor", [2, 16])
def test_edge_refinement(batch_size, spatial, clusters, factor):
    assert gradcheck(EdgeRefinementLoss(factor), draw(batch_size, clusters, *spatial))


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("spatial", [(5, 3), (2, 3, 4), (9, 1)])
@pytest.mark.parametrize("clusters", [1, 3])
@pytest.mark.parametrize("on", ["scores", "probabilities"])
def test_spatial_continuity(batch_size, spatial, clusters, on):
    assert gradcheck(SpatialContinuityLoss(on), draw(batch_size, clusters, *spatial))


@pytest.mark.parametrize("batch_size", [1, 2])
def test_cross_modal(batch_size):
    loss = CrossModalLoss()
    assert gradcheck(lambda *tokens: loss(*(normalize(t, dim=-1) for t in tokens)), draw(2, batch_size, 4, 3).unbind())


@pytest.mark.parametrize("batch_size", [1, 2])
def test_whole_loss(batch_size):
    tokens = draw(2, batch_size, 4, 3).unbind()
    loss = FuseNetLoss(edge_factor=2)
    assert gradcheck(lambda *output: loss(output), (draw(batch_size, 3, 5, 4), *tokens))
