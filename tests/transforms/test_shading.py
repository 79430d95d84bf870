"""Uneven light is found as a smooth surface, divided out, and brought back."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd
from scipy import ndimage

from monai_fusenet.transforms import N4BiasFieldCorrectiond, ShadingCorrectiond, find_bias, find_shading
from monai_fusenet.utils.arrays import resize_linear

SHAPES = {2: (97, 131), 3: (21, 33, 26)}
SHADES = {  # logarithms of light, of coordinates from -1 to 1
    "even": lambda *at: 0 * at[0],
    "linear": lambda *at: 0.5 * at[0] - 0.3 * at[-1],
    "quadratic": lambda *at: 0.4 * at[0] - 0.3 * at[0] ** 2 - 0.2 * at[-1] ** 2 + 0.2 * at[0] * at[-1],
}
HUES = {1: [1.0], 3: [1.0, 0.8, 0.65], 5: [1.0, 0.2, 0.5, 0.7, 0.9]}


def coordinates(shape):
    return np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij")


def ball(shape, centre=0.3, radius=0.5):
    return np.sqrt(sum((axis - centre) ** 2 for axis in coordinates(shape))) < radius


def even_image(shape, channels=3, contrast=0.4, noise=0.02):
    """A dark ball on an even ground."""
    random = np.random.default_rng(0)
    grey = np.where(ball(shape), contrast, 1) * 0.5
    grey = grey * (1 + random.normal(0, noise, shape))
    return np.stack([hue * grey for hue in HUES[channels]])


def lit(image, shade):
    return (image * np.exp(SHADES[shade](*coordinates(image.shape[1:])))).astype(np.float32)


def uneven(image, even):
    """How the logarithm of what an image is more than the even one differs from place to place."""
    return np.log(image / even).std()


@pytest.mark.parametrize("channels", HUES)
@pytest.mark.parametrize("dims", SHAPES)
@pytest.mark.parametrize("shade", SHADES)
def test_a_drawn_shade_is_removed_and_the_object_stays(shade, dims, channels):
    even = even_image(SHAPES[dims], channels)
    image = lit(even, shade)
    corrected = ShadingCorrectiond()({"image": image})["image"].numpy()
    assert uneven(corrected, even) < 0.01
    assert corrected.mean() == pytest.approx(image.mean(), rel=1e-4)
    inside = ball(SHAPES[dims])
    contrast = corrected[0][inside].mean() / corrected[0][~inside].mean()
    assert contrast == pytest.approx(0.4, rel=0.02)


def test_light_is_a_part_of_the_image_that_was_uneven_before():
    even = even_image(SHAPES[2])
    assert uneven(lit(even, "linear"), even) > 0.25


@pytest.mark.parametrize("contrast", [0.2, 0.4, 1.8], ids=["dark", "less dark", "bright"])
def test_an_object_on_a_quarter_of_the_image_draws_no_light(contrast):
    shape = (80, 90)
    even = np.where(ball(shape, centre=0.1, radius=0.57), contrast, 1)[None] * 0.4
    assert 0.24 < (even != 0.4).mean() < 0.27
    corrected = ShadingCorrectiond()({"image": lit(even, "quadratic")})["image"].numpy()
    assert uneven(corrected, even) < 0.01


def test_hairs_draw_no_light():
    even = np.full((1, 100, 120), 0.6)
    even[:, 10::17] = even[:, :, 5::23] = 0.05
    corrected = ShadingCorrectiond()({"image": lit(even, "quadratic")})["image"].numpy()
    assert uneven(corrected, even) < 0.01


def test_hues_stay():
    image = np.random.default_rng(1).random((3, 40, 31), dtype=np.float32) + 0.1
    corrected = ShadingCorrectiond()({"image": image})["image"].numpy()
    np.testing.assert_allclose(corrected / corrected[:1], image / image[:1], rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.37, 255.0])
def test_an_image_of_one_value_stays_what_it_is(value):
    image = np.full((3, 17, 12), value, np.float32)
    np.testing.assert_allclose(ShadingCorrectiond()({"image": image})["image"], image, rtol=1e-5)


def test_a_black_ground_tells_nothing_of_the_light():
    random = np.random.default_rng(0)
    image = random.uniform(0, 2e-3, (1, 64, 50)).astype(np.float32)
    image[:, ball((64, 50), radius=0.4)] = 0.8
    corrected = ShadingCorrectiond()({"image": image})["image"].numpy()
    np.testing.assert_allclose(corrected, image, rtol=1e-3)


@pytest.mark.parametrize("scale", [1e-6, 255, 60000])
def test_values_of_any_range(scale):
    image = lit(even_image((40, 50)), "linear")
    expected = scale * ShadingCorrectiond()({"image": image})["image"]
    np.testing.assert_allclose(ShadingCorrectiond()({"image": image * np.float32(scale)})["image"], expected, rtol=1e-3)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
def test_whole_numbers_become_floats(dtype):
    image = (255 * lit(even_image((40, 50)), "linear")).astype(dtype)
    made = ShadingCorrectiond()({"image": image})["image"]
    assert made.dtype == torch.float32
    np.testing.assert_array_equal(made, ShadingCorrectiond()({"image": image.astype(np.float32)})["image"])


@pytest.mark.parametrize("shape", [(3, 41, 27), (1, 300, 210), (2, 9, 14, 11)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_inverse_brings_the_image_back(shape, dtype):
    image = MetaTensor(torch.rand(shape, dtype=dtype, generator=torch.Generator().manual_seed(0)))
    steps = Compose([ShadingCorrectiond(order=3), ShadingCorrectiond(order=1)])
    sample = steps({"image": image})
    assert not torch.allclose(sample["image"], image, rtol=1e-3)
    undone = Invertd(keys="image", transform=steps, orig_keys="image", nearest_interp=False)(sample)["image"]
    torch.testing.assert_close(undone.as_tensor(), image.as_tensor(), rtol=1e-6, atol=0)
    assert undone.applied_operations == []


def test_light_is_measured_in_the_field_alone():
    even = even_image((60, 75))
    image = lit(even, "linear")
    field = ndimage.binary_erosion(np.ones((60, 75), bool), iterations=9)
    image[:, ~field] = np.where(np.indices((60, 75)).sum(0)[~field] % 2, 0, 5)
    corrected = ShadingCorrectiond(field_key="field")({"image": image, "field": field[None]})["image"].numpy()
    assert uneven(corrected[:, field], even[:, field]) < 0.01
    assert corrected[:, field].mean() == pytest.approx(image[:, field].mean(), rel=1e-4)
    alone = ShadingCorrectiond(field_key="field")({"image": image})["image"].numpy()
    np.testing.assert_array_equal(alone, ShadingCorrectiond()({"image": image})["image"])


def test_light_outside_the_field_stays_within_that_of_the_field():
    field = np.zeros((50, 64), bool)
    field[20:30, 40:52] = True
    light = find_shading(lit(even_image((50, 64)), "quadratic"), field, order=4)[0]
    assert light[field].min() == light.min()
    assert light[field].max() == light.max()


def test_values_outside_the_field_may_be_nan():
    image = lit(even_image((30, 41)), "linear")
    field = np.ones((1, 30, 41), bool)
    field[:, :5] = False
    image[:, :5] = np.nan
    corrected = ShadingCorrectiond(field_key="field")({"image": image, "field": field})["image"].numpy()
    np.testing.assert_array_equal(np.isnan(corrected), np.isnan(image))


def test_a_large_image_has_the_light_of_the_same_image_in_small():
    large = lit(np.full((1, 700, 900), 0.5), "quadratic")
    light = find_shading(large)
    assert light[0].size < 2**14 * 1.05
    even = large / resize_linear(light, (700, 900))
    assert np.log(even[0, 5:-5, 5:-5]).std() < 1e-3
    assert np.log(even).std() < 3e-3


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 7), (1, 2, 2), (1, 1, 5, 1)], ids=str)
def test_images_of_a_few_pixels(shape):
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    corrected = ShadingCorrectiond(order=4)({"image": image})["image"].numpy()
    assert np.isfinite(corrected).all()
    assert corrected.mean() == pytest.approx(image.mean(), rel=0.01)


TRANSFORMS = pytest.mark.parametrize("transform", [ShadingCorrectiond, N4BiasFieldCorrectiond])


@TRANSFORMS
@pytest.mark.parametrize(
    ("image", "field", "message"),
    [
        (np.ones((3, 8, 9)), np.zeros((1, 8, 9)), "expected a field with at least one pixel, got an empty one"),
        (np.ones((3, 8, 9)), np.eye(9)[None], r"same shape, got \(8, 9\) and \(9, 9\)"),
        (np.full((3, 8, 9), np.nan), np.eye(8, 9)[None], "must be finite and below 1e\\+30 in its field, got nan;"),
        (
            np.full((1, 8, 9), np.inf),
            np.eye(8, 9)[None],
            "got inf; CheckImaged with a nan_value replaces NaN and infinite values",
        ),
        (np.full((1, 8, 9), 1e37), np.eye(8, 9)[None], r"below 1e\+30 in its field, got 1e\+37"),
        (np.full((1, 8, 9), -np.inf), np.eye(8, 9)[None], "no value below 0, got -inf"),
        (np.full((1, 8, 9), -3), np.eye(8, 9)[None], "no value below 0, got -3; apply ScaleByPercentilesd first"),
        (np.ones((0, 8, 9)), np.eye(8, 9)[None], r"shape \(C, \*spatial\) in 2-D or 3-D, got \(0, 8, 9\)"),
        (np.ones((8, 9)), np.eye(9)[None, 0], r"shape \(C, \*spatial\) in 2-D or 3-D, got \(8, 9\)"),
    ],
)
def test_what_has_no_light_is_refused(transform, image, field, message):
    with pytest.raises(ValueError, match=message):
        transform(field_key="field")({"image": image, "field": field})


@pytest.mark.parametrize("order", [0, 5, True, 1.5, "2", None])
def test_an_order_that_is_none_is_refused(order):
    with pytest.raises(ValueError, match=f"order must be 1, 2, 3 or 4, got {order}"):
        ShadingCorrectiond(order=order)


def head(shape, shade="quadratic"):
    """Two tissues in air that is not quite 0, and the logarithm of the bias upon them."""
    random = np.random.default_rng(0)
    inside = ball(shape, centre=0, radius=0.85)
    tissue = np.where(ball(shape, centre=0.1, radius=0.45), 1.5, 1.0) * inside
    bias = SHADES[shade](*coordinates(shape))
    return (tissue * np.exp(bias) + np.abs(random.normal(0, 0.01, shape))).astype(np.float32)[None], inside, bias


@pytest.mark.parametrize("shape", [(46, 57), (22, 35, 28)], ids=str)
@pytest.mark.parametrize("shade", ["linear", "quadratic"])
def test_n4_removes_nine_tenths_of_a_drawn_bias(shade, shape):
    image, inside, bias = head(shape, shade)
    corrected = N4BiasFieldCorrectiond()({"image": 500 * image})["image"][0].numpy()
    left = np.log(corrected / (500 * image[0]))[inside] + bias[inside]
    assert left.std() < bias[inside].std() / 10
    assert corrected.mean() == pytest.approx(500 * image.mean(), rel=1e-3)


def test_n4_corrects_each_sequence_by_itself():
    first, _, _ = head((41, 33), "linear")
    second, _, _ = head((41, 33), "quadratic")
    both = find_bias(np.concatenate([first, 7 * second]))
    np.testing.assert_array_equal(both[:1], find_bias(first))
    np.testing.assert_allclose(both[1:], find_bias(7 * second))
    assert not np.allclose(both[0], both[1], rtol=0.05)


def test_n4_is_undone_exactly():
    image = MetaTensor(torch.from_numpy(head((15, 22, 18))[0]))
    steps = Compose([N4BiasFieldCorrectiond()])
    sample = steps({"image": image})
    undone = Invertd(keys="image", transform=steps, orig_keys="image", nearest_interp=False)(sample)["image"]
    torch.testing.assert_close(undone.as_tensor(), image.as_tensor(), rtol=1e-6, atol=0)


def test_n4_works_on_cubes_of_millimetres():
    bias = find_bias(head((40, 32, 8))[0], spacing=(1, 1.5, 6))
    assert bias.shape == (1, 28, 32, 8)  # 1.41 mm; voxels that are larger stay


def test_n4_of_a_body_has_finer_splines_than_n4_of_a_head():
    image = head((40, 36))[0]
    small, large, wrong = (find_bias(image, spacing=(side, side)) for side in (5, 16, 5000))
    assert not np.allclose(small, large, rtol=0.01)
    np.testing.assert_array_equal(large, wrong)


@pytest.mark.parametrize("spacing", [(1, 0), (1, -2), (1, np.nan), (1, 1, 1), 2.0], ids=str)
def test_a_voxel_size_that_is_none_is_refused(spacing):
    with pytest.raises(ValueError, match="spacing must be a number of mm above 0 for each of 2 axes, got"):
        find_bias(head((12, 9))[0], spacing=spacing)


def test_n4_takes_the_voxel_size_of_a_loaded_image():
    affine = torch.diag(torch.tensor([1, 1.5, 6, 1], dtype=torch.float64))
    array = head((40, 32, 8))[0]
    image = MetaTensor(torch.from_numpy(array), affine=affine, meta={"has_geometry": True})
    corrected = N4BiasFieldCorrectiond()({"image": image})["image"].numpy()
    light = resize_linear(find_bias(array, spacing=(1, 1.5, 6)), array.shape[1:])
    np.testing.assert_array_equal(corrected, array / light)


def test_n4_looks_for_tissue_in_the_field():
    image, inside, bias = head((44, 51), "linear")
    field = np.ones(inside.shape, bool)
    field[:, :6] = False
    image[0, :, :6] = 40  # a burnt-in bar
    light = resize_linear(find_bias(image, field), inside.shape)[0]
    seen = inside & field
    assert (np.log(light) - bias)[seen].std() < bias[seen].std() / 10


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 30), (1, 1, 20, 17), (2, 3, 2, 5)], ids=str)
def test_n4_of_images_of_a_few_pixels(shape):
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    corrected = N4BiasFieldCorrectiond()({"image": image})["image"].numpy()
    assert np.isfinite(corrected).all()


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_n4_leaves_an_image_of_one_value(value):
    image = np.full((1, 12, 9, 7), value, np.float32)
    np.testing.assert_allclose(N4BiasFieldCorrectiond()({"image": image})["image"], image, rtol=1e-6)
