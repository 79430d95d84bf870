import colorsys
import math
import re

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_fusenet.transforms import (
    RandColorJitter,
    RandColorJitterd,
    RandFixedKernelBlur,
    RandFixedKernelBlurd,
    adjust_brightness,
    blur,
    shift_hue,
)


def draw(*shape, dtype=np.float64):
    return np.random.default_rng(0).random(shape).astype(dtype)


# Brightness and hue.


def test_brightness_multiplies_and_clamps():
    image = np.array([[[0.0, 0.5, 0.8, 1.0]]])
    np.testing.assert_allclose(adjust_brightness(image, 1.4), [[[0, 0.7, 1, 1]]])
    np.testing.assert_allclose(adjust_brightness(image, 0.5), [[[0, 0.25, 0.4, 0.5]]])


def test_a_third_of_the_circle_turns_red_into_green():
    red = np.array([1.0, 0.0, 0.0]).reshape(3, 1, 1)
    np.testing.assert_allclose(shift_hue(red, 1 / 3).ravel(), [0, 1, 0], atol=1e-9)
    np.testing.assert_allclose(shift_hue(red, -1 / 3).ravel(), [0, 0, 1], atol=1e-9)


@pytest.mark.parametrize("shift", [-0.5, -0.06, 0.0, 0.06, 0.4])
def test_hue_equals_the_standard_library_pixel_by_pixel(shift):
    image = draw(3, 4, 5)
    shifted = shift_hue(image, shift)
    for row in range(4):
        for column in range(5):
            hue, saturation, value = colorsys.rgb_to_hsv(*image[:, row, column])
            expected = colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value)
            np.testing.assert_allclose(shifted[:, row, column], expected, atol=1e-9)


def test_swapped_colours_turn_the_other_way():
    # Why the published -0.06 on B, G, R is +0.06 here.
    image = draw(3, 4, 5)
    np.testing.assert_allclose(shift_hue(image[::-1], -0.06)[::-1], shift_hue(image, 0.06), atol=1e-9)


def test_grey_has_no_hue():
    grey = np.repeat(draw(1, 4, 5), 3, axis=0)
    np.testing.assert_allclose(shift_hue(grey, 0.3), grey, atol=1e-9)


def test_the_order_is_drawn():
    image = draw(3, 4, 5)
    orders = {
        "brightness first": shift_hue(adjust_brightness(image, 1.4), 0.06),
        "hue first": adjust_brightness(shift_hue(image, 0.06), 1.4),
    }
    assert np.abs(orders["brightness first"] - orders["hue first"]).max() > 0.01  # the clamp makes it matter
    drawn = []
    for seed in range(20):
        jittered = RandColorJitter().set_random_state(seed=seed)(image)
        drawn += [name for name, expected in orders.items() if np.allclose(jittered, expected, atol=1e-9)]
    assert len(drawn) == 20
    assert 3 < drawn.count("hue first") < 17


def test_factor_and_shift_are_drawn_from_their_ranges():
    jitter = RandColorJitter(brightness=(0.8, 1.2), hue=(-0.1, 0.1)).set_random_state(seed=0)
    factors, shifts = set(), set()
    for _ in range(50):
        jitter.randomize()
        factors.add(jitter._factor)
        shifts.add(jitter._shift)
    assert len(factors) == len(shifts) == 50
    assert 0.8 < min(factors) < 0.85 < 1.15 < max(factors) < 1.2
    assert -0.1 < min(shifts) < -0.05 < 0.05 < max(shifts) < 0.1


@pytest.mark.parametrize("shape", [(1, 4, 5), (2, 4, 5), (4, 4, 5), (3, 4, 5, 3), (1, 4, 5, 3)])
def test_all_but_2d_rgb_keep_their_colours(shape):
    image = draw(*shape)
    jittered = RandColorJitter(hue=0.3).set_random_state(seed=0)(image)
    np.testing.assert_allclose(jittered, adjust_brightness(image, 1.4))


def test_values_stay_between_0_and_1():
    jittered = RandColorJitter(brightness=(0, 3), hue=(-0.5, 0.5)).set_random_state(seed=0)(draw(3, 20, 30))
    assert 0 <= jittered.min() <= jittered.max() <= 1


@pytest.mark.parametrize("name", ["brightness", "hue"])
def test_a_range_the_wrong_way_round(name):
    with pytest.raises(ValueError, match=rf"^{name} must be a number or a pair \(low, high\), got \(0\.3, 0\.1\)$"):
        RandColorJitter(**{name: (0.3, 0.1)})


# Blur.


