"""Every loss in half precision and under autocast: the value that it has in float32, and finite gradients."""

import contextlib
import math
from collections import namedtuple

import pytest
import torch

from monai_fusenet import losses

HALF = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])


def targets_of(logits):
    return (logits.detach() > 0).to(logits.dtype)


def one_hot_of(scores):
    return torch.nn.functional.one_hot(scores.detach().argmax(dim=1), scores.shape[1]).movedim(-1, 1)


def probability(scores):
    """Numbers in [0, 1], as exact in half precision as the scores are."""
    return scores.abs().clamp(max=1)


def on_tokens(loss):
    """A loss of the tokens of two views, as a function of scores (B, K, *spatial): their pixels are the tokens."""

    def call(scores):
        first = scores.flatten(2).mT[:, :96]
        return loss(first, first.flip(1))

    return call


def on_output(loss):
    return lambda scores: loss((scores, scores.flatten(2).mT[:, :96], scores.flatten(2).mT[:, -96:]))


def scribble_on(scores):
    """Two classes along the first axis, and nothing elsewhere."""
    scribble = torch.full_like(scores[:, :1], 255, dtype=torch.long)
    scribble[:, :, 0], scribble[:, :, 1] = 0, 1
    return scribble


class OneTerm(torch.nn.Module):
    def terms(self, output, batch):
        return namedtuple("Terms", "total")(losses.SelfLabelingLoss()(output[0]))


def mirrored(scores):
    """The correspondence of a view that is mirrored along its last axis."""
    numbers = torch.arange(scores[0, 0].numel(), device=scores.device).view(1, 1, *scores.shape[2:])
    return numbers.flip(-1).expand(len(scores), *numbers.shape[1:])


def picture(scores):
    """Scores of a picture, or of the first slice of a volume; both sides are odd."""
    return scores.flatten(4)[..., 0] if scores.ndim == 5 else scores


def contexts(scores):
    """Two contexts (B, 6, pixels)."""
    return scores.flatten(2), scores.flatten(2).flip(1)


def attention(scores):
    """What may stand for the attention (B, 6, 6) of six patches."""
    return scores.flatten(2)[..., :6]


def on_logits(loss):
    return lambda scores: loss(scores[:, :1], targets_of(scores[:, :1]))


