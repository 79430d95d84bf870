"""What the networks of all methods say of images and arguments that they cannot take."""

import re

import pytest
import torch

from monai_fusenet.networks import DeformableConv, FeatureClusteringNet, FuseNet, MSFormer, S3Net

NETWORKS = (FuseNet, MSFormer, S3Net, FeatureClusteringNet)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("shape", [(3, 16, 18), (1, 2, 16, 18), (1, 3, 16, 18, 17)])
@pytest.mark.parametrize("pair", [False, True])
def test_images_of_other_axes_or_channels(kind, shape, pair):
    message = f"images must have 3 channels and 2 spatial axes, got {list(shape)}"
    views = [torch.rand(shape)] * (1 + pair)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        kind(features=4)(*views)


@pytest.mark.parametrize("kind", [FuseNet, S3Net])
def test_views_of_another_shape(kind):
    message = "image and augmented must have the same shape, got [1, 3, 16, 18] and [1, 3, 18, 16]"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        kind(features=4)(torch.rand(1, 3, 16, 18), torch.rand(1, 3, 18, 16))


@pytest.mark.parametrize("kind", [MSFormer, FeatureClusteringNet])
def test_a_view_that_plays_no_part_may_have_any_shape(kind):
    output = kind(features=4)(torch.rand(1, 3, 16, 18), torch.rand(1, 3, 18, 16))
    assert output.scores.shape == (1, 4, 16, 18)


@pytest.mark.parametrize(
    "size", [0, 12.5, (16, 0), (16, 18, 17), [16, True], -3, (), "ab", float("nan"), (16, float("inf"))]
)
@pytest.mark.parametrize(
    "make",
    [
        lambda size: FuseNet(features=2, img_size=size),
        lambda size: MSFormer(features=2, img_size=size),
        lambda size: S3Net(features=2, img_size=size, offsets="free"),
        lambda size: DeformableConv(2, 3, 2, "free", size),
    ],
)
def test_sizes_that_are_none(make, size):
    message = f"img_size must be a whole number of at least 1, or 2 of them, one for each axis, got {size}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make(size)


@pytest.mark.parametrize("kind", [FuseNet, MSFormer])
def test_a_switch_that_is_a_word(kind):
    with pytest.raises(ValueError, match=r"^use_checkpoint must be True or False, got no$"):
        kind(use_checkpoint="no")