def slow_blur(image, kernel_size, sigma):
    """One output after the other: an explicit normalised kernel over an explicitly reflected image."""
    offsets = [range(-(size // 2), size // 2 + 1) for size in kernel_size]
    kernels = [[math.exp(-(offset**2) / (2 * sigma**2)) for offset in along] for along in offsets]
    kernels = [[weight / sum(kernel) for weight in kernel] for kernel in kernels]

    def reflect(position, side):
        period = 2 * (side - 1) or 1
        position %= period
        return min(position, period - position) if side > 1 else 0

    blurred = np.zeros_like(image)
    for here in np.ndindex(*image.shape[1:]):
        for there in np.ndindex(*kernel_size):
            weight = math.prod(kernel[index] for kernel, index in zip(kernels, there, strict=True))
            source = [
                reflect(position + along[index], side)
                for position, along, index, side in zip(here, offsets, there, image.shape[1:], strict=True)
            ]
            blurred[(slice(None), *here)] += weight * image[(slice(None), *source)]
    return blurred


@pytest.mark.parametrize(
    ("shape", "kernel_size"),
    [((3, 11, 8), (9, 5)), ((1, 6, 7), (1, 3)), ((1, 1, 7), (9, 5)), ((2, 5, 4, 3), (3, 5, 3)), ((1, 3, 2), (9, 5))],
)
@pytest.mark.parametrize("sigma", [0.1, 2.0, 50.0])
def test_blur_equals_its_explicit_kernel(shape, kernel_size, sigma):
    image = draw(*shape)
    np.testing.assert_allclose(blur(image, kernel_size, sigma), slow_blur(image, kernel_size, sigma), atol=1e-9)


def test_a_wide_sigma_is_a_mean_over_the_kernel():
    image = draw(1, 13, 9)
    centre = blur(image, (9, 5), sigma=1e4)[0, 6, 4]
    assert centre == pytest.approx(image[0, 2:11, 2:7].mean(), rel=1e-6)


def test_a_dot_spreads_9_high_and_5_wide():
    image = np.zeros((1, 21, 17))
    image[0, 10, 8] = 1
    blurred = RandFixedKernelBlur(sigma=4.0)(image)
    rows, columns = np.nonzero(blurred[0])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (6, 14, 6, 10)
    assert blurred.sum() == pytest.approx(1)


def test_a_constant_image_stays():
    np.testing.assert_allclose(blur(np.full((3, 6, 7), 0.3), (9, 5), 2.0), 0.3)


def test_the_last_kernel_size_serves_further_axes():
    image = draw(1, 6, 5, 7)
    blurred = RandFixedKernelBlur(kernel_size=(5, 3), sigma=1.5)(image)
    np.testing.assert_allclose(blurred, blur(image, (5, 3, 3), 1.5))


def test_sigma_is_drawn_from_its_range():
    transform = RandFixedKernelBlur().set_random_state(seed=0)
    sigmas = set()
    for _ in range(100):
        transform.randomize()
        sigmas.add(transform._sigma)
    assert len(sigmas) == 100
    assert 0.1 < min(sigmas) < 0.5 < 4.5 < max(sigmas) < 5


def test_an_even_kernel():
    with pytest.raises(ValueError, match=r"^kernel_size must be odd along each axis, got \(9, 4\)$"):
        RandFixedKernelBlur(kernel_size=[9, 4])


def test_sigmas_the_wrong_way_round():
    with pytest.raises(ValueError, match=r"^sigma must be a number or a pair \(low, high\), got \(5, 1\)$"):
        RandFixedKernelBlur(sigma=(5, 1))


# What both are as MONAI transforms.

BOTH = pytest.mark.parametrize("transform", [RandColorJitter(), RandFixedKernelBlur()], ids=["jitter", "blur"])


@BOTH
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["numpy", "tensor", "MetaTensor"])
def test_type_and_dtype_stay(transform, dtype, kind):
    array = draw(3, 11, 8, dtype=dtype)
    image = {
        "numpy": lambda: array.copy(),
        "tensor": lambda: torch.from_numpy(array.copy()),
        "MetaTensor": lambda: MetaTensor(array.copy(), meta={"filename_or_obj": "a.png"}),
    }[kind]()
    changed = transform.set_random_state(seed=0)(image)
    assert type(changed) is type(image)
    assert changed.dtype == image.dtype
    assert changed.shape == image.shape
    assert not np.allclose(np.asarray(changed), array)
    np.testing.assert_array_equal(np.asarray(image), array)
    if kind == "MetaTensor":
        assert changed.meta["filename_or_obj"] == "a.png"


@BOTH
def test_randomize_false_repeats_the_draw(transform):
    image = draw(3, 11, 8)
    transform.set_random_state(seed=0)
    first = transform(image)
    np.testing.assert_array_equal(transform(image, randomize=False), first)


@pytest.mark.parametrize("dictionary", [RandColorJitterd, RandFixedKernelBlurd])
def test_dictionary_versions_draw_for_each_key_and_repeat_under_a_seed(dictionary):
    options = {"hue": (-0.4, 0.4)} if dictionary is RandColorJitterd else {}
    image = draw(3, 11, 8)
    transform = dictionary(["a", "b"], **options)
    first = transform.set_random_state(seed=0)({"a": image, "b": image, "c": image})
    assert not np.allclose(first["a"], first["b"])
    np.testing.assert_array_equal(first["c"], image)
    second = transform.set_random_state(seed=0)({"a": image, "b": image})
    np.testing.assert_array_equal(first["a"], second["a"])
    np.testing.assert_array_equal(first["b"], second["b"])


def test_dictionary_versions_name_a_missing_key():
    with pytest.raises(KeyError, match="augmented"):
        RandColorJitterd("augmented")({"image": draw(3, 4, 5)})
    assert RandFixedKernelBlurd("augmented", allow_missing_keys=True)({"image": 1}) == {"image": 1}


@pytest.mark.parametrize("kind", [torch.from_numpy, np.copy])
@pytest.mark.parametrize("transform", [RandColorJitter(), RandFixedKernelBlur()])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, bool])
def test_whole_numbers_are_refused(kind, transform, dtype):
    image = kind(np.full((3, 4, 5), 1, dtype))
    message = f"image must be float in [0, 1], got {np.dtype(dtype)}: ScaleByPercentilesd or From8Bitd scales it"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        transform(image)