# Each as a function of scores (B, K, *spatial), in all its modes.
CASES = {
    "SelfLabelingLoss": [losses.SelfLabelingLoss(reduction) for reduction in ("mean", "sum", "none")],
    "EdgeRefinementLoss": [
        *(losses.EdgeRefinementLoss(4, "soft", reduction) for reduction in ("mean", "sum", "none")),
        lambda scores: losses.EdgeRefinementLoss(4)(scores[:, :1]),
        losses.EdgeRefinementLoss(4, "published"),
    ],
    "SpatialContinuityLoss": [
        *(losses.SpatialContinuityLoss("scores", reduction) for reduction in ("mean", "sum", "none")),
        losses.SpatialContinuityLoss("probabilities"),
        lambda scores: losses.SpatialContinuityLoss(mode="published")(picture(scores)),
        lambda scores: losses.SpatialContinuityLoss("probabilities")(scores[:, :1]),
    ],
    "CrossModalLoss": [on_tokens(losses.CrossModalLoss(detach_targets=detach)) for detach in (True, False)],
    "FeatureClusteringLoss": [
        lambda scores: losses.FeatureClusteringLoss()((scores,)),
        lambda scores: losses.FeatureClusteringLoss()((scores,), {"scribble": scribble_on(scores)}),
    ],
    "InterScaleConsistencyLoss": [lambda scores: losses.InterScaleConsistencyLoss()(*contexts(scores))],
    "inter_scale_disagreement": [lambda scores: losses.inter_scale_disagreement(*contexts(scores))],
    "IntraScaleConsistencyLoss": [lambda scores: losses.IntraScaleConsistencyLoss()(attention(scores))],
    "patch_confusion": [lambda scores: losses.patch_confusion(attention(scores))],
    "MSFormerLoss": [lambda scores: losses.MSFormerLoss()((scores, *contexts(scores), attention(scores)))],
    "S3NetLoss": [
        lambda scores: losses.S3NetLoss()((scores, scores.flip(-1)), {"correspondence": mirrored(scores)}),
        lambda scores: losses.S3NetLoss(transform_mode="published", spatial_mode="published")(
            (picture(scores), picture(scores).flip(1))
        ),
    ],
    "TransformConsistencyLoss": [
        lambda scores: losses.TransformConsistencyLoss()(scores, scores.flip(1), mirrored(scores)),
        lambda scores: losses.TransformConsistencyLoss("published")(picture(scores), picture(scores).flip(1)),
    ],
    "equivariance": [lambda scores: losses.equivariance(scores, scores.flip(1), mirrored(scores))],
    "label_cross_entropy": [lambda scores: losses.label_cross_entropy(scores, scores.detach().argmin(dim=1))],
    "published_consistency": [lambda scores: losses.published_consistency(picture(scores), picture(scores).flip(1))],
    "published_continuity": [
        lambda scores: losses.published_continuity(picture(scores), torch.linspace(0, 1, 6, device=scores.device)),
    ],
    "ScribbleLoss": [lambda scores: losses.ScribbleLoss()(scores, scribble_on(scores))],
    "scribble_loss": [lambda scores: losses.scribble_loss(scores, scribble_on(scores))],
    "WithScribbles": [
        lambda scores: losses.WithScribbles(losses.FeatureClusteringLoss())((scores,)),
        lambda scores: losses.WithScribbles(OneTerm())((scores,), {"scribble": scribble_on(scores)}),
    ],
    "FuseNetLoss": [
        on_output(losses.FuseNetLoss(edge_mode=mode, detach_targets=mode == "soft")) for mode in ("soft", "published")
    ],
    "NoisyMaskLoss": [
        on_logits(losses.NoisyMaskLoss()),
        on_logits(losses.NoisyMaskLoss(exponent=1, lambda_dice=0, lambda_edge=0)),
        lambda scores: losses.NoisyMaskLoss()(scores, one_hot_of(scores)),
        lambda scores: losses.NoisyMaskLoss()(scores[:, :1], torch.zeros_like(scores[:, :1])),
        lambda scores: losses.NoisyMaskLoss()(scores[:, :1], torch.ones_like(scores[:, :1])),
        lambda scores: losses.NoisyMaskLoss()(scores[:, :1], torch.full_like(scores[:, :1], 0.5)),  # of weight 0
    ],
    "cross_modal_similarity": [on_tokens(lambda *tokens: math.prod(losses.cross_modal_similarity(*tokens, 5.0)))],
    "edge_disagreement": [losses.edge_disagreement],
    "published_edge_map": [losses.published_edge_map],
    "generalised_cross_entropy": [
        lambda scores: losses.generalised_cross_entropy(probability(scores), targets_of(scores)),
        lambda scores: losses.generalised_cross_entropy(probability(scores), targets_of(-scores)),
    ],
    "soft_dice_distance": [
        lambda scores: losses.soft_dice_distance(
            probability(scores[:, :1]), targets_of(scores[:, :1]), torch.ones_like(scores[:, :1])
        )
    ],
    "self_labeling_loss": [losses.self_labeling_loss],
    "spatial_continuity": [losses.spatial_continuity],
}
RESULTS = {name for name in losses.__all__ if name.endswith("Terms")} | {
    "CrossModalSimilarity",
    "grey_values",
}  # others
EACH = pytest.mark.parametrize(
    "loss", [pytest.param(loss, id=f"{name}-{at}") for name, modes in CASES.items() for at, loss in enumerate(modes)]
)
SHAPES = pytest.mark.parametrize("shape", [(1, 6, 13, 9), (2, 6, 5, 9, 7)], ids=str)


def draw(shape, dtype, device="cpu", scale=3.0):
    torch.manual_seed(0)
    return (scale * torch.randn(shape)).to(device, dtype)


def value_and_gradient(loss, scores, context=None):
    scores = scores.detach().clone().requires_grad_()
    with contextlib.nullcontext() if context is None else context:
        value = loss(scores)
    if not value.requires_grad:
        return value, None
    (gradient,) = torch.autograd.grad(value.sum(), scores)
    return value.detach(), gradient


