"""The published arithmetic, in float64, against numbers made with the authors' code (see reference/README.md)."""

import numpy as np
import pytest
import torch
from parity import figures, inputs

from monai_fusenet.losses import FuseNetLoss, cross_modal_similarity, published_edge_map
from monai_fusenet.networks import FuseNet
from monai_fusenet.networks.nets.fusenet import PUBLISHED_NAMES
from monai_fusenet.transforms import adjust_brightness, blur, shift_hue


def published_network():
    weights, _, _ = inputs()
    network = FuseNet(features=8, img_size=(256, 256), dropout=0.0).double()
    network.load_published_state_dict(weights)
    return network.train()


@pytest.fixture(scope="module")
def step():
    """Network, output and loss of the first forward and backward pass."""
    _, image, augmented = inputs()
    network = published_network()
    output = network(image, augmented)
    FuseNetLoss(edge_mode="published")(output).backward()
    return network, output


def assert_close(actual, expected, relative, absolute=0.0):
    actual = actual.detach().numpy() if isinstance(actual, torch.Tensor) else np.asarray(actual)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=relative * np.abs(expected).max() + absolute)


def test_scores(step):
    scores = step[1].scores
    assert scores.shape == (1, 16, 256, 256)
    assert_close(scores[0, :, ::16, ::16], figures()["cluster_scores_every16"], 1e-9)
    assert_close(scores.sum(), figures()["cluster_scores_sum"], 1e-9)
    assert_close(scores.abs().sum(), figures()["cluster_scores_abs_sum"], 1e-9)


def test_cross_modal_logits_and_targets(step):
    similarity = cross_modal_similarity(step[1].image_tokens, step[1].augmented_tokens, temperature=5.0)
    assert_close(similarity.logits[0], figures()["clip_logits"], 1e-9)
    assert_close(similarity.targets[0], figures()["clip_targets"], 1e-9)


def test_edge_map(step):
    edges = published_edge_map(step[1].scores)
    np.testing.assert_array_equal(edges[0, ::16, ::16].numpy().squeeze(), figures()["edge_every16"].squeeze())
    assert_close(edges.abs().mean(), figures()["edge_abs_mean"], 1e-9)


GRADIENTS = sorted(key.removeprefix("grad.") for key in figures() if key.startswith("grad."))


def test_there_are_gradients_to_compare():
    assert len(GRADIENTS) > 20


@pytest.mark.parametrize("published", GRADIENTS)
def test_gradient(step, published):
    module, _, parameter = published.rpartition(".")
    gradient = step[0].get_parameter(f"{PUBLISHED_NAMES[module]}.{parameter}").grad
    expected = figures()[f"grad.{published}"]
    assert_close(gradient.reshape(expected.shape), expected, 1e-7, 1e-10)


def test_six_step_trace():
    _, image, augmented = inputs()
    network, loss_function = published_network(), FuseNetLoss(edge_mode="published")
    optimizer = torch.optim.SGD(network.parameters(), lr=0.005, momentum=0.9)
    trace = []
    for _ in range(6):
        optimizer.zero_grad()
        output = network(image, augmented)
        terms = loss_function.terms(output)
        terms.total.backward()
        optimizer.step()
        clusters = len(output.scores.argmax(1).unique())
        trace.append([terms.self_labeling.item(), terms.edge.item(), terms.cross_modal.item(), clusters])
    np.testing.assert_allclose(trace, figures()["trace_ce_edge_clip_clusters"], rtol=0, atol=1e-7)


def test_brightness_then_hue():
    # The pipeline of these two figures rounds to float32.
    jittered = shift_hue(adjust_brightness(figures()["aug_input"], 1.4), -0.06)
    np.testing.assert_allclose(jittered, figures()["aug_jitter"], rtol=0, atol=1e-5)


def test_blur_of_the_jittered_image():
    blurred = blur(figures()["aug_jitter"], kernel_size=(9, 5), sigma=2.0)
    np.testing.assert_allclose(blurred, figures()["aug_blur_sigma2_kernel_w5_h9"], rtol=0, atol=1e-5)
