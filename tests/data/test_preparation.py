import re
import warnings

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged
from PIL import Image

from monai_fusenet.data import (
    CheckImaged,
    LoadMedicalImaged,
    ScaleByPercentilesd,
    ToChannelsd,
    UnionMaskd,
    WindowCTd,
    WorkingGridd,
)
from monai_fusenet.utils.errors import failure_reason

SHAPES = [(7, 5), (7, 5, 3)]


def image_of(channels, shape=(7, 5), has_alpha=False):
    values = torch.arange(float(channels * np.prod(shape))).reshape(channels, *shape)
    return MetaTensor(values, meta={"has_alpha": has_alpha, "filename_or_obj": "/data/scan 1.png"})


def to_channels(image, channels):
    return ToChannelsd("image", channels)({"image": image})["image"]


# ToChannelsd


@pytest.mark.parametrize("shape", SHAPES)
def test_grey_is_repeated(shape):
    image = image_of(1, shape)
    converted = to_channels(image, 3)
    assert converted.shape == (3, *shape)
    assert all(torch.equal(channel, image[0]) for channel in converted)
    assert converted.meta["filename_or_obj"] == "/data/scan 1.png"


@pytest.mark.parametrize("shape", SHAPES)
def test_rgb_becomes_luminance(shape):
    image = torch.zeros(3, *shape)
    for channel in range(3):
        image[channel, channel] = 1  # one row of each primary colour
    grey = to_channels(image, 1)
    assert grey.shape == (1, *shape)
    assert grey[0].flatten(1)[:4, -1].tolist() == pytest.approx([0.299, 0.587, 0.114, 0])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float16])
def test_luminance_of_whole_numbers(dtype):
    image = torch.tensor([200, 100, 50]).view(3, 1, 1).expand(3, 7, 5).to(dtype)
    assert to_channels(image, 1).unique().tolist() == [pytest.approx(0.299 * 200 + 0.587 * 100 + 0.114 * 50)]


@pytest.mark.parametrize(("channels", "wanted"), [(4, 3), (2, 1)])
def test_transparency_is_dropped(channels, wanted):
    image = image_of(channels, has_alpha=True)
    converted = to_channels(image, wanted)
    assert torch.equal(converted.as_tensor(), image.as_tensor()[:wanted])
    assert converted.meta["has_alpha"] is False
    assert image.meta["has_alpha"] is True


def test_transparency_is_dropped_before_the_conversion():
    assert to_channels(image_of(2, has_alpha=True), 3).shape == (3, 7, 5)
    assert to_channels(image_of(4, has_alpha=True), 1).shape == (1, 7, 5)


def test_fitting_images_stay_as_they_are():
    image = image_of(4, has_alpha=True)
    assert to_channels(image, 4) is image


@pytest.mark.parametrize(("found", "wanted"), [(4, 3), (2, 1), (5, 3), (3, 2)])
def test_four_sequences_are_not_taken_for_rgba(found, wanted):
    message = (
        f"scan 1.png: expected an image of {wanted} channels, or grey, got {found} channels; in_channels says how many"
    )
    with pytest.raises(ValueError, match=f"^{message}$"):
        to_channels(image_of(found), wanted)


# CheckImaged


def complaint(image, spatial_dims=2, min_size=4):
    with pytest.raises(ValueError) as caught:  # noqa: PT011, the caller looks at the message
        CheckImaged("image", spatial_dims, min_size)({"image": image})
    return str(caught.value)


@pytest.mark.parametrize("shape", SHAPES)
def test_sound_images_pass_unchanged(shape):
    image = image_of(2, shape)
    assert CheckImaged("image", len(shape), 3)({"image": image})["image"] is image


def test_a_volume_where_planes_are_expected():
    assert complaint(image_of(1, (7, 5, 3))) == (
        "scan 1.png: a volume of shape (7, 5, 3), but spatial_dims is 2: add the preset volume (configs/volume.yaml)"
    )


