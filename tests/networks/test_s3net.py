import copy
import re

import pytest
import torch
from s3net_parity import inputs
from torch.autograd import gradcheck
from torch.func import functional_call
from torch.nn import functional as F

from monai_fusenet.losses import S3NetLoss
from monai_fusenet.networks import PixelNorm, S3Net, S3NetOutput
from monai_fusenet.networks.nets.s3net import _own_name

SIZES = [(5, 8), (11, 3), (3, 5, 4)]
SPATIAL = pytest.mark.parametrize("spatial", SIZES, ids=str)


def draw_pair(spatial, batch_size=2, channels=3):
    torch.manual_seed(0)
    return torch.rand(2, batch_size, channels, *spatial).unbind()


def network_for(spatial, **options):
    torch.manual_seed(1)
    return S3Net(len(spatial), features=6, **options)


def correspondence_of(image):
    """The second view is the image mirrored along its last axis."""
    numbers = torch.arange(image[0, 0].numel()).view(1, 1, *image.shape[2:])
    return numbers.flip(-1).expand(len(image), *numbers.shape[1:])


@SPATIAL
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_shapes(spatial, channels):
    network = network_for(spatial, in_channels=channels)
    image, augmented = draw_pair(spatial, channels=channels)
    output = network(image, augmented)
    assert isinstance(output, S3NetOutput)
    assert output.scores.shape == output.auxiliary_scores.shape == (2, 6, *spatial)
    torch.testing.assert_close(network(image), output.scores)


@pytest.mark.parametrize("spatial", [(65, 97), (24, 20, 33)])
def test_any_size(spatial):
    network = network_for(spatial).eval()
    with torch.no_grad():
        assert network(draw_pair(spatial, batch_size=1)[0]).shape == (1, 6, *spatial)


@pytest.mark.parametrize("spatial", [(1, 7), (7, 1), (1, 3, 1)])
def test_a_side_of_one_pixel(spatial):
    output = network_for(spatial)(*draw_pair(spatial))
    assert all(part.isfinite().all() for part in output)


def test_published_size():
    network = S3Net(img_size=256, offsets="free")
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_872_896
    assert network.deformable.offset.numel() + network.deformable.modulation.numel() == 1_769_472


def test_each_head_sees_its_view():
    network = network_for((5, 8)).eval()
    image, augmented = draw_pair((5, 8))
    before, others = network(image, augmented), network(image, 1 - augmented)
    assert torch.equal(before.scores, others.scores)
    assert not torch.allclose(before.auxiliary_scores, others.auxiliary_scores, atol=1e-3)
    assert torch.equal(network(1 - image, augmented).auxiliary_scores, before.auxiliary_scores)


def test_both_heads_see_the_image_as_published():
    network = network_for((5, 8), second_view=False).eval()
    image, augmented = draw_pair((5, 8))
    for output in (network(image, augmented), network_for((5, 8)).eval()(image, image.clone())):
        torch.testing.assert_close(output.auxiliary_scores, network(image, image).auxiliary_scores)


def test_one_image_in_both_places_is_described_once():
    network = network_for((5, 8))
    image, augmented = draw_pair((5, 8))
    network(image, image)
    assert network.stem_norm.norm.num_batches_tracked == 1
    network(image, augmented)
    assert network.stem_norm.norm.num_batches_tracked == 3


@SPATIAL
def test_images_of_a_batch_do_not_meet_in_evaluation(spatial):
    network = network_for(spatial).double()
    image, augmented = (view.double() for view in draw_pair(spatial))
    network(image, augmented)
    network.eval()
    for whole, alone in zip(network(image, augmented), network(image[1:], augmented[1:]), strict=True):
        torch.testing.assert_close(whole[1:], alone)


def test_memory_layout_does_not_matter():
    network = network_for((5, 8)).double().eval()
    image = draw_pair((5, 8))[0].double()
    scores = network(image)
    torch.testing.assert_close(network(image.contiguous(memory_format=torch.channels_last)), scores)
    torch.testing.assert_close(network(image.transpose(2, 3).contiguous().transpose(2, 3)), scores)


def test_a_copy_is_another_network():
    network = network_for((5, 8)).eval()
    image = draw_pair((5, 8))[0]
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.deformable.weight.zero_()
    assert not torch.allclose(other(image), network(image))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_dims": 4}, "spatial_dims must be 2 or 3, got 4"),
        ({"in_channels": 0}, "in_channels must be a whole number of at least 1, got 0"),
        ({"features": 2.5}, "features must be a whole number of at least 1, got 2.5"),
        ({"second_view": 1}, "second_view must be True or False, got 1"),
        ({"offsets": "fixed"}, 'offsets must be "predicted" or "free", got "fixed"'),
        ({"spatial_dims": 3, "offsets": "free"}, "free offsets are for 2-D only, got spatial_dims = 3"),
    ],
)
def test_arguments_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        S3Net(**options)


