"""The published arithmetic of MS-Former, in float64, against numbers made with the authors' code.

See `reference/README.md`.
"""

import numpy as np
import pytest
import torch
from msformer_parity import figures, inputs, recipe

from monai_fusenet.losses import MSFormerLoss
from monai_fusenet.networks import MSFormer
from monai_fusenet.networks.nets.msformer import PUBLISHED_NAMES


def published_network(**options):
    network = MSFormer(features=12, img_size=257, **options).double()
    network.load_published_state_dict(inputs()[0])
    return network.train()


@pytest.fixture(scope="module")
def step():
    """Network, output, terms and what passed its modules, in the first forward and backward pass."""
    network, seen = published_network(), {}
    modules = {
        "embed_fine": network.fine.norm,
        "block0_fine": network.fine.blocks[0],
        "fine": network.fine,
        "coarse": network.coarse,
    }
    for name, module in modules.items():
        module.register_forward_hook(lambda _, __, output, name=name: seen.__setitem__(name, output))
    image = inputs()[1]
    output = network(image, image)
    terms = MSFormerLoss().terms(output)
    terms.total.backward()
    return network, output, terms, seen


def assert_close(actual, expected, relative, absolute=0.0):
    actual = actual.detach().numpy() if isinstance(actual, torch.Tensor) else np.asarray(actual)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=relative * np.abs(expected).max() + absolute)


def test_image():
    assert_close(inputs()[1][0, :, ::16, ::16], figures()["input_every16"], 1e-9)


def test_fine_embedding(step):
    assert_close(step[3]["embed_fine"][0, :, ::32, ::32], figures()["embed_fine_every32"], 1e-9)


def test_first_fine_block(step):
    features, context = step[3]["block0_fine"]
    assert_close(features[0, :, ::32, ::32], figures()["block0_fine_every32"], 1e-9)
    assert_close(context[0], figures()["block0_fine_context"], 1e-9)


def test_branches(step):
    assert_close(step[3]["fine"][0][0, :, ::32, ::32], figures()["fine_every32"], 1e-9)
    assert_close(step[3]["coarse"][0][0, :, ::16, ::16], figures()["coarse_every16"], 1e-9)


def test_expansion(step):
    network, coarse = step[0], step[3]["coarse"][0]
    raised = network.expansion(coarse)[0]
    assert raised.shape == (12, 258, 258)
    # Coarse pixel c of the first row became the fine pixels (0, 2c), (0, 2c + 1), (1, 2c), (1, 2c + 1).
    pixels = [torch.cat([raised[:, r, 2 * c + p] for r in (0, 1) for p in (0, 1)]) for c in range(4)]
    assert_close(torch.stack(pixels), figures()["linear_up_first_tokens"], 1e-9)


def test_contexts(step):
    assert_close(step[1].fine_context[0], figures()["context_fine"], 1e-9)
    assert_close(step[1].coarse_context[0], figures()["context_coarse"], 1e-9)


def test_patch_attention(step):
    queries, keys = step[0].patches.tokens(step[1].scores)
    assert_close(queries[0], figures()["query_tokens"], 1e-9)
    assert_close(keys[0], figures()["key_tokens"], 1e-9)
    assert_close(step[1].patch_attention[0], figures()["patch_attention"], 1e-9)


def test_scores(step):
    scores = step[1].scores
    assert_close(scores[0, :, ::16, ::16], figures()["scores_every16"], 1e-9)
    assert_close(scores.sum(), figures()["scores_sum"], 1e-9)
    assert_close(scores.abs().sum(), figures()["scores_abs_sum"], 1e-9)
    sizes = torch.bincount(scores.argmax(1).flatten(), minlength=12)
    np.testing.assert_array_equal(sizes, figures()["cluster_sizes"])


def test_terms(step):
    assert_close([term.item() for term in step[2]], figures()["terms_total_ce_inter_intra"], 1e-9)


PARAMETERS = sorted(key.removeprefix("grad_norm.") for key in figures() if key.startswith("grad_norm."))


def test_all_parameters_are_compared(step):
    assert len(PARAMETERS) == len(list(step[0].parameters()))


@pytest.mark.parametrize("published", PARAMETERS)
def test_gradient(step, published):
    module, _, parameter = published.rpartition(".")
    gradient = step[0].get_parameter(f"{PUBLISHED_NAMES[module]}.{parameter}").grad
    if f"grad.{published}" in figures():
        expected = figures()[f"grad.{published}"]
        assert_close(gradient.reshape(expected.shape), expected, 1e-7, 1e-10)
    else:
        flat = gradient.flatten()
        assert_close(flat[:: flat.numel() // 64][:64], figures()[f"grad_head.{published}"], 1e-7, 1e-10)
    if published not in recipe()["zero_gradient_by_mathematics"]:
        assert_close(gradient.norm(), figures()[f"grad_norm.{published}"], 1e-7, 1e-10)


@pytest.mark.parametrize("use_checkpoint", [False, True])
def test_six_step_trace(use_checkpoint):
    image = inputs()[1]
    network, loss_function = published_network(use_checkpoint=use_checkpoint), MSFormerLoss()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    trace = []
    for _ in range(6):
        optimizer.zero_grad()
        output = network(image, image)
        terms = loss_function.terms(output)
        terms.total.backward()
        optimizer.step()
        losses = [term.item() for term in (terms.self_labeling, terms.inter_scale, terms.intra_scale, terms.total)]
        trace.append([*losses, len(output.scores.argmax(1).unique())])
    trace, expected = np.array(trace), figures()["trace_ce_inter_intra_total_clusters"]
    np.testing.assert_array_equal(trace[:, 4], expected[:, 4])
    assert_close(trace[:, :4], expected[:, :4], 1e-7)
    with torch.no_grad():
        scores = network(image)
    assert_close(scores[0, :, ::16, ::16], figures()["final_scores_every16"], 1e-6)
    assert len(scores.argmax(1).unique()) == figures()["final_clusters"]