def test_a_plane_where_volumes_are_expected():
    assert complaint(image_of(1), spatial_dims=3) == (
        "scan 1.png: a 2-D image of shape (7, 5), but spatial_dims is 3: leave out the preset volume or slices "
        "(configs/volume.yaml, slices.yaml)"
    )


def test_small_images():
    assert complaint(image_of(1), min_size=6) == (
        "scan 1.png: every side must have at least 6 pixels, got the shape (7, 5)"
    )


def test_values_that_are_no_numbers():
    image = image_of(2)
    image[0, 0, 0], image[1, 2, 3], image[1, 4, 4] = float("nan"), float("inf"), -float("inf")
    assert complaint(image) == (
        "scan 1.png: 3 of 70 pixel values are NaN or infinite; "
        "--nan_value 0, or another number, replaces them; for a label server, write "
        "nan_value: 0 into a .yaml file and give it as --preset"
    )


@pytest.mark.parametrize("kind", [lambda image: image, lambda image: image.as_tensor(), np.asarray])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_number_takes_the_place_of_values_that_are_none(shape, kind):
    image = image_of(2, shape)
    expected = image.as_tensor().clone()
    for channel, value in ((0, torch.nan), (1, torch.inf), (1, -torch.inf)):
        image[(channel, *(side - 2 for side in shape))] = value
    for channel in (0, 1):
        expected[(channel, *(side - 2 for side in shape))] = -1.5
    check = CheckImaged("image", len(shape), 2, nan_value=-1.5)
    given = kind(image)
    filled = check({"image": given})["image"]
    assert torch.equal(torch.as_tensor(filled), expected)
    assert not np.isfinite(np.asarray(given)).all()  # the image that was given stays as it was
    if isinstance(given, MetaTensor):
        assert filled.meta["filename_or_obj"] == "/data/scan 1.png"


def test_an_image_without_such_values_is_not_copied():
    image = image_of(1)
    assert CheckImaged("image", 2, 2, nan_value=0)({"image": image})["image"] is image


def test_an_image_of_nothing_but_such_values():
    with pytest.raises(ValueError, match=r"^every pixel has the value 0$"):
        CheckImaged("image", 2, 2, nan_value=0)({"image": torch.full((1, 7, 5), torch.nan)})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "0", True, 1e39, -1e39])
def test_what_takes_their_place_is_a_finite_number(value):
    with pytest.raises(
        ValueError, match=r"^nan_value must be a finite number from -3.40282e\+38 to 3.40282e\+38, got "
    ):
        CheckImaged("image", 2, 2, nan_value=value)


def test_one_value_everywhere():
    assert complaint(torch.full((1, 7, 5), 7.0)) == "every pixel has the value 7"
    colour = torch.tensor([0.5, 2, 3]).reshape(3, 1, 1).expand(3, 7, 5)
    assert complaint(colour) == "every pixel has the value (0.5, 2, 3)"


def test_one_varying_channel_suffices():
    image = torch.zeros(3, 7, 5)
    image[1, 2, 2] = 1
    assert CheckImaged("image", 2, 4)({"image": image})["image"] is image


# UnionMaskd


@pytest.mark.parametrize("shape", SHAPES)
def test_foreground_is_any_label_in_any_channel(shape):
    label = torch.zeros(2, *shape)
    label[0, 0, 0], label[1, 6, 4], label[1, 1, 1] = 2, 255, -1
    mask = UnionMaskd("label")({"label": label})["label"]
    assert mask.shape == (1, *shape)
    assert mask.dtype == torch.uint8
    assert torch.equal(mask[0], ((label[0] > 0) | (label[1] > 0)).to(torch.uint8))


def test_an_opaque_mask_is_not_all_foreground(tmp_path):
    pixels = np.zeros((7, 5, 4), np.uint8)
    pixels[..., 3] = 255
    pixels[2, 3, :3] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    mask = Compose([LoadMedicalImaged("label"), UnionMaskd("label")])({"label": str(tmp_path / "a.png")})["label"]
    assert mask.nonzero().tolist() == [[0, 2, 3]]