def test_views_that_do_not_fit():
    with pytest.raises(
        ValueError, match=r"^image and augmented must have the same shape, got \[1, 3, 8, 9\] and \[1, "
    ):
        S3Net(features=2)(torch.rand(1, 3, 8, 9), torch.rand(1, 3, 9, 8))
    with pytest.raises(ValueError, match=r"^this network takes images of img_size = \[8, 9\] only, got \[9, 8\]$"):
        S3Net(features=2, img_size=(8, 9), offsets="free")(torch.rand(1, 3, 9, 8))


# Weights under the authors' names; that they are right, tests/test_s3net_parity.py shows.


def published(**changes):
    weights = dict(inputs()[0]["oblong"].weights)
    return {**weights, **changes}


def load(weights, img_size=(48, 72)):
    network = S3Net(features=12, img_size=img_size, offsets="free").double()
    network.load_published_state_dict(weights)
    return network


def test_published_weights_are_copied():
    weights = {name: value.clone() for name, value in published().items()}
    network = load(weights)
    weights["conv1.weight"].zero_()
    assert network.stem.weight.abs().min() > 0


def test_published_weights_that_do_not_fit():
    for name in ("conv4.weight", "stem.weight", "conv1.scale", "convdeform.bias"):
        with pytest.raises(ValueError, match=rf"^{re.escape(name)} is no parameter of the published S3-Net$"):
            load(published(**{name: torch.zeros(3)}))
    with pytest.raises(ValueError, match=r"^conv3\.weight has shape \(5, 12\), but head\.weight has \(12, 12\)$"):
        load(published(**{"conv3.weight": torch.zeros(5, 12)}))
    with pytest.raises(
        ValueError, match=r"^convdeform\.mask has .*; free offsets need the img_size they were made with"
    ):
        load(published(), img_size=(72, 48))
    weights = published()
    del weights["bn2.1.bias"]
    with pytest.raises(
        ValueError, match=r"^the published state dict lacks the weights of attention_norms\.1\.norm\.bias$"
    ):
        load(weights)
    with pytest.raises(ValueError, match=r"^convdeform\.mask is no parameter of the published S3-Net$"):
        S3Net(features=12).load_published_state_dict(published())


# Gradients.


def loss_of(network, image, augmented):
    output = network(image, augmented)
    return S3NetLoss()(output, {"correspondence": correspondence_of(image)})


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("spatial", [(3, 4), (2, 3, 2)])
@pytest.mark.parametrize("offsets", ["predicted", "free"])
def test_gradients(batch_size, spatial, offsets):
    if offsets == "free" and len(spatial) == 3:
        pytest.skip("2-D only")
    torch.manual_seed(0)
    network = S3Net(len(spatial), 2, 2, spatial if offsets == "free" else None, offsets).double()
    names = [name for name, _ in network.named_parameters()]
    parameters = [torch.randn_like(parameter) for parameter in network.parameters()]
    views = [view.double() for view in draw_pair(spatial, batch_size, channels=2)]

    def call(*tensors):
        return functional_call(network, dict(zip(names, tensors[2:], strict=True)), tensors[:2])

    everything = [tensor.detach().requires_grad_() for tensor in (*views, *parameters)]
    assert gradcheck(call, everything, fast_mode=True)


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("spatial", [(9, 7), (5, 4, 6)])
@pytest.mark.parametrize("offsets", ["predicted", "free"])
def test_every_parameter_learns(batch_size, spatial, offsets):
    if offsets == "free" and len(spatial) == 3:
        pytest.skip("2-D only")
    network = network_for(spatial, img_size=spatial if offsets == "free" else None, offsets=offsets).double()
    loss_of(network, *(view.double() for view in draw_pair(spatial, batch_size))).backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    idle = {name for name, gradient in gradients.items() if gradient is None or not gradient.abs().max() > 1e-9}
    # A shift before a batch norm has no effect: its gradient is zero by mathematics, noise in fact.
    shifts = {"stem", "attention.0.output", "attention.1.output", "deformable_norm.norm", "head", "auxiliary"}
    assert idle == {f"{name}.bias" for name in shifts}


