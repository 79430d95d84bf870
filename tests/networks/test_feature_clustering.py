import copy
import re

import pytest
import torch
from torch import nn
from torch.func import functional_call

from monai_fusenet.inferers import PerImageInferer
from monai_fusenet.inferers.fit import begin
from monai_fusenet.losses import FeatureClusteringLoss
from monai_fusenet.networks import FeatureClusteringNet, FeatureClusteringOutput
from monai_fusenet.networks.nets.feature_clustering import published_name

SIZES = pytest.mark.parametrize("spatial", [(5, 8), (11, 3), (3, 5, 4)])


def draw(spatial, batch_size=2, channels=3):
    torch.manual_seed(0)
    return torch.rand(batch_size, channels, *spatial)


def small(spatial_dims=2, **options):
    torch.manual_seed(0)
    return FeatureClusteringNet(spatial_dims, **{"features": 4, **options})


@SIZES
@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_shapes(spatial, channels, layers):
    network = small(len(spatial), in_channels=channels, layers=layers)
    image = draw(spatial, channels=channels)
    output = network(image, image)
    assert isinstance(output, FeatureClusteringOutput)
    assert output.scores.shape == network(image).shape == (2, 4, *spatial)


@pytest.mark.parametrize(("layers", "count"), [(2, 103_600), (3, 193_900)])
def test_defaults_are_the_published_width(layers, count):
    assert sum(parameter.numel() for parameter in FeatureClusteringNet(layers=layers).parameters()) == count


@SIZES
def test_is_what_plain_modules_compute(spatial):
    network = small(len(spatial), layers=3).double()
    conv = {2: nn.functional.conv2d, 3: nn.functional.conv3d}[len(spatial)]

    def norm(maps, weights):
        axes, shape = [0, *range(2, maps.ndim)], [1, -1] + [1] * len(spatial)
        centred = maps - maps.mean(axes, keepdim=True)
        scaled = centred / (centred.square().mean(axes, keepdim=True) + 1e-5).sqrt()
        return scaled * weights.weight.view(shape) + weights.bias.view(shape)

    image = draw(spatial).double()
    maps = image
    for block in network.blocks:
        maps = norm(conv(maps, block.conv.weight, block.conv.bias, padding=1).relu(), block.norm.norm)
    mixed = torch.einsum("kc,bc...->bk...", network.projection.weight, maps)
    torch.testing.assert_close(network(image), norm(mixed, network.norm.norm))


@SIZES
def test_every_cluster_scores_alike_on_the_whole(spatial):
    scores = small(len(spatial)).double()(draw(spatial).double()).movedim(1, 0).flatten(1)
    torch.testing.assert_close(scores.mean(1), torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(scores.std(1, correction=0), torch.ones(4, dtype=torch.float64), rtol=0, atol=2e-2)


@SIZES
def test_the_second_view_is_not_looked_at(spatial):
    network, image = small(len(spatial)).eval(), draw(spatial)
    assert torch.equal(network(image, 1 - image).scores, network(image))


@SIZES
def test_images_of_a_batch_do_not_meet_in_evaluation(spatial):
    network, images = small(len(spatial)), draw(spatial, batch_size=3)
    network(images)  # statistics to evaluate with
    network.eval()
    torch.testing.assert_close(network(images), torch.cat([network(image) for image in images.split(1)]))


@SIZES
@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("training", [True, False])
def test_memory_layout_does_not_matter(spatial, batch_size, training):
    network, image = small(len(spatial)).double().train(training), draw(spatial, batch_size).double()
    expected = network(image)
    layouts = [image.movedim(1, -1).contiguous().movedim(-1, 1), image.mT.contiguous().mT]
    layouts.append(image.expand(2, *image.shape).movedim(0, -1)[..., 0])
    for other in layouts:
        torch.testing.assert_close(network(other), expected)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_gradient_of_any_layout_arrives(batch_size):
    network, image = small().double(), draw((9, 7), batch_size).double()
    weights = torch.rand(batch_size, 4, 9, 7, dtype=torch.float64)
    readers = {
        "map": lambda scores: (scores * weights).sum(),
        "tokens": lambda scores: (scores.flatten(2).transpose(1, 2).reshape(-1, 4) * _tokens(weights)).sum(),
        "pixels": lambda scores: (scores.movedim(1, -1).reshape(-1, 4) * _tokens(weights)).sum(),
        "clone": lambda scores: (scores.contiguous() * weights).sum(),
    }
    gradients = {
        name: torch.autograd.grad(read(network(image)), network.blocks[0].conv.weight)[0]
        for name, read in readers.items()
    }
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, gradients["map"], msg=name)