def test_masks_keep_the_place_of_the_volume(tmp_path):
    affine = np.diag([1.5, 2, 3, 1])
    nib.save(nib.Nifti1Image(np.ones((7, 5, 3), np.int16), affine), tmp_path / "a.nii")
    mask = Compose([LoadMedicalImaged("label"), UnionMaskd("label")])({"label": str(tmp_path / "a.nii")})["label"]
    np.testing.assert_array_equal(mask.affine, affine)


def test_labels_may_be_absent_when_told():
    assert UnionMaskd("label", allow_missing_keys=True)({"image": 1}) == {"image": 1}


# failure_reason


def test_the_reason_lies_below_monais_wrappers():
    transform = Compose([Compose([LoadMedicalImaged("image")])])
    with pytest.raises(RuntimeError) as caught:
        transform({"image": "/nowhere/a.png"})
    assert failure_reason(caught.value) == "cannot read /nowhere/a.png: no such file or folder"


def test_an_error_without_words_is_named():
    assert failure_reason(MemoryError()) == "out of memory"


def test_a_constant_picture_with_varying_transparency_is_constant():
    image = image_of(4, has_alpha=True)
    image[:3] = 0.5
    image[3] = torch.rand(image.shape[1:])
    assert "every pixel has the value" in complaint(image)


# Intensities.


@pytest.mark.parametrize("shape", [(40, 25), (10, 20, 5)])
def test_intensities_are_scaled_between_percentiles(shape):
    values = torch.arange(1000.0).reshape(1, *shape)  # the percentiles 10 and 90 are 99.9 and 899.1
    scaled = ScaleByPercentilesd("image", lower=10, upper=90)({"image": values})["image"]
    torch.testing.assert_close(scaled, ((values - 99.9) / 799.2).clamp(0, 1), rtol=0, atol=1e-5)


def test_an_image_that_is_nearly_all_background_is_scaled_by_its_extremes():
    image = torch.full((1, 100, 100), 20.0)
    image[0, :5, :5] = 220
    scaled = ScaleByPercentilesd("image")({"image": image})["image"]
    assert scaled[0, 0, 0] == 1
    assert scaled[0, 50, 50] == 0


def test_percentiles_out_of_order():
    with pytest.raises(ValueError, match=r"^lower must be below upper, got 90 and 10$"):
        ScaleByPercentilesd("image", lower=90, upper=10)
    with pytest.raises(ValueError, match=r"^upper must be a finite number from 0 to 100, got 101$"):
        ScaleByPercentilesd("image", upper=101)


def test_three_sequences_are_not_taken_for_rgb():
    image = image_of(3)
    image.meta["has_geometry"] = True
    with pytest.raises(ValueError, match="expected an image of 1 channels, or grey, got 3 channels"):
        to_channels(image, 1)


# ScaleByPercentilesd, channel by channel


def test_sequences_are_scaled_each_by_itself():
    first = torch.arange(101.0).reshape(1, 101, 1)
    image = MetaTensor(torch.cat([first, 1000 - 2 * first]), meta={"has_geometry": True})
    scaled = ScaleByPercentilesd("image", 10, 90, channel_wise=True)({"image": image})["image"]
    expected = ((first[0] - 10) / 80).clip(0, 1)
    torch.testing.assert_close(scaled.as_tensor(), torch.stack([expected, 1 - expected]))
    assert scaled.meta["has_geometry"]
    together = ScaleByPercentilesd("image", 10, 90)({"image": image})["image"]
    assert together[0].max() < 0.1 < 0.9 < together[1].min() + 0.2


# WindowCTd


@pytest.mark.parametrize(("window", "black", "white"), [("lung", -1350, 150), ("brain", 0, 80), ([100, 50.0], 75, 125)])
def test_hounsfield_units_in_a_window(window, black, white):
    values = torch.tensor([[black - 100.0, black, (black + white) / 2, white, white + 5000.0]])
    scaled = WindowCTd("image", window)({"image": values})["image"]
    torch.testing.assert_close(scaled, torch.tensor([[0, 0, 0.5, 1, 1]]))