def test_the_transform_term_never_reaches_the_main_head():
    network = network_for((9, 7))
    image, augmented = draw_pair((9, 7))
    output = network(image, augmented)
    S3NetLoss(lambda_self=0, lambda_spatial=0)(output, {"correspondence": correspondence_of(image)}).backward()
    idle = {name for name, parameter in network.named_parameters() if not parameter.grad.any()}
    main = ("deformable.", "deformable_norm.", "head.", "head_norm.")
    assert idle == {name for name, _ in network.named_parameters() if name.startswith(main)}


# From these layouts torch's own batch norm makes wrong gradients of one image, see PixelNorm.
LAYOUTS = {
    "tokens": lambda scores: scores.flatten(2).transpose(1, 2).reshape(-1, scores.shape[1]),
    "copied tokens": lambda scores: scores.contiguous().flatten(2).transpose(1, 2).reshape(-1, scores.shape[1]),
    "channels last": lambda scores: scores.movedim(1, -1).reshape(-1, scores.shape[1]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("spatial", [(16, 17), (5, 6, 7)])
def test_a_norm_takes_gradients_of_any_layout(layout, batch_size, spatial):
    torch.manual_seed(0)
    maps = torch.randn(batch_size, 6, *spatial, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 6, (maps[:, 0].numel(),))
    axes = [0, *range(2, maps.ndim)]
    centred = maps - maps.mean(axes, keepdim=True)
    by_hand = centred / (centred.square().mean(axes, keepdim=True) + 1e-5).sqrt()
    both = (PixelNorm(6).double()(maps), by_hand)
    actual, expected = (
        torch.autograd.grad(F.cross_entropy(LAYOUTS[layout](normalized), labels), maps) for normalized in both
    )
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)


# Scripts, traces and exports.

FIXED = {"img_size": (6, 9), "offsets": "free"}


@pytest.mark.parametrize(
    ("spatial", "other", "options"), [((6, 9), (11, 7), {}), ((4, 5, 3), (3, 4, 7), {}), ((6, 9), (6, 9), FIXED)]
)
def test_script(spatial, other, options, tmp_path):
    network = network_for(spatial, **options).eval()
    torch.jit.script(network).save(tmp_path / "network.ts")
    scripted = torch.jit.load(tmp_path / "network.ts")
    for size in (spatial, other):
        image, augmented = draw_pair(size)
        torch.testing.assert_close(scripted(image), network(image))
        for one, right in zip(scripted(image, augmented), network(image, augmented), strict=True):
            torch.testing.assert_close(one, right)


def test_a_script_learns():
    network = network_for((6, 9)).double()
    pair = [view.double() for view in draw_pair((6, 9))]
    # Taps that lie on a pixel have two gradients, one to either side.
    torch.nn.init.uniform_(network.deformable.prediction.bias, 0.2, 0.4)
    scripted = torch.jit.script(network)
    gradients = []
    for one in (scripted, network):
        one(*pair)[0].square().mean().backward()
        gradients.append({name: parameter.grad for name, parameter in network.named_parameters()})
        network.zero_grad()
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("spatial", [(6, 9), (4, 5, 3)])
def test_trace_and_export(spatial):
    network = network_for(spatial).eval()
    image, augmented = draw_pair(spatial)
    for made in (
        torch.jit.trace(network, (image, augmented)),
        torch.export.export(network, (image, augmented)).module(),
    ):
        for one, right in zip(made(augmented, image), network(augmented, image), strict=True):
            torch.testing.assert_close(one, right)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("spatial", [(13, 9), (5, 9, 7)], ids=str)
@pytest.mark.parametrize("whole", [True, False], ids=["cast as a whole", "autocast"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_half_precision(training, whole, spatial, dtype):
    network = network_for(spatial).train(training)
    pair = draw_pair(spatial)
    expected = copy.deepcopy(network)(*pair)
    if whole:
        output = network.to(dtype)(*(view.to(dtype) for view in pair))
    else:
        with torch.autocast("cpu", dtype):
            output = network(*pair)
    for part, right in zip(output, expected, strict=True):
        assert part.dtype == (dtype if whole else torch.float32)
        share = {torch.float16: 0.02, torch.bfloat16: 0.15}[dtype]
        torch.testing.assert_close(part.float(), right, rtol=0, atol=share * right.abs().max().item())
    S3NetLoss()(output, {"correspondence": correspondence_of(pair[0])}).backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


def test_every_published_name_has_its_own():
    names = [_own_name(name) for name in published()]
    assert len(set(names)) == len(names)


def test_nan_comes_out_as_nan():
    image = torch.rand(1, 3, 9, 7)
    image[0, 0, 4, 3] = torch.nan
    assert S3Net(2, 3, 4)(image).isnan().any()
