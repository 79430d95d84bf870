"""Every public transform takes tensors with and without metadata, and arrays, and makes the same values of them."""

import inspect

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Transform

from monai_fusenet import data, transforms
from monai_fusenet.data import (
    CheckImaged,
    ScaleByPercentilesd,
    ToChannelsd,
    UnionMaskd,
    WindowCTd,
    WorkingGridd,
    WorkingSized,
)
from monai_fusenet.transforms import (
    AugmentPaird,
    ClustersToMaskd,
    CropToFieldd,
    FieldOfViewd,
    ForLabelServerd,
    From8Bitd,
    KMeansClustersd,
    MaskConfidenced,
    MaskToObjectsd,
    N4BiasFieldCorrectiond,
    ProbabilitiesToMaskd,
    QuantizeTo8Bitd,
    RandColorJitter,
    RandColorJitterd,
    RandFixedKernelBlur,
    RandFixedKernelBlurd,
    RandQuarterTurnViewd,
    ScoresToClustersd,
    ShadingCorrectiond,
)
from monai_fusenet.utils.arrays import array_of

GENERATOR = np.random.default_rng(0)
IMAGE = GENERATOR.random((3, 13, 9), dtype=np.float32)
VOLUME = GENERATOR.random((1, 9, 12, 7), dtype=np.float32)
CLUSTERS = (VOLUME > 0.5).astype(np.uint8) + 1
MASK = np.zeros((1, 13, 9), np.uint8)
MASK[0, 2:9, 3:5] = MASK[0, 6:9, 3:8] = 1

FIELD = np.ones((1, 13, 9), bool)
FIELD[:, :, :2] = FIELD[:, 0, 3] = False
FRAMED = np.zeros((3, 40, 34), np.float32)
FRAMED[:, 6:-5, 4:] = GENERATOR.random((3, 29, 30), dtype=np.float32) / 2 + 0.5

CASES = {
    "AugmentPaird": [
        (lambda: AugmentPaird().set_random_state(0), {"image": IMAGE}),
        (lambda: AugmentPaird(second_view_channels=1), {"image": IMAGE[:2]}),
    ],
    "CheckImaged": [(lambda: CheckImaged("image", 3, 5), {"image": VOLUME})],
    "ClustersToMaskd": [
        (ClustersToMaskd, {"clusters": CLUSTERS, "image": VOLUME}),
        (lambda: ClustersToMaskd(partitions=[2]), {"clusters": MASK + 1, "image": FRAMED[:, :13, :9]}),
        (lambda: ClustersToMaskd(field_key="field"), {"clusters": CLUSTERS, "image": VOLUME, "field": VOLUME > 0.1}),
    ],
    "CropToFieldd": [
        (CropToFieldd, {"image": IMAGE, "field": FIELD}),
        (CropToFieldd, {"image": VOLUME, "field": VOLUME > 0.3}),
    ],
    "FieldOfViewd": [
        (FieldOfViewd, {"image": FRAMED}),
        (lambda: FieldOfViewd(shape="body"), {"image": FRAMED}),
        (lambda: FieldOfViewd(shape=None), {"image": VOLUME}),
    ],
    "ForLabelServerd": [(ForLabelServerd, {"pred": MASK, "image": IMAGE})],
    "From8Bitd": [(lambda: From8Bitd("image"), {"image": (255 * IMAGE).astype(np.uint8)})],
    "KMeansClustersd": [(KMeansClustersd, {"original": IMAGE}), (KMeansClustersd, {"original": VOLUME})],
    "MaskConfidenced": [(MaskConfidenced, {"pred": MASK, "probability": IMAGE[:1]})],
    "MaskToObjectsd": [(MaskToObjectsd, {"pred": MASK}), (MaskToObjectsd, {"pred": CLUSTERS - 1})],
    "N4BiasFieldCorrectiond": [
        (N4BiasFieldCorrectiond, {"image": VOLUME}),
        (lambda: N4BiasFieldCorrectiond(field_key="field"), {"image": IMAGE[:2], "field": FIELD}),
    ],
    "ProbabilitiesToMaskd": [
        (lambda: ProbabilitiesToMaskd("pred", objects=2), {"pred": IMAGE[:1]}),
        (lambda: ProbabilitiesToMaskd("pred", classes=[1, 5]), {"pred": IMAGE}),
    ],
    "QuantizeTo8Bitd": [(lambda: QuantizeTo8Bitd("image"), {"image": 1.5 * IMAGE - 0.2})],
    "RandColorJitter": [(lambda: on("image", RandColorJitter().set_random_state(0)), {"image": IMAGE})],
    "RandColorJitterd": [(lambda: RandColorJitterd("image").set_random_state(1), {"image": IMAGE})],
    "RandFixedKernelBlur": [(lambda: on("image", RandFixedKernelBlur().set_random_state(0)), {"image": VOLUME})],
    "RandFixedKernelBlurd": [(lambda: RandFixedKernelBlurd("image").set_random_state(0), {"image": IMAGE})],
    "RandQuarterTurnViewd": [
        (lambda: RandQuarterTurnViewd().set_random_state(0), {"image": IMAGE}),
        (lambda: RandQuarterTurnViewd().set_random_state(1), {"image": VOLUME}),
    ],
    "ScaleByPercentilesd": [
        (lambda: ScaleByPercentilesd("image", 5, 90, channel_wise=True), {"image": IMAGE}),
        (lambda: ScaleByPercentilesd("image", 5, 90), {"image": (100 * VOLUME).astype(np.int16)}),
    ],
    "ScoresToClustersd": [
        (lambda: ScoresToClustersd(guide_key="original"), {"scores": IMAGE, "image": IMAGE, "original": IMAGE}),
        (lambda: ScoresToClustersd(field_key="field"), {"scores": IMAGE, "image": IMAGE[:, :, 2:], "field": FIELD}),
    ],
    "ShadingCorrectiond": [
        (ShadingCorrectiond, {"image": VOLUME}),
        (lambda: ShadingCorrectiond(field_key="field", order=1), {"image": IMAGE, "field": FIELD}),
        (ShadingCorrectiond, {"image": (255 * IMAGE).astype(np.uint8)}),
    ],
    "ToChannelsd": [
        (lambda: ToChannelsd("image", 3), {"image": VOLUME}),
        (lambda: ToChannelsd("image", 1), {"image": IMAGE}),
        (lambda: ToChannelsd("image", 3), {"image": MASK}),
    ],
    "UnionMaskd": [(lambda: UnionMaskd("label"), {"label": np.concatenate([MASK, MASK[:, ::-1]])})],
    "WorkingSized": [(lambda: WorkingSized("image", IMAGE.shape[1:]), {"image": IMAGE})],
    "WorkingGridd": [
        (lambda: WorkingGridd("image", (6, 6, 6)), {"image": VOLUME}),
        (lambda: WorkingGridd("image", (6, 6), spacing=2), {"image": IMAGE}),
    ],
    "WindowCTd": [(lambda: WindowCTd("image", "liver"), {"image": (400 * VOLUME - 200).astype(np.int16)})],
}
EACH = pytest.mark.parametrize(
    ("make", "arrays"),
    [pytest.param(*case, id=f"{name}-{at}") for name, some in CASES.items() for at, case in enumerate(some)],
)
KINDS = {
    "MetaTensor": lambda array: MetaTensor(torch.from_numpy(array.copy())),
    "Tensor": lambda array: torch.from_numpy(array.copy()),
    "ndarray": np.copy,
    "strided": lambda array: np.flip(np.flip(array, 1).copy(), 1),
    "byte-swapped": lambda array: array.astype(array.dtype.newbyteorder(">")),
}
READERS = {"LoadMaskOnGridd", "LoadMedicalImaged"}  # take a path


