"""S3-Net's published arithmetic, in float64, against numbers made with the authors' code (see reference/README.md)."""

import numpy as np
import pytest
import torch
from parity import sampled
from s3net_parity import figures, inputs, recipe

from benchmarks.transcription_s3net import transcribed_transform
from monai_fusenet.losses import S3NetLoss, grey_values, published_continuity
from monai_fusenet.networks import S3Net, deform_conv
from monai_fusenet.networks.blocks.layout import to_map
from monai_fusenet.networks.nets.s3net import _own_name

NAMES = ["square", "oblong"]
EACH = pytest.mark.parametrize("name", NAMES)


def published_network(name):
    case = inputs()[0][name]
    network = S3Net(features=12, img_size=case.image.shape[2:], offsets="free").double()
    network.load_published_state_dict(case.weights)
    return network.train()


def published_loss(name):
    greys = grey_values(inputs()[0][name].colours)
    return S3NetLoss(transform_mode="published", spatial_mode="published", greys=greys)


def assert_close(actual, expected, relative, absolute=0.0):
    actual = actual.detach().numpy() if isinstance(actual, torch.Tensor) else np.asarray(actual)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=relative * np.abs(expected).max() + absolute)


@pytest.fixture(scope="module")
def steps():
    """For each case: network, what its parts put out, output and terms of the first forward and backward pass."""
    made = {}
    for name in NAMES:
        network, seen = published_network(name), {}
        for part, module in network.named_modules():
            module.register_forward_hook(
                lambda _, inputs, output, part=part, seen=seen: seen.update({part: output, f"into {part}": inputs[0]})
            )
        image = inputs()[0][name].image
        output = network(image, image)
        terms = published_loss(name).terms(output)
        terms.total.backward()
        made[name] = network, seen, output, terms
    return made


def test_recipe_is_that_of_the_figures():
    for name in NAMES:
        assert_close(inputs()[0][name].image[0, :, ::4, ::4], figures()[f"{name}.input_every4"], 1e-9)
        np.testing.assert_array_equal(inputs()[0][name].colours, figures()[f"{name}.label_colours_bgr"])
    for key, value in zip(("x", "weight", "offset", "mask"), inputs()[1], strict=True):
        np.testing.assert_array_equal(value, figures()[f"deform.{key}"])


@EACH
@pytest.mark.parametrize(
    ("figure", "part"),
    [
        ("conv1", "stem_norm"),
        ("lka0", "attention.0"),
        ("gate0", "into attention.0.output"),
        ("lka1", "attention_norms.1"),
        ("aux_unrotated", "auxiliary_norm"),
        ("deform", "deformable"),
    ],
)
def test_maps(steps, name, figure, part):
    _, seen, output, _ = steps[name]
    found = to_map(seen[part], list(output.scores.shape[2:])) if part.startswith("into") else seen[part]
    assert_close(found[0, :, ::8, ::8], figures()[f"{name}.{figure}_every8"], 1e-9)


@EACH
def test_scores(steps, name):
    scores, auxiliary_scores = steps[name][2]
    assert_close(scores[0, :, ::4, ::4], figures()[f"{name}.scores_every4"], 1e-9)
    # Of scores that end in a batch norm the sum is 0 but for its bias: compared with that of their magnitudes.
    total = figures()[f"{name}.scores_abs_sum"]
    assert_close(scores.sum(), figures()[f"{name}.scores_sum"], 0, 1e-9 * total)
    assert_close(scores.abs().sum(), total, 1e-9)
    sizes = torch.bincount(scores.argmax(dim=1).flatten(), minlength=12)
    np.testing.assert_array_equal(sizes, figures()[f"{name}.cluster_sizes"])
    assert_close(transcribed_transform(auxiliary_scores)[0, :, ::8, ::8], figures()[f"{name}.aux_rotated_every8"], 1e-9)


@EACH
def test_terms(steps, name):
    _, _, output, terms = steps[name]
    assert_close([term.item() for term in terms], figures()[f"{name}.terms_total_ce_affine_spatial"], 1e-9)
    greys = grey_values(inputs()[0][name].colours)
    np.testing.assert_array_equal(greys, figures()[f"{name}.label_grey"])
    parts = published_continuity(output.scores, greys.double() / 255)
    assert_close(parts[0], figures()[f"{name}.spatial_parts_yx_xyx_xyy"], 1e-9)


GRADIENTS = sorted(key for key in figures() if ".grad" in key and not key.startswith("deform."))


def test_there_are_gradients_to_compare():
    parameters = dict(published_network("square").named_parameters())
    assert len(GRADIENTS) == 2 * len(NAMES) * len(parameters)


@pytest.mark.parametrize("key", GRADIENTS)
def test_gradient(steps, key):
    name, kind, published = key.split(".", 2)
    gradient = steps[name][0].get_parameter(_own_name(published)).grad
    expected = figures()[key]
    assert_close(sampled(gradient, kind).reshape(expected.shape), expected, 1e-7, 1e-10)


@EACH
def test_six_steps(name):
    image = inputs()[0][name].image
    network, loss_function = published_network(name), published_loss(name)
    optimizer = torch.optim.SGD(network.parameters(), **{k: recipe()["optimiser"][k] for k in ("lr", "momentum")})
    trace = []
    for _ in range(6):
        optimizer.zero_grad()
        output = network(image, image)
        total, *terms = loss_function.terms(output)
        total.backward()
        optimizer.step()
        trace.append([*(term.item() for term in terms), total.item(), len(output.scores.argmax(1).unique())])
    expected = figures()[f"{name}.trace_ce_affine_spatial_total_clusters"]
    np.testing.assert_allclose(trace, expected, rtol=0, atol=1e-7)
    np.testing.assert_array_equal(np.array(trace)[:, -1], expected[:, -1])
    assert_close(network(image)[0, :, ::8, ::8], figures()[f"{name}.final_scores_every8"], 1e-6)


def test_deformable_convolution_alone():
    image, weight, offset, modulation = (part.clone().requires_grad_() for part in inputs()[1])
    result = deform_conv(image, weight, offset, modulation)
    result.square().sum().backward()
    assert_close(result, figures()["deform.y"], 1e-9)
    for key, part in zip(("x", "weight", "offset", "mask"), (image, weight, offset, modulation), strict=True):
        assert_close(part.grad, figures()[f"deform.grad_{key}"], 1e-7, 1e-10)
