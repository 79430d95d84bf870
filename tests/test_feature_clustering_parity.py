"""The published arithmetic of feature clustering, in float64, against numbers made with the authors' code."""

from functools import cache

import numpy as np
import pytest
import torch
from feature_clustering_parity import CASES, cases, figures
from parity import sampled

from benchmarks.transcription_feature_clustering import TranscribedFeatureClustering, transcribed_step
from monai_fusenet.losses import FeatureClusteringLoss
from monai_fusenet.networks import FeatureClusteringNet
from monai_fusenet.networks.nets.feature_clustering import published_name

EACH = pytest.mark.parametrize("case", CASES)
GRADIENTS = [
    (case, key)
    for case in CASES
    for key in sorted(figures(case))
    if key.startswith("grad.") or key.startswith("grad_head.") or key.startswith("grad_norm.")
]


def published_network(case):
    network = FeatureClusteringNet(features=12, layers=cases()[case].layers).double()
    network.load_published_state_dict(cases()[case].state_dict)
    return network.train()


def published_loss(case):
    return FeatureClusteringLoss(*cases()[case].weights)


def views_of(case):
    return {} if cases()[case].scribble is None else {"scribble": cases()[case].scribble}


@cache
def first_step(case):
    """Network, scores and terms of the first forward and backward pass."""
    network = published_network(case)
    output = network(cases()[case].image, cases()[case].image)
    terms = published_loss(case).terms(output, views_of(case))
    terms.total.backward()
    return network, output.scores.detach(), terms


def assert_close(actual, expected, relative, absolute=0.0):
    actual = actual.detach().numpy() if isinstance(actual, torch.Tensor) else np.asarray(actual)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=relative * np.abs(expected).max() + absolute)


@EACH
def test_input(case):
    assert_close(cases()[case].image[..., ::4, ::4], figures(case)["input_every4"], 1e-9)


@EACH
def test_scores(case):
    scores = first_step(case)[1]
    assert_close(scores[..., ::4, ::4], figures(case)["scores_every4"], 1e-9)
    assert_close(scores.abs().sum(), figures(case)["scores_abs_sum"], 1e-9)
    # Scores of either sign: their sum is judged by how much was summed up.
    assert_close(scores.sum(), figures(case)["scores_sum"], 0, 1e-9 * figures(case)["scores_abs_sum"])


@EACH
def test_terms(case):
    assert_close([term.item() for term in first_step(case)[2]], figures(case)["terms_total_sim_con_scr"], 1e-9)


def test_there_are_gradients_to_compare():
    assert len(GRADIENTS) > 60


@pytest.mark.parametrize(("case", "key"), GRADIENTS)
def test_gradient(case, key):
    kind, _, published = key.partition(".")
    gradient, expected = first_step(case)[0].get_parameter(published_name(published)).grad, figures(case)[key]
    assert_close(sampled(gradient, kind).reshape(expected.shape), expected, 1e-7, 1e-10)


@EACH
def test_six_steps(case):
    network, loss = published_network(case), published_loss(case)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    image, trace = cases()[case].image, []
    for _ in range(6):
        optimizer.zero_grad()
        output = network(image, image)
        terms = loss.terms(output, views_of(case))
        terms.total.backward()
        optimizer.step()
        total, *parts = (term.item() for term in terms)
        trace.append([*parts, total, len(output.scores.argmax(dim=1).unique())])
    expected = figures(case)["trace_sim_con_scr_total_clusters"]
    assert_close(trace, expected, 1e-7)
    assert [row[-1] for row in trace] == expected[:, -1].tolist()
    assert_close(network(image)[..., ::8, ::8], figures(case)["final_scores_every8"], 1e-6)


@EACH
def test_six_steps_of_the_transcription_leave_the_published_trace(case):
    layers, weights, state_dict, image, scribble = cases()[case]
    network = TranscribedFeatureClustering(features=12, layers=layers).double().train()
    network.load_state_dict(state_dict, strict=False)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    drawn = None if scribble is None else scribble[:, 0].numpy()
    trace = [transcribed_step(network, optimizer, image, weights, drawn) for _ in range(6)]
    expected = figures(case)["trace_sim_con_scr_total_clusters"][:, [0, 1, 2, 4]]
    assert_close(trace, expected, 1e-7)
    assert_close(network(image)[..., ::8, ::8], figures(case)["final_scores_every8"], 1e-6)