def test_pictures_hold_no_hounsfield_units():
    picture = MetaTensor(torch.zeros(1, 4, 5), meta={"has_geometry": False, "filename_or_obj": "/data/a.png"})
    message = r"^a\.png: a picture holds no Hounsfield units: leave out configs/ct\.yaml$"
    with pytest.raises(ValueError, match=message):
        WindowCTd("image", "lung")({"image": picture})


@pytest.mark.parametrize("window", ["lungs", [40], [40, 0], [40, -400], [0, float("nan")], ["40", "400"]])
def test_windows_that_are_none(window):
    with pytest.raises(ValueError, match=r"^window must be one of lung, .*, bone, or \[level, width\] in HU, got"):
        WindowCTd("image", window)


# WorkingGridd


def volume_of(shape, spacing, seed=0):
    values = torch.from_numpy(np.random.default_rng(seed).random((1, *shape)).astype(np.float32))
    return MetaTensor(values, affine=np.diag([*spacing, 1.0]), meta={"has_geometry": True})


@pytest.mark.parametrize(
    ("options", "grid"),
    [
        ({"spacing": 4}, [30, 15, 10]),  # 120 x 60 x 40 mm
        ({"spacing": [8, 5.0, 2]}, [15, 12, 20]),
        ({"spacing": 10, "keep_slices": True}, [12, 6, 8]),
        ({"size": [20, 18, 8]}, [26, 13, 9]),  # 2880 voxels: cubes of 100 mm3, 4.64 mm wide
        ({"size": [15, 12, 4], "keep_slices": True}, [19, 9, 4]),
        ({"size": [15, 12, 99], "keep_slices": True}, [19, 9, 8]),
        ({"size": [500, 500, 500]}, [43, 21, 14]),  # no more voxels than there are: 2.82 mm
        ({"spacing": 30, "min_side": 3}, [4, 3, 3]),
    ],
)
def test_the_grid_that_is_worked_on(options, grid):
    image = volume_of((40, 40, 8), (3.0, 1.5, 5.0))
    resampled = WorkingGridd("image", **{"size": [32, 32, 32], **options})({"image": image})["image"]
    assert list(resampled.shape) == [1, *grid]
    extent = np.multiply(image.shape[1:], (3.0, 1.5, 5.0))
    np.testing.assert_allclose(np.diag(resampled.affine)[:3] * grid, extent)  # the same block of space


def test_voxels_that_become_one_are_averaged_and_others_interpolated():
    image = volume_of((6, 4, 3), (1.0, 1.0, 4.0))
    resampled = WorkingGridd("image", (6, 6, 6), spacing=2)({"image": image})["image"]
    means = image.as_tensor()[0].reshape(3, 2, 2, 2, 3).mean(dim=(1, 3))
    assert resampled.shape == (1, 3, 2, 6)
    expected = torch.stack([means[..., 0], means[..., 0] * 0.75 + means[..., 1] * 0.25], dim=-1)
    torch.testing.assert_close(resampled.as_tensor()[0, ..., :2], expected)


def test_a_picture_has_pixels_of_one():
    picture = MetaTensor(torch.rand(3, 40, 90), meta={"has_geometry": False})
    assert WorkingGridd("image", (30, 30))({"image": picture})["image"].shape == (3, 20, 45)


