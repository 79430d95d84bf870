"""Gradients of MS-Former against finite differences, and which of its parameters learn from which term."""

import pytest
import torch
from msformer_parity import recipe
from test_gradients import BATCH_SIZES, check, draw

from monai_fusenet.losses import MSFormerLoss
from monai_fusenet.networks import EfficientTransformerBlock, MSFormer, PatchExpanding, ShiftedPatchAttention
from monai_fusenet.networks.nets.msformer import PUBLISHED_NAMES

SPATIAL = pytest.mark.parametrize("spatial", [(3, 4), (2, 3, 2)])
FIXED = pytest.mark.parametrize("fixed", [False, True], ids=["any size", "img_size"])


@BATCH_SIZES
@SPATIAL
def test_block(batch_size, spatial):
    check(EfficientTransformerBlock(len(spatial), features=2), draw(batch_size, 2, *spatial), fast_mode=True)


@BATCH_SIZES
@SPATIAL
def test_expansion(batch_size, spatial):
    check(PatchExpanding(len(spatial), features=2), draw(batch_size, 2, *spatial))


@BATCH_SIZES
@SPATIAL
@FIXED
def test_patch_attention(batch_size, spatial, fixed):
    attention = ShiftedPatchAttention(len(spatial), features=2, patch_grid=2, img_size=spatial if fixed else None)
    check(attention, draw(batch_size, 2, *spatial))


@BATCH_SIZES
@SPATIAL
@FIXED
def test_whole_network(batch_size, spatial, fixed):
    network = MSFormer(len(spatial), 2, features=2, img_size=spatial if fixed else None, patch_grid=2)
    image = draw(batch_size, 2, *spatial)
    check(network, image, image.clone(), fast_mode=True)


def gradients(term, spatial, batch_size=1, fixed=False):
    torch.manual_seed(0)
    network = MSFormer(len(spatial), features=4, img_size=spatial if fixed else None, patch_grid=2).double()
    image = torch.rand(batch_size, 3, *spatial, dtype=torch.float64)
    getattr(MSFormerLoss().terms(network(image, image)), term).backward()
    return {name: parameter.grad for name, parameter in network.named_parameters()}


def own_name(published):
    module, _, parameter = published.rpartition(".")
    return f"{PUBLISHED_NAMES[module]}.{parameter}"


@BATCH_SIZES
@pytest.mark.parametrize("spatial", [(9, 7), (5, 4, 6)])
@FIXED
def test_every_parameter_learns_but_biases_without_effect(batch_size, spatial, fixed):
    found = gradients("total", spatial, batch_size, fixed)
    assert [name for name, gradient in found.items() if gradient is None] == []
    # A batch norm takes away what a bias before it adds, and so does a softmax over pixels.
    no_effect = {own_name(published) for published in recipe()["zero_gradient_by_mathematics"]}
    assert {name for name, gradient in found.items() if not gradient.abs().max() > 1e-12} <= no_effect
    assert all(found[name].abs().max() < 1e-12 for name in no_effect)


@pytest.mark.parametrize("spatial", [(9, 7), (5, 4, 6)])
def test_what_the_inter_scale_term_does_not_teach(spatial):
    """The contexts of the last blocks depend on their keys and values, and on all that comes before."""
    found = gradients("inter_scale", spatial)
    after = ("queries", "reprojection", "norm2", "feed_forward")
    idle = {name for name, gradient in found.items() if gradient is None or not gradient.any()}
    expected = {name for name in found if name.split(".")[:1] in (["expansion"], ["head"], ["patches"])}
    for branch in ("fine", "coarse"):
        expected |= {name for name in found if name.startswith(tuple(f"{branch}.blocks.1.{part}" for part in after))}
        expected |= {f"{branch}.norms.1.norm.weight", f"{branch}.norms.1.norm.bias"}
    assert idle == expected


def test_the_patch_projection_learns_from_the_intra_scale_term_alone():
    for term in ("self_labeling", "inter_scale"):
        found = gradients(term, (9, 7))
        assert all(found[name] is None for name in found if name.startswith("patches"))
    assert gradients("intra_scale", (9, 7))["patches.projection.weight"].any()
