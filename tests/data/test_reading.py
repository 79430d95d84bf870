import re

import itk
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, decollate_batch
from monai.transforms import Compose, Resized
from PIL import Image

from monai_fusenet.data import LoadMedicalImaged, load_image, spacing_of

HEIGHT, WIDTH, DEPTH = 7, 5, 3


def numbers(*shape, dtype=np.uint8, top=251):
    """Different values at different positions, so that swapped axes show."""
    return (np.arange(np.prod(shape)) * 37 % top).reshape(shape).astype(dtype)


# Pictures


@pytest.mark.parametrize("name", ["a.png", "B.PNG", "a.bmp", "a.tif", "mit Leerzeichen größe 日本.TIFF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_row_major(tmp_path, name, channels):
    pixels = numbers(HEIGHT, WIDTH, channels)
    Image.fromarray(pixels.squeeze()).save(tmp_path / name)
    image = load_image(tmp_path / name)
    assert image.dtype == torch.float32
    assert image.shape == (channels, HEIGHT, WIDTH)
    np.testing.assert_array_equal(image.numpy(), pixels.transpose(2, 0, 1))


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG"])
def test_jpeg_is_row_major(tmp_path, name):
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:8, 8:, 0] = 200  # whole blocks survive the compression
    Image.fromarray(pixels).save(tmp_path / name, quality=100, subsampling=0)
    np.testing.assert_allclose(load_image(tmp_path / name).numpy(), pixels.transpose(2, 0, 1), atol=3)


def test_exif_orientation_is_applied(tmp_path):
    pixels = numbers(HEIGHT, WIDTH)
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees clockwise to view"
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(load_image(tmp_path / "a.png").numpy()[0], np.rot90(pixels, -1))


def test_palette_becomes_rgb(tmp_path):
    picture = Image.fromarray(np.array([[0, 1, 2]], np.uint8), mode="P")
    picture.putpalette([9, 8, 7, 60, 50, 40, 1, 2, 3])
    picture.save(tmp_path / "a.png")
    image = load_image(tmp_path / "a.png")
    assert image[:, 0].T.tolist() == [[9, 8, 7], [60, 50, 40], [1, 2, 3]]
    assert image.meta["has_alpha"] is False


def test_palette_with_transparency_becomes_rgba(tmp_path):
    picture = Image.fromarray(np.array([[0, 1]], np.uint8), mode="P")
    picture.putpalette([9, 8, 7, 60, 50, 40])
    picture.save(tmp_path / "a.png", transparency=1)
    image = load_image(tmp_path / "a.png")
    assert image[:, 0].T.tolist() == [[9, 8, 7, 255], [60, 50, 40, 0]]
    assert image.meta["has_alpha"] is True


@pytest.mark.parametrize(("mode", "channels"), [("LA", 2), ("RGBA", 4)])
def test_transparency_is_kept_and_named(tmp_path, mode, channels):
    pixels = numbers(HEIGHT, WIDTH, channels)
    Image.fromarray(pixels, mode=mode).save(tmp_path / "a.png")
    image = load_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image.numpy(), pixels.transpose(2, 0, 1))
    assert image.meta["has_alpha"] is True


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif"])
def test_one_bit_becomes_0_and_255(tmp_path, name):
    bits = numbers(HEIGHT, WIDTH) % 2 == 1
    Image.fromarray(bits).save(tmp_path / name)
    np.testing.assert_array_equal(load_image(tmp_path / name).numpy()[0], bits * 255)


def test_cmyk_becomes_rgb(tmp_path):
    ink = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    ink[..., 0] = 255  # cyan takes away red
    Image.fromarray(ink, mode="CMYK").save(tmp_path / "a.tif")
    assert load_image(tmp_path / "a.tif")[:, 0, 0].tolist() == [0, 255, 255]


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_sixteen_bit_grey_is_kept(tmp_path, name, byte_order):
    pixels = numbers(HEIGHT, WIDTH, dtype=np.uint16) * 260
    Image.fromarray(pixels.astype(f"{byte_order}u2")).save(tmp_path / name)
    np.testing.assert_array_equal(load_image(tmp_path / name).numpy()[0], pixels)