def test_every_public_loss_is_tried_here():
    assert sorted({*CASES, *RESULTS}) == sorted(losses.__all__)


@DEVICES
@HALF
@SHAPES
@EACH
def test_half_precision_costs_what_the_same_numbers_cost_in_float32(loss, shape, dtype, device):
    scores = draw(shape, dtype, device)
    value, gradient = value_and_gradient(loss, scores)
    expected, expected_gradient = value_and_gradient(loss, scores.float())
    assert torch.equal(value, expected)
    assert value.dtype == torch.float32
    if expected_gradient is not None:
        assert gradient.dtype == dtype
        largest = expected_gradient.abs().max().item()
        # Autograd adds what comes back from several uses of a score in the type of the score.
        torch.testing.assert_close(gradient.float(), expected_gradient, rtol=1e-2, atol=1e-2 * largest)


@DEVICES
@HALF
@SHAPES
@EACH
def test_autocast_changes_nothing(loss, shape, dtype, device):
    scores = draw(shape, torch.float32, device)
    value, gradient = value_and_gradient(loss, scores, torch.autocast(device, dtype))
    expected, expected_gradient = value_and_gradient(loss, scores)
    assert torch.equal(value, expected)
    assert gradient is None or torch.equal(gradient, expected_gradient)


@HALF
@EACH
@pytest.mark.parametrize("scale", [0.0, 1e4, -1e4])
def test_scores_at_the_end_of_the_range(loss, dtype, scale):
    signs = draw((1, 6, 13, 9), torch.float32).sign()
    value, gradient = value_and_gradient(loss, (scale * signs).to(dtype))
    assert value.isfinite().all()
    assert gradient is None or gradient.isfinite().all()


@HALF
@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_sums_over_a_large_image_do_not_overflow(dtype, mode):
    scores = torch.zeros(1, 2, 512, 512, dtype=dtype, requires_grad=True)
    value = losses.SelfLabelingLoss(mode)(scores)
    value.backward()
    # log(2) a pixel, of which float16 could count to 65504.
    pixels = 512 * 512 if mode == "sum" else 1
    assert value.item() == pytest.approx(0.693147 * pixels, rel=1e-5)
    assert scores.grad[0, 0, 0, 0].item() == pytest.approx(-0.5 * pixels / 512**2, rel=0.05)


@HALF
def test_a_mask_of_a_large_image(dtype):
    logits = torch.full((1, 1, 512, 512), -3.0, dtype=dtype, requires_grad=True)
    logits.data[..., 100:400, 50:333] = 4.0
    target = (logits.detach() > 0).to(dtype)
    value, gradient = value_and_gradient(lambda logits: losses.NoisyMaskLoss()(logits, target), logits)
    expected, expected_gradient = value_and_gradient(
        lambda logits: losses.NoisyMaskLoss()(logits, target), logits.float()
    )
    assert value.item() == expected.item()
    # The smallest step of float16.
    torch.testing.assert_close(gradient.float(), expected_gradient, rtol=8e-3, atol=6e-8)
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("loss", [losses.SelfLabelingLoss(), losses.EdgeRefinementLoss(2)])
def test_a_cluster_that_a_pixel_cannot_have(loss, dtype):
    scores = draw((1, 3, 5, 4), dtype)
    scores[:, 1] = -torch.inf
    value, gradient = value_and_gradient(loss, scores)
    without, gradient_without = value_and_gradient(loss, scores[:, [0, 2]])
    torch.testing.assert_close(value, without)
    torch.testing.assert_close(gradient[:, [0, 2]], gradient_without)
    assert not gradient[:, 1].any()


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float64], ids=str)
def test_a_target_of_any_type(dtype):
    logits = draw((2, 1, 5, 7), torch.float32)
    target = logits > 0
    expected = losses.NoisyMaskLoss()(logits, target.float())
    assert losses.NoisyMaskLoss()(logits, target.to(dtype)).item() == pytest.approx(expected.item(), rel=1e-6)
