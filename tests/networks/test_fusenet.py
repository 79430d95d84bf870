import re

import pytest
import torch
from torch import nn

from monai_fusenet.networks import FuseNet, FuseNetOutput, FusionBlock
from monai_fusenet.networks.nets.fusenet import PUBLISHED_NAMES

SIZES = [(5, 8), (11, 3), (3, 5, 4)]


def draw_pair(spatial, batch_size=2, channels=3):
    torch.manual_seed(0)
    return torch.rand(2, batch_size, channels, *spatial).unbind()


@pytest.mark.parametrize("spatial", SIZES)
@pytest.mark.parametrize("shared_encoder", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes(spatial, shared_encoder, channels):
    network = FuseNet(len(spatial), channels, features=4, patch_grid=2, shared_encoder=shared_encoder)
    image, augmented = draw_pair(spatial, channels=channels)
    output = network(image, augmented)
    assert isinstance(output, FuseNetOutput)
    assert output.scores.shape == (2, 8, *spatial)
    assert output.image_tokens.shape == output.augmented_tokens.shape == (2, 2 ** len(spatial), 4)
    assert network(image).shape == (2, 8, *spatial)


@pytest.mark.parametrize("spatial", SIZES)
def test_twins_are_merged(spatial):
    network = FuseNet(len(spatial), features=4, patch_grid=2)
    scores = network(draw_pair(spatial)[0])
    torch.testing.assert_close(network.merge(scores), scores[:, :4] + scores[:, 4:])


@pytest.mark.parametrize(("spatial_dims", "spatial"), [(2, (8, 9)), (3, (4, 6, 5))])
def test_there_are_64_patches_by_default(spatial_dims, spatial):
    output = FuseNet(spatial_dims, features=2)(*draw_pair(spatial))
    assert output.image_tokens.shape == (2, 64, 2)


@pytest.mark.parametrize("spatial", [(1, 7), (7, 1), (1, 3, 1)])
def test_a_side_of_one_pixel(spatial):
    network = FuseNet(len(spatial), features=2, patch_grid=1)
    output = network(*draw_pair(spatial))
    assert output.scores.shape == (2, 4, *spatial)
    assert output.scores.isfinite().all()
    assert network.eval()(draw_pair(spatial)[0]).isfinite().all()


def test_defaults_are_the_published_width():
    network = FuseNet(img_size=256)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    patches = sum(
        p.numel() for patch in (network.image_patches, network.augmented_patches) for p in patch.projection.parameters()
    )
    assert network.fusion.norm1.normalized_shape == (64,)
    assert network.image_patches.projection.in_features == 64 * 32 * 32
    assert patches / parameters > 0.98


@pytest.mark.parametrize("spatial", SIZES)
@pytest.mark.parametrize("shared_encoder", [True, False])
def test_one_image_is_both_views(spatial, shared_encoder):
    network = FuseNet(len(spatial), features=4, patch_grid=2, shared_encoder=shared_encoder).eval()
    image, _ = draw_pair(spatial)
    torch.testing.assert_close(network(image), network(image, image).scores, rtol=0, atol=0)


def test_views_are_weighed_before_fusion():
    network = FuseNet(features=4, patch_grid=2, dropout=0.0, image_weight=2.0, augmented_weight=0.5)
    image, augmented = draw_pair((5, 8))
    image_embedding = network.image_head(network.encoder(image))
    augmented_embedding = network.augmented_head(network.encoder(augmented))
    plain = FusionBlock(2, features=4)
    plain.load_state_dict(network.fusion.state_dict())
    expected = plain(2.0 * image_embedding, 0.5 * augmented_embedding)
    torch.testing.assert_close(network(image, augmented).scores, expected)


def test_a_second_encoder_sees_the_augmented_view_alone():
    network = FuseNet(features=4, patch_grid=2, shared_encoder=False).eval()
    image, augmented = draw_pair((5, 8))
    before = network(image, augmented)
    nn.init.normal_(network.augmented_encoder.conv.weight)
    after = network(image, augmented)
    assert torch.equal(before.image_tokens, after.image_tokens)
    assert not torch.allclose(before.augmented_tokens, after.augmented_tokens, atol=1e-3)


@pytest.mark.parametrize("shared_encoder", [True, False])
def test_tokens_of_a_view_depend_on_that_view_alone(shared_encoder):
    network = FuseNet(features=4, patch_grid=2, shared_encoder=shared_encoder).eval()
    image, augmented = draw_pair((5, 8))
    before, after = network(image, augmented), network(image, 1 - augmented)
    assert torch.equal(before.image_tokens, after.image_tokens)
    assert not torch.allclose(before.augmented_tokens, after.augmented_tokens, atol=1e-3)
    assert not torch.allclose(before.scores, after.scores, atol=1e-3)


def test_each_view_has_statistics_of_its_own():
    network = FuseNet(features=4, patch_grid=2)
    network(*draw_pair((5, 8)))
    assert network.encoder.norm1.num_batches_tracked == 2
    assert network.image_patches.norm.num_batches_tracked == 1


def test_images_of_a_batch_do_not_meet_in_evaluation():
    network = FuseNet(features=4, patch_grid=2).eval()
    image, augmented = draw_pair((5, 8))
    for whole, alone in zip(network(image, augmented), network(image[1:], augmented[1:]), strict=True):
        torch.testing.assert_close(whole[1:], alone)


def test_memory_layout_does_not_matter():
    network = FuseNet(features=4, patch_grid=2).double().eval()
    image = draw_pair((5, 8))[0].double()
    scores = network(image)
    torch.testing.assert_close(network(image.contiguous(memory_format=torch.channels_last)), scores)
    torch.testing.assert_close(network(image.transpose(2, 3).contiguous().transpose(2, 3)), scores)


@pytest.mark.parametrize("spatial_dims", [1, 4])
def test_other_spatial_dims(spatial_dims):
    with pytest.raises(ValueError, match=rf"^spatial_dims must be 2 or 3, got {spatial_dims}$"):
        FuseNet(spatial_dims=spatial_dims)


def test_two_views_of_different_shape():
    with pytest.raises(ValueError, match=r"^image and augmented must have the same shape, got .*8, 9.* and .*9, 8"):
        FuseNet(features=2)(torch.rand(1, 3, 8, 9), torch.rand(1, 3, 9, 8))


@pytest.mark.parametrize(("spatial_dims", "spatial", "least"), [(2, (9, 7), 8), (3, (9, 3, 4), 4)])
def test_images_smaller_than_the_grid(spatial_dims, spatial, least):
    message = f"images must have at least {least} pixels along each axis, got {list(spatial)}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        FuseNet(spatial_dims, features=2)(*draw_pair(spatial))


def test_a_pair_of_another_size_than_img_size():
    with pytest.raises(ValueError, match=r"^this network takes images of img_size = \[8, 9\] only, got \[9, 8\]$"):
        FuseNet(features=2, img_size=(8, 9))(*draw_pair((9, 8)))


# Weights under the authors' names.


def published_state_dict(network):
    """The network's weights as the authors' code would save them."""
    authors = {own: published for published, own in PUBLISHED_NAMES.items()}
    state_dict = {}
    for name, value in network.state_dict().items():
        module, _, parameter = name.rpartition(".")
        if authors[module] == "cross_attn.attn.reprojection" and parameter == "weight":
            value = value[..., None, None]
        if authors[module] in ("img_enc.conv2", "aug_enc.conv2") and parameter == "weight":
            value = value[:, None, None, None]
        state_dict[f"{authors[module]}.{parameter}"] = value.clone()
    return state_dict


def small(**options):
    return FuseNet(features=4, patch_grid=2, **options)


@pytest.mark.parametrize("options", [{}, {"img_size": (6, 5)}, {"shared_encoder": False}])
def test_published_weights_arrive(options):
    source, network = small(**options), small(**options)
    source(*draw_pair((6, 5)))  # running statistics to carry over
    network.load_published_state_dict(published_state_dict(source))
    for name, value in source.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name


def test_published_weights_are_copied():
    source, network = small(), small()
    state_dict = published_state_dict(source)
    network.load_published_state_dict(state_dict)
    state_dict["img_enc.conv1.weight"].zero_()
    assert torch.equal(network.encoder.conv.weight, source.encoder.conv.weight)


def test_the_second_encoder_is_ignored_where_there_is_one():
    state_dict = published_state_dict(small(shared_encoder=False))
    network = small()
    network.load_published_state_dict(state_dict)
    assert torch.equal(network.encoder.conv.weight, state_dict["img_enc.conv1.weight"])


def test_published_weights_without_the_second_encoder_do_not_fill_two():
    with pytest.raises(ValueError, match=r"^the published state dict lacks the weights of augmented_encoder\.\w+"):
        small(shared_encoder=False).load_published_state_dict(published_state_dict(small()))


@pytest.mark.parametrize("name", ["img_enc.conv3.weight", "encoder.conv.weight", "weight"])
def test_an_unknown_module(name):
    state_dict = {**published_state_dict(small()), name: torch.zeros(4)}
    with pytest.raises(ValueError, match=rf"^{re.escape(name)} is no parameter of the published FuseNet$"):
        small().load_published_state_dict(state_dict)


def test_an_unknown_parameter_of_a_known_module():
    state_dict = {**published_state_dict(small()), "img_enc.conv1.scale": torch.zeros(4)}
    with pytest.raises(ValueError, match=r"^img_enc\.conv1\.scale is no parameter of the published FuseNet$"):
        small().load_published_state_dict(state_dict)


def test_a_parameter_of_another_shape():
    state_dict = {**published_state_dict(small()), "image_projection.fc.weight": torch.zeros(5, 4)}
    message = "image_projection.fc.weight has shape (5, 4), but image_head.fc.weight has (4, 4)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        small().load_published_state_dict(state_dict)


def test_a_transposed_parameter():
    state_dict = published_state_dict(small())
    state_dict["cross_attn.mlp.fc1.weight"] = state_dict["cross_attn.mlp.fc1.weight"].T
    with pytest.raises(ValueError, match=r"^cross_attn\.mlp\.fc1\.weight has shape \(8, 16\), but "):
        small().load_published_state_dict(state_dict)


def test_weights_for_another_img_size():
    message = (
        "to_patch_embedding_img.1.weight has shape (4, 36), but image_patches.projection.weight has (4, 4); "
        "its patch projection needs the img_size it was made with"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        small().load_published_state_dict(published_state_dict(small(img_size=(6, 5))))


@pytest.mark.parametrize("missing", ["cross_attn.norm2.bias", "img_enc.bn1.running_var", "bn2.weight"])
def test_a_missing_parameter(missing):
    state_dict = published_state_dict(small())
    del state_dict[missing]
    module, _, parameter = missing.rpartition(".")
    own = f"{PUBLISHED_NAMES[module]}.{parameter}"
    with pytest.raises(ValueError, match=rf"^the published state dict lacks the weights of {re.escape(own)}$"):
        small().load_published_state_dict(state_dict)


def test_nothing_is_loaded_where_something_is_wrong():
    network = small()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state_dict = published_state_dict(small())
    del state_dict["cross_attn.norm2.bias"]
    with pytest.raises(ValueError, match="lacks"):
        network.load_published_state_dict(state_dict)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