def on(key, transform):
    """An array transform on one key of a sample."""
    return lambda sample: {**sample, key: transform(sample[key])}


def arrays_in(sample):
    return {key: array_of(value) for key, value in sample.items() if isinstance(value, torch.Tensor | np.ndarray)}


def test_every_public_transform_is_tried_here():
    public = {name: getattr(room, name) for room in (transforms, data) for name in room.__all__}
    found = {name for name, part in public.items() if inspect.isclass(part) and issubclass(part, Transform)}
    assert found - READERS == set(CASES)


@EACH
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "MetaTensor"])
def test_the_same_values_whatever_holds_them(make, arrays, kind):
    expected = arrays_in(make()({key: KINDS["MetaTensor"](array) for key, array in arrays.items()}))
    given = {key: KINDS[kind](array) for key, array in arrays.items()}
    made = make()(given)
    assert expected.keys() == arrays_in(made).keys()
    for key, array in arrays_in(made).items():
        np.testing.assert_array_equal(array, expected[key], err_msg=key)
    for key, array in arrays.items():
        np.testing.assert_array_equal(given[key], array, err_msg=f"{key} was changed in place")


@EACH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_the_values_that_the_same_numbers_have_in_float32(make, arrays, dtype):
    given = {key: torch.from_numpy(array.copy()) for key, array in arrays.items()}
    given = {key: value.to(dtype) if value.is_floating_point() else value for key, value in given.items()}
    made = arrays_in(make()(given))
    expected = arrays_in(make()({key: value.to(single(value)) for key, value in given.items()}))
    for key, array in made.items():
        atol = {torch.float16: 1e-3, torch.bfloat16: 8e-3, torch.float64: 1e-6}[dtype] if array.dtype.kind == "f" else 0
        np.testing.assert_allclose(array, expected[key], rtol=0, atol=atol, err_msg=key)


def single(value):
    return torch.float32 if value.is_floating_point() else value.dtype


@pytest.mark.parametrize(
    "transform",
    [
        ScaleByPercentilesd("image"),
        WindowCTd("image", "liver"),
        ToChannelsd("image", 3),
        QuantizeTo8Bitd("image"),
        WorkingGridd("image", (6, 6, 6)),
        WorkingSized("image", (6, 6, 6)),
    ],
    ids=lambda transform: type(transform).__name__,
)
def test_what_was_done_before_stays_on_record(transform):
    image = MetaTensor(torch.from_numpy(VOLUME.copy()), meta={"filename_or_obj": "a", "has_geometry": True})
    image.push_applied_operation({"class": "Earlier"})
    made = transform({"image": image})["image"]
    assert made.applied_operations[0] == {"class": "Earlier"}
    assert made.meta["filename_or_obj"] == "a"