@pytest.mark.parametrize(("name", "channels"), [("a.png", 3), ("a.png", 4), ("a.PNG", 2), ("a.tif", 3)])
def test_sixteen_bit_colours_are_kept(tmp_path, name, channels):
    pixels = numbers(HEIGHT, WIDTH, channels, dtype=np.uint16) * 260
    itk.imwrite(itk.image_from_array(pixels, is_vector=True), str(tmp_path / name.lower()))
    (tmp_path / name.lower()).rename(tmp_path / name)
    image = load_image(tmp_path / name)
    np.testing.assert_array_equal(image.numpy(), pixels.transpose(2, 0, 1))
    assert image.meta["has_alpha"] is (channels != 3)


def test_float_tiff(tmp_path):
    pixels = numbers(HEIGHT, WIDTH, dtype=np.float32) / 7 - 3
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(load_image(tmp_path / "a.tif").numpy()[0], pixels)


def test_pictures_have_no_geometry(tmp_path):
    Image.fromarray(numbers(HEIGHT, WIDTH)).save(tmp_path / "a.png", dpi=(300, 300))
    image = load_image(tmp_path / "a.png")
    assert image.meta["has_geometry"] is False
    assert spacing_of(image) is None
    assert image.meta["spatial_shape"].tolist() == image.meta["grid_shape"].tolist() == [HEIGHT, WIDTH]


@pytest.mark.parametrize("mode", ["L", "RGB", "I;16", "1", "P", "F"])
def test_tiff_of_several_pages_is_a_volume(tmp_path, mode):
    pixels = numbers(DEPTH, HEIGHT, WIDTH, 3)
    if mode == "I;16":
        pages = [Image.fromarray(page[..., 0].astype(np.uint16) * 260) for page in pixels]
    else:
        pages = [Image.fromarray(page).convert(mode) for page in pixels]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    image = load_image(tmp_path / "a.tif")
    shown = np.stack([np.asarray(page.convert({"1": "L", "P": "RGB"}.get(mode, mode))) for page in pages])
    expected = shown.reshape(DEPTH, HEIGHT, WIDTH, -1).transpose(3, 2, 1, 0)
    np.testing.assert_array_equal(image.numpy(), expected)
    assert image.meta["has_geometry"] is True
    assert spacing_of(image) == (1, 1, 1)


# Volumes and other images with a geometry

AFFINE = np.array([[0.1, -1.9, 0.0, 11.25], [0.7, 0.3, 0.0, -7.5], [0.0, 0.0, 3.0, 1 / 3], [0, 0, 0, 1]])


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "B.NII.GZ", "Größe 2.nii"])
def test_nifti(tmp_path, name):
    voxels = numbers(WIDTH, HEIGHT, DEPTH, dtype=np.int16)
    nib.save(nib.Nifti1Image(voxels, AFFINE), tmp_path / name.lower())
    (tmp_path / name.lower()).rename(tmp_path / name)
    image = load_image(tmp_path / name)
    np.testing.assert_array_equal(image.numpy()[0], voxels)
    assert image.dtype == torch.float32
    assert image.meta["has_geometry"] is True
    stored = nib.load(tmp_path / name).affine
    np.testing.assert_array_equal(image.affine.numpy(), stored)
    np.testing.assert_array_equal(image.meta["original_affine"], stored)
    assert spacing_of(image) == pytest.approx((np.hypot(0.1, 0.7), np.hypot(1.9, 0.3), 3.0))


def test_nifti_suffix_in_mixed_case(tmp_path):
    (tmp_path / "a.Nii").write_text("not looked at")
    assert refusal(tmp_path / "a.Nii") == (
        f"cannot read {tmp_path / 'a.Nii'}: nibabel needs the suffix in lower or in upper case: rename the file"
    )


