"""Every public metric gives the same value whatever holds the mask: tensors, arrays, and numbers of any type."""

import inspect

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_fusenet import metrics

TRUTH = np.zeros((9, 11), np.uint8)
TRUTH[2:7, 3:9] = 1
CLUSTERS = TRUTH + 1
CLUSTERS[4:8, 5:] = 3
MASK = (CLUSTERS > 1).astype(np.uint8)
OF_MASKS = {name: getattr(metrics, name) for name in ("compute_hammoude", "compute_xor")}
OF_MASKS |= {
    name: lambda *pair, name=name: collected(getattr(metrics, name)(), *pair)
    for name in ("HammoudeMetric", "XorMetric")
}
OF_OBJECTS = {
    "compute_object_precision": lambda *pair: metrics.compute_object_precision(*pair, thresholds=(0.6,)),
    "ObjectPrecisionMetric": lambda *pair: collected(metrics.ObjectPrecisionMetric((0.6,)), *pair),
}
OF_CLUSTERS = {
    name: getattr(metrics, name)
    for name in metrics.__all__
    if "clusters" in inspect.signature(getattr(metrics, name)).parameters
}
RESULTS = {"ClusterOverlap"}
KINDS = {
    "MetaTensor": lambda array: MetaTensor(torch.from_numpy(array)),
    "Tensor": torch.from_numpy,
    "int64": lambda array: torch.from_numpy(array).long(),
    "ndarray": np.copy,
    "big-endian": lambda array: array.astype(">i2"),
}
FLOATS = {
    "float16": lambda array: torch.from_numpy(array).half(),
    "bfloat16": lambda array: torch.from_numpy(array).bfloat16(),
    "float64": lambda array: array.astype(float),
    "bool": lambda array: torch.from_numpy(array > 0),
}


def collected(metric, y_pred, y):
    metric(torch.as_tensor(y_pred), torch.as_tensor(y))
    return metric.aggregate()


def test_every_public_metric_is_tried_here():
    assert sorted({*OF_MASKS, *OF_OBJECTS, *OF_CLUSTERS, *RESULTS}) == sorted(metrics.__all__)


@pytest.mark.parametrize("name", OF_MASKS)
@pytest.mark.parametrize("kind", [*KINDS, *FLOATS])
def test_masks(name, kind):
    if name.endswith("Metric") and kind == "big-endian":
        return  # torch knows no such tensor
    expected = OF_MASKS[name](torch.from_numpy(MASK)[None, None], torch.from_numpy(TRUTH)[None, None])
    pair = ({**KINDS, **FLOATS}[kind](array)[None, None] for array in (MASK, TRUTH))
    assert 0 < expected.item() < 1
    assert torch.as_tensor(OF_MASKS[name](*pair)).item() == expected.item()


@pytest.mark.parametrize("name", OF_OBJECTS)
@pytest.mark.parametrize("kind", [*KINDS, *(kind for kind in FLOATS if kind != "bool")])
def test_objects(name, kind):
    if name.endswith("Metric") and kind == "big-endian":
        return  # torch knows no such tensor
    pair = ({**KINDS, **FLOATS}[kind](array)[None, None] for array in (CLUSTERS, TRUTH + 1))
    assert torch.as_tensor(OF_OBJECTS[name](*pair)).item() == pytest.approx(2 / 3)  # of 3 and 2, two match


@pytest.mark.parametrize("name", OF_CLUSTERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("label_kind", [*KINDS, *FLOATS])
def test_clusters(name, kind, label_kind):
    expected = OF_CLUSTERS[name](CLUSTERS, TRUTH)
    value = OF_CLUSTERS[name](KINDS[kind](CLUSTERS), {**KINDS, **FLOATS}[label_kind](TRUTH))
    np.testing.assert_equal(value, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.uint8], ids=str)
def test_a_mask_of_other_values(dtype):
    with pytest.raises(ValueError, match=r"^y_pred must be binary, got values from 0 to 3$"):
        metrics.compute_xor(3 * torch.from_numpy(TRUTH)[None, None].to(dtype), torch.from_numpy(TRUTH)[None, None])
