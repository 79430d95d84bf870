import copy
import re

import pytest
import torch
from msformer_parity import recipe

from monai_fusenet.inferers.ensemble import NetworkEnsemble, SumOverImages
from monai_fusenet.losses import MSFormerLoss
from monai_fusenet.networks import MSFormer, MSFormerOutput
from monai_fusenet.networks.nets.msformer import PUBLISHED_NAMES

SIZES = [(5, 8), (11, 3), (6, 4), (3, 5, 4)]
OTHER_SIZES = [((6, 9), (11, 7)), ((4, 5, 3), (3, 4, 7))]


def small(spatial=(5, 8), **options):
    torch.manual_seed(0)
    return MSFormer(len(spatial), features=4, patch_grid=2, **options)


def draw(spatial, batch_size=2, channels=3):
    torch.manual_seed(1)
    return torch.rand(batch_size, channels, *spatial)


def assert_equal_outputs(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("spatial", SIZES)
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_shapes(spatial, channels):
    network = MSFormer(len(spatial), channels, features=4, patch_grid=2)
    image = draw(spatial, channels=channels)
    output = network(image, image)
    assert isinstance(output, MSFormerOutput)
    assert output.scores.shape == (2, 4, *spatial)
    assert output.fine_context.shape == output.coarse_context.shape == (2, 4, 4)
    assert output.patch_attention.shape == (2, 2 ** len(spatial), 2 ** len(spatial))
    assert network(image).shape == (2, 4, *spatial)


@pytest.mark.parametrize(("spatial_dims", "spatial"), [(2, (8, 9)), (3, (4, 6, 5))])
def test_there_are_64_patches_by_default(spatial_dims, spatial):
    image = draw(spatial)
    assert MSFormer(spatial_dims, features=2)(image, image).patch_attention.shape == (2, 64, 64)


@pytest.mark.parametrize("spatial", [(1, 7), (7, 1), (1, 3, 1)])
def test_a_side_of_one_pixel(spatial):
    network, image = MSFormer(len(spatial), features=2, patch_grid=1), draw(spatial)
    output = network(image, image)
    assert output.scores.shape == (2, 2, *spatial)
    assert output.scores.isfinite().all()
    assert network.eval()(image).isfinite().all()


def test_published_size_has_the_published_number_of_parameters():
    network = MSFormer(img_size=257)
    assert sum(parameter.numel() for parameter in network.parameters()) == 10_811_500
    assert sum(parameter.numel() for parameter in network.patches.projection.parameters()) == 10_240_100


def test_the_second_argument_plays_no_part():
    network, image = small().eval(), draw((5, 8))
    assert_equal_outputs(network(image, 1 - image), network(image, image))
    torch.testing.assert_close(network(image), network(image, image).scores, rtol=0, atol=0)


@pytest.mark.parametrize("spatial", SIZES)
def test_images_of_a_batch_do_not_meet_in_evaluation(spatial):
    network, image = small(spatial).eval(), draw(spatial)
    for whole, alone in zip(network(image, image), network(image[1:], image[1:]), strict=True):
        torch.testing.assert_close(whole[1:], alone)


def test_memory_layout_does_not_matter():
    network, image = small().double().eval(), draw((5, 8)).double()
    scores = network(image)
    torch.testing.assert_close(network(image.contiguous(memory_format=torch.channels_last)), scores)
    torch.testing.assert_close(network(image.transpose(2, 3).contiguous().transpose(2, 3)), scores)


def test_one_network_serves_images_of_any_size():
    network = small().eval()
    assert [network(draw(spatial)).shape[2:] for spatial in ((5, 8), (65, 97))] == [(5, 8), (65, 97)]


@pytest.mark.parametrize("spatial_dims", [1, 4])
def test_other_spatial_dims(spatial_dims):
    with pytest.raises(ValueError, match=rf"^spatial_dims must be 2 or 3, got {spatial_dims}$"):
        MSFormer(spatial_dims=spatial_dims)


@pytest.mark.parametrize("name", ["in_channels", "features", "patch_grid"])
def test_a_count_of_zero(name):
    with pytest.raises(ValueError, match=rf"^{name} must be a whole number of at least 1, got 0$"):
        MSFormer(**{name: 0})


@pytest.mark.parametrize(("spatial_dims", "spatial", "least"), [(2, (9, 7), 8), (3, (9, 3, 4), 4)])
def test_images_smaller_than_the_grid(spatial_dims, spatial, least):
    message = f"images must have at least {least} pixels along each axis, got {list(spatial)}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        MSFormer(spatial_dims, features=2)(draw(spatial), draw(spatial))


def test_an_image_of_another_size_than_img_size():
    with pytest.raises(ValueError, match=r"^this network takes images of img_size = \[8, 9\] only, got \[9, 8\]$"):
        MSFormer(features=2, img_size=(8, 9))(draw((9, 8)), draw((9, 8)))


@pytest.mark.parametrize(("spatial", "other"), OTHER_SIZES)
def test_script(spatial, other):
    network = small(spatial).eval()
    scripted = torch.jit.script(network)
    for size in (spatial, other):
        image = draw(size)
        torch.testing.assert_close(scripted(image), network(image))
        assert_equal_outputs(scripted(image, image), network(image, image))


def test_script_of_the_published_patch_projection():
    network, image = small(img_size=(6, 9)).eval(), draw((6, 9))
    assert_equal_outputs(torch.jit.script(network)(image, image), network(image, image))


@pytest.mark.parametrize("spatial", [size for size, _ in OTHER_SIZES])
def test_trace(spatial):
    network, image = small(spatial).eval(), draw(spatial)
    torch.testing.assert_close(torch.jit.trace(network, image)(1 - image), network(1 - image))


@pytest.mark.parametrize(("spatial", "other"), OTHER_SIZES)
def test_export_of_sizes_that_are_not_known(spatial, other):
    network, image = small(spatial).eval(), draw(spatial)
    axes = dict.fromkeys([0, *range(2, 2 + len(spatial))], torch.export.Dim.DYNAMIC)
    exported = torch.export.export(network, (image,), dynamic_shapes=(axes,)).module()
    torch.testing.assert_close(exported(draw(other, 3)), network(draw(other, 3)))


@pytest.mark.parametrize("spatial", SIZES)
def test_an_ensemble_descends_as_its_networks_do(spatial):
    networks = [small(spatial).double().train() for _ in range(2)]
    for module in networks[1].modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    image, loss_function = draw(spatial).double(), MSFormerLoss()
    ensemble = NetworkEnsemble(networks, [torch.get_rng_state()] * 2, "cpu").train()
    SumOverImages(loss_function).terms(ensemble(image, image), {"image": image}).total.backward()
    for index, network in enumerate(networks):
        loss_function(network(image[index : index + 1], image[index : index + 1])).backward()
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(ensemble.weights[name].grad[index], parameter.grad, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("spatial", [(65, 33), (13, 9, 7)])
def test_checkpointing_changes_nothing(spatial):
    network, image = small(spatial).double(), draw(spatial, 1).double()
    sparing = small(spatial, use_checkpoint=True).double()
    for one in (network, sparing):
        MSFormerLoss()(one(image, image)).backward()
    for own, other in zip(network.parameters(), sparing.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("whole", [True, False], ids=["cast as a whole", "autocast"])
@pytest.mark.parametrize("spatial", [(13, 9), (5, 9, 7)])
@pytest.mark.parametrize("use_checkpoint", [False, True])
def test_bfloat16(spatial, whole, use_checkpoint):
    network, image = small(spatial, use_checkpoint=use_checkpoint), draw(spatial)
    expected = copy.deepcopy(network)(image, image)
    if whole:
        output = network.bfloat16()(image.bfloat16(), image.bfloat16())
    else:
        with torch.autocast("cpu", torch.bfloat16):
            output = network(image, image)
    assert {part.dtype for part in output} == {torch.bfloat16 if whole else torch.float32}
    for actual, right in zip(output, expected, strict=True):
        torch.testing.assert_close(actual.float(), right, rtol=0, atol=0.1 * right.abs().max().item())
    MSFormerLoss()(output).backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


# Weights under the authors' names.


def published_state_dict(network):
    """The network's weights as the authors' code would save them."""
    authors = {own: published for published, own in PUBLISHED_NAMES.items()}
    state_dict = {}
    for name, value in network.state_dict().items():
        module, _, parameter = name.rpartition(".")
        if ".attn." in authors[module] and parameter == "weight":
            value = value[..., None, None]
        state_dict[f"{authors[module]}.{parameter}"] = value.clone()
    return state_dict


def test_the_authors_names_are_those_of_the_recipe():
    names = [name for name in published_state_dict(small()) if not name.endswith("num_batches_tracked")]
    assert sorted(names) == sorted(name for name, *_ in recipe()["order"])


@pytest.mark.parametrize("options", [{}, {"img_size": (6, 5)}])
def test_published_weights_arrive(options):
    source, network = small(**options), small(**options)
    source(draw((6, 5)), draw((6, 5)))  # running statistics to carry over
    network.load_published_state_dict(published_state_dict(source))
    for name, value in source.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name


@pytest.mark.parametrize("name", ["block_s.2.norm1.weight", "fine.conv.weight", "bn3.scale"])
def test_an_unknown_parameter(name):
    state_dict = {**published_state_dict(small()), name: torch.zeros(4)}
    with pytest.raises(ValueError, match=rf"^{re.escape(name)} is no parameter of the published MS-Former$"):
        small().load_published_state_dict(state_dict)


def test_weights_for_another_img_size():
    message = (
        "to_patch_embedding.1.weight has shape (4, 36), but patches.projection.weight has (4, 4); "
        "its patch projection needs the img_size it was made with"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        small().load_published_state_dict(published_state_dict(small(img_size=(7, 6))))


def test_a_missing_parameter():
    state_dict = published_state_dict(small())
    del state_dict["linear_up.weight"]
    with pytest.raises(ValueError, match=r"^the published state dict lacks the weights of expansion\.linear\.weight$"):
        small().load_published_state_dict(state_dict)