def test_nifti_channels_come_first(tmp_path):
    voxels = numbers(WIDTH, HEIGHT, DEPTH, 2, dtype=np.float32)
    nib.save(nib.Nifti1Image(voxels, AFFINE), tmp_path / "a.nii.gz")
    image = load_image(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(image.numpy(), voxels.transpose(3, 0, 1, 2))
    assert image.meta["spatial_shape"].tolist() == [WIDTH, HEIGHT, DEPTH]


def test_nifti_vectors_are_channels(tmp_path):
    voxels = numbers(WIDTH, HEIGHT, DEPTH, 1, 2, dtype=np.float32)
    nib.save(nib.Nifti1Image(voxels, AFFINE), tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(load_image(tmp_path / "a.nii.gz").numpy(), voxels[..., 0, :].transpose(3, 0, 1, 2))


def test_nifti_colours(tmp_path):
    voxels = np.zeros((WIDTH, HEIGHT, DEPTH), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    voxels["G"] = numbers(WIDTH, HEIGHT, DEPTH)
    nib.save(nib.Nifti1Image(voxels, AFFINE), tmp_path / "a.nii.gz")
    image = load_image(tmp_path / "a.nii.gz")
    assert image.shape == (3, WIDTH, HEIGHT, DEPTH)
    np.testing.assert_array_equal(image.numpy()[1], voxels["G"])


def test_nifti_scaling_and_byte_order(tmp_path):
    voxels = numbers(WIDTH, HEIGHT, DEPTH).astype(">i2")
    stored = nib.Nifti1Image(voxels, AFFINE, nib.Nifti1Header(endianness=">"))
    stored.header.set_slope_inter(0.5, 3)
    nib.save(stored, tmp_path / "a.nii")
    np.testing.assert_array_equal(load_image(tmp_path / "a.nii").numpy()[0], 0.5 * voxels + 3)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_volume_of_one_slice_is_a_plane_that_remembers_its_place(tmp_path, axis):
    plane = numbers(WIDTH, HEIGHT, dtype=np.int16)
    voxels = np.expand_dims(plane, axis)
    nib.save(nib.Nifti1Image(voxels, AFFINE), tmp_path / "a.nii.gz")
    stored = nib.load(tmp_path / "a.nii.gz")

    image = load_image(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(image.numpy()[0], plane)
    assert image.meta["spatial_shape"].tolist() == [WIDTH, HEIGHT]

    np.testing.assert_array_equal(image.reshape(*image.meta["grid_shape"]).numpy(), voxels)
    np.testing.assert_array_equal(image.meta["original_affine"], stored.affine)

    index = np.insert([4.0, 6.0], axis, 0)  # pixel (4, 6) lies in the scanner where its voxel lies
    np.testing.assert_allclose(image.affine.numpy() @ [4, 6, 0, 1], stored.affine @ [*index, 1])
    assert spacing_of(image) == pytest.approx(np.delete(stored.header.get_zooms(), axis))


def test_only_the_last_axis_of_length_1_is_dropped(tmp_path):
    nib.save(nib.Nifti1Image(numbers(1, WIDTH, 1, dtype=np.int16), AFFINE), tmp_path / "a.nii")
    assert load_image(tmp_path / "a.nii").shape == (1, 1, WIDTH)


def test_flat_nifti(tmp_path):
    plane = numbers(WIDTH, HEIGHT, dtype=np.int16)
    nib.save(nib.Nifti1Image(plane, AFFINE), tmp_path / "a.nii")
    image = load_image(tmp_path / "a.nii")
    np.testing.assert_array_equal(image.numpy()[0], plane)
    assert image.meta["grid_shape"].tolist() == [WIDTH, HEIGHT]


@pytest.mark.parametrize("name", ["a.nrrd", "a.nhdr", "a.mha", "a.mhd", "A.MHA", "A.NRRD", "größe 2.mha"])
@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64])
def test_nrrd_and_meta_image(tmp_path, name, dtype):
    voxels = numbers(WIDTH, HEIGHT, DEPTH, dtype=dtype)
    written = itk.image_from_array(voxels.transpose(2, 1, 0).copy())
    written.SetSpacing((0.5, 0.75, 2))
    written.SetOrigin((10, 20, 30))
    itk.imwrite(written, str(tmp_path / name.lower()))
    (tmp_path / name.lower()).rename(tmp_path / name)
    image = load_image(tmp_path / name)
    np.testing.assert_array_equal(image.numpy()[0], voxels)
    assert image.meta["has_geometry"] is True
    assert spacing_of(image) == (0.5, 0.75, 2)
    np.testing.assert_array_equal(image.affine @ torch.tensor([0.0, 0, 0, 1]).double(), [-10, -20, 30, 1])


def test_integers_that_itk_for_python_lacks(tmp_path):
    voxels = numbers(DEPTH, HEIGHT, WIDTH, dtype=np.int8, top=120)
    header = f"ObjectType = Image\nNDims = 3\nDimSize = {WIDTH} {HEIGHT} {DEPTH}\nElementType = MET_CHAR\n"
    (tmp_path / "a.mha").write_bytes(header.encode() + b"ElementDataFile = LOCAL\n" + voxels.tobytes())
    np.testing.assert_array_equal(load_image(tmp_path / "a.mha").numpy()[0], voxels.transpose(2, 1, 0))


def test_flat_nrrd_has_an_affine_of_three_axes(tmp_path):
    written = itk.image_from_array(numbers(HEIGHT, WIDTH))
    written.SetSpacing((2, 3))
    written.SetOrigin((5, 7))
    itk.imwrite(written, str(tmp_path / "a.nrrd"))
    image = load_image(tmp_path / "a.nrrd")
    np.testing.assert_array_equal(image.numpy()[0], numbers(HEIGHT, WIDTH).T)
    assert image.affine.tolist() == [[-2, 0, 0, -5], [0, -3, 0, -7], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert spacing_of(image) == (2, 3)


@pytest.mark.parametrize("channels", [2, 3, 6])
def test_vectors_are_channels(tmp_path, channels):
    voxels = numbers(DEPTH, HEIGHT, WIDTH, channels, dtype=np.float32)
    itk.imwrite(itk.image_from_array(voxels, is_vector=True), str(tmp_path / "a.nrrd"))
    np.testing.assert_array_equal(load_image(tmp_path / "a.nrrd").numpy(), voxels.transpose(3, 2, 1, 0))


def test_dicom_series_is_one_volume_in_the_order_of_its_slices(tmp_path, write_dicom_series):
    voxels = numbers(4, HEIGHT, WIDTH, dtype=np.int16) * 3 - 100
    write_dicom_series(tmp_path / "série 1", voxels)
    image = load_image(tmp_path / "série 1")
    np.testing.assert_array_equal(image.numpy()[0], voxels.transpose(2, 1, 0))
    assert image.meta["has_geometry"] is True
    assert spacing_of(image) == pytest.approx((0.5, 0.7, 2.0))
    assert image.affine[:3, 3].tolist() == pytest.approx([-10, -20, 30])


@pytest.mark.parametrize("name", ["a.dcm", "A.DCM", "a.dicom", "x ü.IMA"])
def test_dicom_file_is_a_plane(tmp_path, name, write_dicom_series):
    plane = numbers(HEIGHT, WIDTH, dtype=np.int16) * 3 - 100
    write_dicom_series(tmp_path, plane[None])
    (tmp_path / "slice01.dcm").rename(tmp_path / name)
    image = load_image(tmp_path / name)
    np.testing.assert_array_equal(image.numpy()[0], plane.T)
    assert image.meta["grid_shape"].tolist() == [WIDTH, HEIGHT, 1]
    assert spacing_of(image) == pytest.approx((0.5, 0.7))
    assert image.meta["original_affine"][:3, 3].tolist() == pytest.approx([-10, -20, 30])


def test_colour_dicom(tmp_path):
    pixels = numbers(HEIGHT, WIDTH, 3)
    itk.imwrite(itk.image_from_array(pixels, ttype=itk.Image[itk.RGBPixel[itk.UC], 2]), str(tmp_path / "a.dcm"))
    np.testing.assert_array_equal(load_image(tmp_path / "a.dcm").numpy(), pixels.transpose(2, 1, 0))


def test_spacing_follows_a_resampling(tmp_path):
    nib.save(nib.Nifti1Image(numbers(6, 8, 4, dtype=np.int16), np.diag([1, 2, 3, 1])), tmp_path / "a.nii")
    sample = Compose([LoadMedicalImaged("image"), Resized("image", (3, 4, 4))])({"image": str(tmp_path / "a.nii")})
    assert spacing_of(sample["image"]) == pytest.approx((2, 4, 3))


def test_a_plain_tensor_has_no_spacing():
    assert spacing_of(torch.zeros(1, 5, 7)) is None


# The dictionary transform


def test_a_list_is_stacked_as_channels_without_transparency(tmp_path):
    left, right = numbers(HEIGHT, WIDTH), numbers(HEIGHT, WIDTH, 2)
    Image.fromarray(left).save(tmp_path / "left.png")
    Image.fromarray(right, mode="LA").save(tmp_path / "right.png")
    sample = LoadMedicalImaged("label")({"label": [str(tmp_path / "left.png"), str(tmp_path / "right.png")]})
    np.testing.assert_array_equal(sample["label"].numpy(), np.stack([left, right[..., 0]]))
    assert sample["label"].meta["has_alpha"] is False


def test_missing_keys_are_allowed_when_told(tmp_path):
    Image.fromarray(numbers(HEIGHT, WIDTH)).save(tmp_path / "a.png")
    sample = {"image": str(tmp_path / "a.png"), "name": "a"}
    loaded = LoadMedicalImaged(["image", "label"], allow_missing_keys=True)(sample)
    assert set(loaded) == {"image", "name"}
    assert isinstance(sample["image"], str)
    with pytest.raises(KeyError):
        LoadMedicalImaged(["image", "label"])(sample)


def test_metadata_survives_a_batch(tmp_path):
    nib.save(nib.Nifti1Image(numbers(WIDTH, 1, HEIGHT, dtype=np.int16), AFFINE), tmp_path / "a.nii")
    image = load_image(tmp_path / "a.nii")
    batch = next(iter(DataLoader([{"image": image}] * 2, batch_size=2)))
    returned = decollate_batch(batch)[1]["image"]
    assert tuple(returned.meta["grid_shape"]) == (WIDTH, 1, HEIGHT)
    assert returned.meta["has_geometry"]
    np.testing.assert_array_equal(returned.meta["original_affine"], image.meta["original_affine"])
    assert spacing_of(returned) == pytest.approx(spacing_of(image))


# What cannot be read


def refusal(path):
    with pytest.raises(ValueError) as caught:  # noqa: PT011, the caller looks at the message
        load_image(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_missing_file(tmp_path):
    assert refusal(tmp_path / "a.png") == f"cannot read {tmp_path / 'a.png'}: no such file or folder"


@pytest.mark.parametrize("name", ["a.png", "a.nii", "a.nii.gz", "a.dcm", "a.nrrd"])
def test_empty_file(tmp_path, name):
    (tmp_path / name).touch()
    assert refusal(tmp_path / name) == f"cannot read {tmp_path / name}: the file is empty (0 bytes)"


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.tif", "a.dcm", "a.nrrd", "a.nhdr"])
def test_no_image(tmp_path, name):
    (tmp_path / name).write_text("a shopping list")
    assert refusal(tmp_path / name) == f"cannot read {tmp_path / name}: not an image, or damaged"


@pytest.mark.parametrize("name", ["a.mha", "a.mhd", "a.nii", "a.nii.gz"])
def test_no_volume(tmp_path, name):
    (tmp_path / name).write_text("a shopping list")
    assert refusal(tmp_path / name).startswith(f"cannot read {tmp_path / name}: ")


def test_unknown_suffix(tmp_path):
    (tmp_path / "a.gif").write_text("GIF89a")
    message = refusal(tmp_path / "a.gif")
    assert message.startswith(f"cannot read {tmp_path / 'a.gif'}: unknown suffix '.gif', expected one of .png .jpg")


@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.tif"])
def test_truncated_pictures_are_not_loaded_in_part(tmp_path, name, part):
    noise = np.random.default_rng(0).integers(0, 256, (53, 41, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * part)])
    assert refusal(tmp_path / name).startswith(f"cannot read {tmp_path / name}: ")


def test_truncated_picture_says_so(tmp_path):
    Image.fromarray(numbers(53, 41)).save(tmp_path / "a.bmp")
    (tmp_path / "a.bmp").write_bytes((tmp_path / "a.bmp").read_bytes()[:-1000])
    assert refusal(tmp_path / "a.bmp").startswith(f"cannot read {tmp_path / 'a.bmp'}: image file is truncated")


@pytest.mark.parametrize("part", [0.6, 0.85])
def test_missing_pages_are_not_left_out(tmp_path, part):
    pages = [Image.fromarray(numbers(HEIGHT, WIDTH)) for _ in range(4)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    content = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(content[: int(len(content) * part)])
    assert refusal(tmp_path / "a.tif").startswith(f"cannot read {tmp_path / 'a.tif'}: ")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha", "a.dcm"])
@pytest.mark.parametrize("part", [0.5, 0.97])
def test_truncated_volumes_are_not_loaded_in_part(tmp_path, name, part, write_dicom_series):
    voxels = np.random.default_rng(0).integers(0, 999, (1, 53, 41)).astype(np.int16)
    if name == "a.dcm":
        write_dicom_series(tmp_path, voxels)
        (tmp_path / "slice01.dcm").rename(tmp_path / name)
    else:
        itk.imwrite(itk.image_from_array(voxels), str(tmp_path / name))
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * part)])
    assert refusal(tmp_path / name).startswith(f"cannot read {tmp_path / name}: ")


def test_pages_of_different_sizes(tmp_path):
    pages = [Image.fromarray(numbers(HEIGHT, WIDTH)), Image.fromarray(numbers(HEIGHT, WIDTH + 1))]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert refusal(tmp_path / "a.tif") == (
        f"cannot read {tmp_path / 'a.tif'}: its 2 pages must have one size and one colour mode, "
        "got [(7, 5, 1), (7, 6, 1)]"
    )


def test_unusual_colours(tmp_path):
    Image.fromarray(numbers(HEIGHT, WIDTH, 3), mode="LAB").save(tmp_path / "a.tif")
    assert refusal(tmp_path / "a.tif") == (
        f"cannot read {tmp_path / 'a.tif'}: the colour mode LAB is not read, expected grey, RGB, CMYK or a palette"
    )


def test_complex_values(tmp_path):
    nib.save(nib.Nifti1Image(np.ones((3, 4, 5), np.complex64), AFFINE), tmp_path / "a.nii")
    assert (
        refusal(tmp_path / "a.nii") == f"cannot read {tmp_path / 'a.nii'}: its values are complex, expected real ones"
    )


def test_too_many_axes(tmp_path):
    nib.save(nib.Nifti1Image(np.ones((5, 4, 3, 2, 2), np.float32), AFFINE), tmp_path / "a.nii")
    assert refusal(tmp_path / "a.nii") == (
        f"cannot read {tmp_path / 'a.nii'}: expected up to 3 spatial axes and one of channels, "
        "got an array of shape (5, 4, 3, 2, 2)"
    )


def test_folder_without_and_with_too_many_series(tmp_path, write_dicom_series):
    empty, mixed = tmp_path / "empty", tmp_path / "mixed"
    empty.mkdir()
    write_dicom_series(mixed, numbers(2, HEIGHT, WIDTH, dtype=np.int16))
    (mixed / "slice01.dcm").rename(mixed / "a.dcm")
    write_dicom_series(mixed, numbers(1, HEIGHT, WIDTH, dtype=np.int16), uid="1.2.9")
    for folder, count in ((empty, 0), (mixed, 2)):
        assert refusal(folder) == (
            f"cannot read {folder}: a folder must hold one DICOM series, got {count}: give each a folder of its own"
        )


def test_stacked_images_must_have_one_shape(tmp_path):
    left, right = tmp_path / "left.png", tmp_path / "right.png"
    Image.fromarray(numbers(HEIGHT, WIDTH)).save(left)
    Image.fromarray(numbers(WIDTH, HEIGHT)).save(right)
    assert refusal([left, right]) == (
        f"images to stack must have one shape, got (7, 5) for {left} and (5, 7) for {right}"
    )


def test_no_path_at_all():
    assert refusal([]) == "expected the path of an image, got an empty list"


def test_files_to_stack_must_lie_on_one_grid(tmp_path):
    for index, shift in enumerate((0.0, 0.004, 0.5)):
        affine = np.diag([1.0, 2.0, 3.0, 1.0])
        affine[0, 3] = shift
        nib.save(nib.Nifti1Image(np.zeros((4, 5, 3), np.float32) + index, affine), tmp_path / f"{index}.nii")
    paths = [tmp_path / f"{index}.nii" for index in range(3)]
    assert load_image(paths[:2])[:, 0, 0, 0].tolist() == [0, 1]
    message = f"images to stack must lie on one grid, but the affines of {paths[0]} and {paths[2]} differ: "
    with pytest.raises(ValueError, match=f"^{re.escape(message)}resample one to the other$"):
        load_image([paths[0], paths[2]])


def test_a_series_that_lacks_a_slice_has_no_grid(tmp_path, write_dicom_series):
    write_dicom_series(tmp_path / "series", np.zeros((8, 6, 5), np.int16))
    assert load_image(tmp_path / "series").shape == (1, 5, 6, 8)
    sorted((tmp_path / "series").iterdir())[3].unlink()
    message = (
        r"series: its slices are not evenly spaced, 1 is missing: 4 mm lie between slice05.dcm and slice03.dcm, 2 mm "
        r"between most others: add what is missing, or give each part a folder of its own$"
    )
    with pytest.raises(ValueError, match=message):
        load_image(tmp_path / "series")


def test_a_tilted_gantry_shears_the_affine(tmp_path, write_dicom_series):
    write_dicom_series(tmp_path / "tilted", np.zeros((6, 5, 4), np.int16), tilt=1.2)
    image = load_image(tmp_path / "tilted")
    expected = [[-0.5, 0, 0, -10], [0, -0.7, 1.2, -20], [0, 0, 2, 30], [0, 0, 0, 1]]
    np.testing.assert_allclose(image.affine, expected, atol=1e-6)
    np.testing.assert_allclose(image.meta["original_affine"], expected, atol=1e-6)