def _tokens(maps):
    return maps.movedim(1, -1).reshape(-1, maps.shape[1])


def test_fresh_weights_are_all_drawn_anew():
    network = small()
    fit = begin(draw((5, 8), 1), network, 3, True, 0.1, 0.9)
    again = begin(draw((5, 8), 1), small(features=4), 3, True, 0.1, 0.9)
    constants = ("norm.weight", "norm.bias")
    for (name, old), new, same in zip(
        network.named_parameters(), fit.network.parameters(), again.network.parameters(), strict=True
    ):
        assert torch.equal(new, same), name
        assert torch.equal(old, new) == name.endswith(constants), name


def test_a_copy_is_independent():
    network = small()
    twin = copy.deepcopy(network)
    nn.init.zeros_(network.projection.weight)
    assert twin.projection.weight.abs().min() > 0


@SIZES
def test_many_networks_in_one_pass(spatial):
    images = draw(spatial, batch_size=3)
    options = {"steps": 3, "lr": 0.1, "min_clusters": 0, "loss_function": FeatureClusteringLoss(), "augmentation": dict}
    together, alone = (PerImageInferer(at_once=count, max_refits=0, **options) for count in (3, 1))
    network = small(len(spatial))
    torch.testing.assert_close(together(images, network), alone(images, network), rtol=1e-3, atol=1e-3)


def test_vmap_of_the_network():
    network, images = small().eval(), draw((5, 8), batch_size=3)
    weights = dict(network.state_dict())
    one = torch.func.vmap(lambda image: functional_call(network, weights, (image.unsqueeze(0),))[0])
    torch.testing.assert_close(one(images), network(images))


@pytest.mark.parametrize("spatial_dims", [1, 4])
def test_other_spatial_dims(spatial_dims):
    with pytest.raises(ValueError, match=rf"^spatial_dims must be 2 or 3, got {spatial_dims}$"):
        FeatureClusteringNet(spatial_dims)


@pytest.mark.parametrize("name", ["in_channels", "features", "layers"])
@pytest.mark.parametrize("count", [0, 2.0, True])
def test_counts(name, count):
    with pytest.raises(ValueError, match=f"^{name} must be a whole number of at least 1, got {count}$"):
        FeatureClusteringNet(**{name: count})


@pytest.mark.parametrize("shape", [(1, 3, 5), (3, 5, 8), (1, 2, 5, 8), (1, 3, 5, 8, 2)])
def test_images_of_another_shape(shape):
    message = f"images must have 3 channels and 2 spatial axes, got {list(shape)}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        small()(torch.rand(shape))


# Weights under the authors' names.


def published_state_dict(network):
    """The network's weights as the authors' code would save them."""
    state_dict = {}
    for name, value in network.state_dict().items():
        module, _, parameter = name.rpartition(".")
        kind, index = "conv" if module.endswith(("conv", "projection")) else "bn", module.split(".")[1:2]
        number = 3 if not module.startswith("blocks") else 1 if index == ["0"] else f"2.{int(index[0]) - 1}"
        one_by_one = module == "projection" and parameter == "weight"
        state_dict[f"{kind}{number}.{parameter}"] = value.clone()[..., None, None] if one_by_one else value.clone()
    return state_dict


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_published_weights_arrive(layers):
    source, network = small(layers=layers), small(layers=layers)
    source(draw((6, 5)))  # running statistics to carry over
    network.load_published_state_dict(published_state_dict(source))
    for name, value in source.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name


def test_published_names():
    assert published_name("conv2.0.weight") == "blocks.1.conv.weight"
    assert published_name("bn2.1.running_var") == "blocks.2.norm.norm.running_var"
    assert published_name("conv3.bias") == "projection.bias"


@pytest.mark.parametrize("name", ["conv4.weight", "conv2.weight", "conv2.x.weight", "bn2.1.weight", "conv1.scale", "w"])
def test_an_unknown_parameter(name):
    state_dict = {**published_state_dict(small()), name: torch.zeros(4)}
    with pytest.raises(
        ValueError, match=rf"^{re.escape(name)} is no parameter of the published feature clustering network$"
    ):
        small().load_published_state_dict(state_dict)


def test_a_parameter_of_another_shape():
    message = "conv3.weight has shape (4, 4, 3, 3), but projection.weight has (4, 4)"
    state_dict = {**published_state_dict(small()), "conv3.weight": torch.zeros(4, 4, 3, 3)}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        small().load_published_state_dict(state_dict)


def test_a_missing_parameter():
    with pytest.raises(ValueError, match=r"^the published state dict lacks the weights of blocks\.1\.conv\.weight$"):
        small().load_published_state_dict(published_state_dict(small(layers=1)))