@pytest.mark.parametrize("kind", [lambda values: values, np.asarray, MetaTensor])
@pytest.mark.parametrize("spacing", [None, 2])
@pytest.mark.parametrize("shape", [(13, 9), (13, 9, 6)])
def test_voxels_of_an_unknown_size(kind, spacing, shape):
    grid = WorkingGridd("image", [8] * len(shape), spacing)
    message = (
        "the image has no metadata, so that its voxels count as 1 mm wide: a PersistentDataset keeps them with "
        'track_meta=True; MetaTensor(image, meta={"has_geometry": False}) says that 1 mm is right'
    )
    values = torch.rand(1, *shape)
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        guessed = grid({"image": kind(values)})["image"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = grid({"image": MetaTensor(values, meta={"has_geometry": False})})["image"]
    assert list(made.shape[1:]) == grid.shape_of(shape, [1.0] * len(shape))
    assert torch.equal(torch.as_tensor(guessed), torch.as_tensor(made))


@pytest.mark.parametrize("load", [LoadMedicalImaged("image"), LoadImaged("image", ensure_channel_first=True)])
def test_the_size_of_voxels_whoever_loaded_them(load, tmp_path):
    for name, affine in (("a.nii", np.diag([1.5, 2, 3, 1])), ("b.nii", np.eye(4))):
        nib.save(nib.Nifti1Image(np.ones((16, 10, 12), np.float32), affine), tmp_path / name)
    grid = WorkingGridd("image", (8, 8, 8), 4)
    shapes = [grid(load({"image": str(tmp_path / name)}))["image"].shape for name in ("a.nii", "b.nii")]
    assert shapes == [(1, 6, 5, 9), (1, 4, 2, 3)]  # 24 x 20 x 36 mm; 16 x 10 x 12 mm, of which 2.5 becomes 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_working_grid_in_another_precision(dtype):
    image = volume_of((9, 12, 7), (1.0, 2.0, 3.0)).to(dtype)
    made, expected = (
        WorkingGridd("image", (6, 6, 6))({"image": one})["image"].as_tensor().float() for one in (image, image.float())
    )
    torch.testing.assert_close(made, expected, rtol=0, atol={torch.bfloat16: 8e-3}.get(dtype, 1e-3))


@pytest.mark.parametrize("spacing", [0, -1.0, float("nan"), "2.5", [1, 1, 0], True])
def test_spacings_that_are_none(spacing):
    with pytest.raises(ValueError, match=r"^working_spacing must be a finite number of at least 0\.001, got"):
        WorkingGridd("image", (8, 8, 8), spacing)


def test_voxels_larger_than_the_image():
    message = r"^working_spacing must be less than the 8 x 10 x 12 mm of the image, got 13$"
    with pytest.raises(ValueError, match=message):
        WorkingGridd("image", (8, 8, 8), 13, min_side=4).shape_of((8, 5, 4), (1.0, 2.0, 3.0))
    assert WorkingGridd("image", (8, 8, 8), 11, min_side=4).shape_of((8, 5, 4), (1.0, 2.0, 3.0)) == [4, 4, 4]


def test_grids_larger_than_memory(monkeypatch):
    monkeypatch.setattr("monai_fusenet.data.working_grid.available_memory", lambda: 4 * 4 * 160 * 160 * 12 - 1)
    image = volume_of((16, 16, 6), (1.0, 1.0, 1.0))
    message = (
        "a working grid of 160 x 160 x 12 takes 0.00114 GiB, more than a quarter of the 0.00458 GiB that are free: "
        "a larger working_spacing or a smaller working_size needs less"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        WorkingGridd("image", (8, 8, 8), [0.1, 0.1, 0.5])({"image": image})
    assert WorkingGridd("image", (8, 8, 8), [0.1, 0.11, 0.5])({"image": image})["image"].shape == (1, 160, 145, 12)


def test_a_spacing_for_each_axis():
    message = r"^working_spacing must be one number of mm, or one for each axis, got \[1, 2\]$"
    with pytest.raises(ValueError, match=message):
        WorkingGridd("image", (8, 8, 8), [1, 2])


@pytest.mark.parametrize("length", [0.0, float("nan"), float("inf")])
def test_voxels_without_a_size(length):
    with pytest.raises(ValueError, match=r"^the sides of a voxel must be finite and above 0 mm, got"):
        WorkingGridd("image", (8, 8, 8)).shape_of((10, 10, 10), (1.0, length, 1.0))
