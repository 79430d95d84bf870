import doctest
from importlib import import_module

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.metrics import MeanIoU
from parity import figures

from monai_fusenet.metrics import HammoudeMetric, XorMetric, compute_hammoude, compute_xor

SHAPES = [(7, 5), (3, 7, 5)]
PAIRS = st.integers(0, 2**12 - 1)


def slow_counts(y_pred, y):
    """Pixels in both, in either and in the truth, one by one."""
    pairs = list(zip(y_pred.flatten().tolist(), y.flatten().tolist(), strict=True))
    both = sum(1 for a, b in pairs if a and b)
    either = sum(1 for a, b in pairs if a or b)
    return both, either, sum(1 for _, b in pairs if b)


def random_pair(shape, batch=2, channels=3):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, batch, channels, *shape, generator=generator).gt(0.6).unbind()


@pytest.mark.parametrize("shape", SHAPES)
def test_values_equal_counting_pixel_by_pixel(shape):
    y_pred, y = random_pair(shape)
    hammoude, xor = compute_hammoude(y_pred, y), compute_xor(y_pred, y)
    assert hammoude.shape == xor.shape == (2, 3)
    for item in range(2):
        for channel in range(3):
            both, either, truth = slow_counts(y_pred[item, channel], y[item, channel])
            assert hammoude[item, channel].item() == pytest.approx((either - both) / either)
            assert xor[item, channel].item() == pytest.approx((either - both) / truth)


def test_known_values():
    y_pred, y = torch.tensor([[[[1, 1, 0, 0, 1]]]]), torch.tensor([[[[0, 1, 1, 0, 0]]]])
    assert compute_hammoude(y_pred, y).item() == pytest.approx(3 / 4)
    assert compute_xor(y_pred, y).item() == pytest.approx(3 / 2)


def test_published_code_gives_the_same_values():
    reference = figures()
    y_pred, y = (torch.from_numpy(reference[key])[None, None] for key in ("metric_a", "metric_b"))
    _, hammoude, xor = reference["metric_values_dice_hm_xor"]
    assert compute_hammoude(y_pred, y).item() == pytest.approx(hammoude)
    assert compute_xor(y_pred, y).item() == pytest.approx(xor)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("prediction", "truth", "hammoude", "xor"),
    [(0, 0, 0, 0), (1, 1, 0, 0), (0, 1, 1, 1), (1, 0, 1, float("inf"))],
    ids=["both empty", "both full", "prediction empty", "truth empty"],
)
def test_empty_and_full_masks(shape, prediction, truth, hammoude, xor):
    y_pred, y = torch.full((1, 1, *shape), prediction), torch.full((1, 1, *shape), truth)
    assert compute_hammoude(y_pred, y).tolist() == [[hammoude]]
    assert compute_xor(y_pred, y).tolist() == [[xor]]


@given(PAIRS, PAIRS)
@settings(max_examples=60, deadline=None)
def test_laws(a, b):
    y_pred, y = (torch.tensor([int(bit) for bit in f"{bits:012b}"]).view(1, 1, 3, 4) for bits in (a, b))
    hammoude, xor = compute_hammoude(y_pred, y).item(), compute_xor(y_pred, y).item()
    assert 0 <= hammoude <= 1
    assert (hammoude == 0) == (xor == 0) == (a == b)
    assert hammoude == compute_hammoude(y, y_pred).item()
    assert xor >= hammoude - 1e-6  # the union is at least as large as the truth


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float64])
def test_any_type_counts_exactly(dtype):
    y_pred, y = torch.ones(1, 1, 300, 301, dtype=dtype), torch.ones(1, 1, 300, 301, dtype=dtype)
    y[..., :1] = 0  # half precision would overflow at 65504
    assert compute_xor(y_pred, y).item() == pytest.approx(1 / 300)
    assert compute_hammoude(y_pred, y).item() == pytest.approx(1 / 301, rel=1e-4)  # 1 - IoU in float32


@pytest.mark.parametrize("compute", [compute_hammoude, compute_xor])
@pytest.mark.parametrize(
    ("y_pred", "y", "message"),
    [
        (torch.zeros(1, 1, 4, 5), torch.zeros(1, 1, 5, 4), r"same shape, got \(1, 1, 4, 5\) and \(1, 1, 5, 4\)"),
        (torch.zeros(4, 5), torch.zeros(4, 5), r"must have shape \(B, C, \*spatial\), got \(4, 5\)"),
        (torch.full((1, 1, 2, 3), 0.5), torch.zeros(1, 1, 2, 3), "y_pred must be binary, got values from 0.5 to 0.5"),
        (torch.zeros(1, 1, 2, 3), torch.full((1, 1, 2, 3), 255), "y must be binary, got values from 255 to 255"),
        (torch.zeros(1, 1, 2, 3), torch.full((1, 1, 2, 3), torch.nan), "y must be binary, got values from nan to nan"),
    ],
    ids=["shapes", "no channels", "probabilities", "8 bit", "nan"],
)
def test_bad_input_is_named(compute, y_pred, y, message):
    with pytest.raises(ValueError, match=message):
        compute(y_pred, y)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum", "mean_batch", "sum_batch", "mean_channel", "sum_channel"])
def test_hammoude_metric_reduces_as_mean_iou(reduction):
    batches = [random_pair((7, 5), batch=2), random_pair((6, 4), batch=1)]
    hammoude = HammoudeMetric(reduction=reduction, get_not_nans=True)
    iou = MeanIoU(reduction=reduction, get_not_nans=True, ignore_empty=False)
    for y_pred, y in batches:
        hammoude(y_pred, y)
        iou(y_pred, y)
    value, count = hammoude.aggregate()
    mean_iou, iou_count = iou.aggregate()
    torch.testing.assert_close(count, iou_count)
    total = iou_count if reduction.startswith("sum") else torch.ones_like(value)
    torch.testing.assert_close(value, total - mean_iou)


def test_metric_collects_lists_and_forgets_on_reset():
    metric = XorMetric()
    y_pred, y = torch.tensor([[1, 1, 1]])[None], torch.tensor([[0, 1, 0]])[None]
    metric([y_pred, y], [y, y])
    assert metric.aggregate().item() == pytest.approx(1.0)  # errors 2 and 0
    assert metric.aggregate("sum").item() == pytest.approx(2.0)
    metric.reset()
    with pytest.raises(ValueError, match="XorMetric has no values to aggregate: call it on a batch first"):
        metric.aggregate()


def test_one_empty_truth_makes_the_mean_infinite_and_none_shows_it():
    metric = XorMetric()
    metric(torch.ones(2, 1, 3, 2), torch.tensor([1.0, 0.0]).view(2, 1, 1, 1).expand(2, 1, 3, 2))
    assert metric.aggregate().item() == float("inf")
    assert metric.aggregate("none").tolist() == [[0.0], [float("inf")]]


def test_meta_tensors_are_taken():
    mask = MetaTensor(torch.ones(1, 1, 3, 2))
    metric = HammoudeMetric()
    assert metric(mask, mask).tolist() == [[0.0]]
    assert metric.aggregate().item() == 0
    with pytest.raises(ValueError, match="y must be binary, got values from 2 to 2"):
        metric(mask, mask * 2)


@pytest.mark.parametrize("name", ["hammoude", "xor"])
def test_docstring_examples_run(name):
    failures, examples = doctest.testmod(import_module(f"monai_fusenet.metrics.{name}"))
    assert examples > 0
    assert failures == 0
