"""The values of single DICOM files, against pydicom, and frames and slices in their places."""

import contextlib
import warnings

import numpy as np
import pydicom
import pytest
from dicom_tools import OBLIQUE, write_ct_series, write_dicom_file, write_enhanced_file
from pydicom.data import get_testdata_file
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    EnhancedMRImageStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    NuclearMedicineImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    UltrasoundMultiFrameImageStorage,
    XRayAngiographicImageStorage,
)

from monai_fusenet.data import load_image
from monai_fusenet.data.dicom_headers import read_header

# Slices, rows and columns differ.
VOLUME = np.random.default_rng(0).integers(0, 4096, (6, 7, 9)).astype(np.uint16)
NUMBERS = np.random.default_rng(0)
SHAPE = (7, 9)
# The first two axes of a viewer's coordinates have the other sign.
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def numbers(dtype, bits=None, shape=SHAPE):
    bits = bits or 8 * np.dtype(dtype).itemsize
    lowest = -(2 ** (bits - 1)) if np.dtype(dtype).kind == "i" else 0
    return NUMBERS.integers(lowest, lowest + 2**bits, shape).astype(dtype)


@pytest.mark.parametrize("sop_class", [ComputedRadiographyImageStorage, SecondaryCaptureImageStorage])
@pytest.mark.parametrize("own", [{}, {"RescaleSlope": 2, "RescaleIntercept": -100}, {"RescaleSlope": 0.5}])
@pytest.mark.parametrize(("dtype", "bits"), [("u1", 8), ("u2", 10), ("u2", 12), ("u2", 16), ("i2", 12), ("i2", 16)])
def test_monochrome1_is_shown_as_its_monochrome2_version(tmp_path, dtype, bits, own, sop_class):
    pixels = numbers(dtype, bits)
    lowest, highest = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if dtype == "i2" else (0, 2**bits - 1)
    kinds = {"MONOCHROME1": pixels, "MONOCHROME2": (lowest + highest - pixels.astype(int)).astype(dtype)}
    loaded = []
    for kind, values in kinds.items():
        own = {"RescaleIntercept": 0, **own} if own else own
        path = tmp_path / f"{kind}.dcm"
        write_dicom_file(path, values, sop_class, PhotometricInterpretation=kind, BitsStored=bits, **own)
        loaded.append(load_image(path).numpy())
    np.testing.assert_array_equal(*loaded)
    expected = kinds["MONOCHROME2"] * float(own.get("RescaleSlope", 1)) + float(own.get("RescaleIntercept", 0))
    np.testing.assert_array_equal(loaded[0][0], expected.T)


def table(entries, start, bits):
    """A sequence of one table of values, for stored values from `start` on."""
    item = pydicom.Dataset()
    item.LUTDescriptor, item.LUTData = [len(entries), start, bits], entries.astype("<u2").tobytes()
    item["LUTData"].VR = "OW"
    return [item]


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("dtype", "start"), [("u1", 0), ("u2", 0), ("u2", 100), ("i2", -2048)])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_a_table_tells_the_values(tmp_path, dtype, start, bits, kind):
    entries = NUMBERS.integers(0, 2**bits, 3000)  # fewer than there are stored values
    pixels = numbers(dtype, None if dtype == "u1" else 12)
    sequence = table(entries, start, bits)
    path = tmp_path / "a.dcm"
    write_dicom_file(
        path, pixels, PhotometricInterpretation=kind, BitsStored=8 * pixels.itemsize, ModalityLUTSequence=sequence
    )
    expected = entries[np.clip(pixels.astype(int) - start, 0, 2999)]
    expected = 2**bits - 1 - expected if kind == "MONOCHROME1" else expected
    np.testing.assert_array_equal(load_image(path).numpy()[0], expected.T)


@pytest.mark.parametrize("name", ["LUTDescriptor", "LUTData"])
def test_a_damaged_table_is_named(tmp_path, name):
    sequence = table(np.arange(256), 0, 16)
    delattr(sequence[0], name)
    write_dicom_file(tmp_path / "a.dcm", numbers("u1"), ModalityLUTSequence=sequence)
    assert reason(tmp_path / "a.dcm") == "its table of values (ModalityLUTSequence) is damaged: save it as NIfTI"


def test_each_slice_has_a_table_of_its_own(tmp_path):
    pixels = numbers("u1", shape=(3, *SHAPE))
    tables = NUMBERS.integers(0, 2**16, (3, 256))
    for place in range(3):
        sequence = table(tables[place], 0, 16)
        write_dicom_file(tmp_path / f"{place}.dcm", pixels[place], position=(0, 0, place), ModalityLUTSequence=sequence)
    expected = np.stack([entries[plane] for entries, plane in zip(tables, pixels, strict=True)])
    np.testing.assert_array_equal(load_image(tmp_path).numpy()[0], expected.T)


@pytest.mark.parametrize("dtype", ["u2", "i2"])
def test_an_overlay_in_the_high_bits_is_no_part_of_the_values(tmp_path, dtype):
    pixels = numbers(dtype, 12)
    with_overlay = ((pixels & 0x0FFF) | (NUMBERS.integers(0, 2, SHAPE).astype(dtype) << 14)).astype(dtype)
    write_dicom_file(tmp_path / "a.dcm", with_overlay, BitsStored=12)
    np.testing.assert_array_equal(load_image(tmp_path / "a.dcm").numpy()[0], pixels.T)


@pytest.mark.parametrize(("dtype", "colour"), [("u1", False), ("u2", False), ("i2", False), ("u1", True), ("u2", True)])
def test_rle_of_odd_sizes(tmp_path, dtype, colour):
    pixels = numbers(dtype, shape=(*SHAPE, 3) if colour else SHAPE)
    dataset = write_dicom_file(tmp_path / "a.dcm", pixels)
    dataset.compress(RLELossless)
    dataset.save_as(tmp_path / "a.dcm")
    expected = pixels.transpose(2, 1, 0) if colour else pixels.T[None]
    np.testing.assert_array_equal(load_image(tmp_path / "a.dcm").numpy(), expected)


def test_colours_plane_by_plane(tmp_path):
    pixels = numbers("u1", shape=(*SHAPE, 3))
    dataset = write_dicom_file(tmp_path / "a.dcm", pixels, SecondaryCaptureImageStorage, PlanarConfiguration=1)
    dataset.PixelData = pixels.transpose(2, 0, 1).tobytes() + b"\0"
    dataset.save_as(tmp_path / "a.dcm")
    np.testing.assert_array_equal(load_image(tmp_path / "a.dcm").numpy(), pixels.transpose(2, 1, 0))


def test_luminance_and_colour_differences_become_red_green_and_blue(tmp_path):
    pixels = np.zeros((*SHAPE, 3), np.uint8)
    pixels[:] = (76, 85, 255)  # of pure red, by DICOM PS3.3, C.7.6.3.1.2
    write_dicom_file(tmp_path / "a.dcm", pixels, SecondaryCaptureImageStorage, PhotometricInterpretation="YBR_FULL")
    found = load_image(tmp_path / "a.dcm").numpy()
    np.testing.assert_allclose(found, np.broadcast_to(np.array([255, 0, 0])[:, None, None], found.shape), atol=2)


def test_a_palette_becomes_colours(tmp_path):
    pixels, palette = numbers("u1"), NUMBERS.integers(0, 256, (3, 256)).astype(np.uint16)
    own = {f"{name}PaletteColorLookupTableDescriptor": [256, 0, 16] for name in ("Red", "Green", "Blue")}
    for name, colours in zip(("Red", "Green", "Blue"), palette, strict=True):
        own[f"{name}PaletteColorLookupTableData"] = (colours * 257).tobytes()
    write_dicom_file(
        tmp_path / "a.dcm", pixels, SecondaryCaptureImageStorage, PhotometricInterpretation="PALETTE COLOR", **own
    )
    np.testing.assert_array_equal(load_image(tmp_path / "a.dcm").numpy(), palette[:, pixels.T])


# pydicom brings these files along.
@pytest.mark.parametrize(
    "name",
    [
        *("MR_small.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm", "MR_small_RLE.dcm", "image_dfl.dcm"),
        *("MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "JPEG2000.dcm", "SC_rgb_rle_16bit.dcm"),
        *("SC_rgb_small_odd_big_endian.dcm", "SC_rgb_jpeg_dcmtk.dcm", "SC_ybr_full_422_uncompressed.dcm"),
        *("examples_overlay.dcm", "examples_rgb_color.dcm", "SC_rgb_rle_2frame.dcm", "ExplVR_BigEnd.dcm"),
    ],
)
def test_values_are_those_of_pydicom(name):
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"this version of pydicom does not bring {name} along")
    try:
        expected = pydicom.dcmread(path).pixel_array
    except (RuntimeError, NotImplementedError):
        pytest.skip(f"pydicom needs a plugin for {name}")
    found = load_image(path).numpy()
    expected = expected if len(found) == 3 else expected[..., None]
    expected = expected if expected.ndim == 4 else expected[None]
    np.testing.assert_array_equal(found.reshape(expected.T.shape), expected.T)


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize(
    "sop_class",
    [
        ComputedRadiographyImageStorage,
        DigitalXRayImageStorageForPresentation,
        SecondaryCaptureImageStorage,
        UltrasoundMultiFrameImageStorage,
    ],
)
@pytest.mark.parametrize("name", ["PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"])
def test_a_picture_has_the_spacing_that_its_header_tells(tmp_path, name, sop_class, frames):
    pixels = numbers("u1", shape=(frames, *SHAPE) if frames > 1 else SHAPE)
    write_dicom_file(tmp_path / "a.dcm", pixels, sop_class, **{name: [0.3, 0.2]})
    affine = load_image(tmp_path / "a.dcm").affine
    np.testing.assert_allclose(affine[:2, :2], np.diag([-0.2, -0.3]), atol=1e-9)


@pytest.mark.parametrize("spacing", [None, [0, 0], [0.3]])
def test_a_picture_without_a_spacing_has_pixels_of_a_millimetre(tmp_path, spacing):
    write_dicom_file(tmp_path / "a.dcm", numbers("u1"), ComputedRadiographyImageStorage, PixelSpacing=spacing)
    np.testing.assert_array_equal(load_image(tmp_path / "a.dcm").affine[:2, :2], np.diag([-1, -1]))


# Frames in time

TIMES = {
    "FrameTime": 33.3,
    "FrameTimeVector": [0.0, 33.3, 33.4, 33.3],
    "CineRate": 30,
    "FrameIncrementPointer": [0x00181063],
}


@pytest.mark.parametrize("name", [*TIMES, None])
@pytest.mark.parametrize(
    ("sop_class", "modality"), [(UltrasoundMultiFrameImageStorage, "US"), (XRayAngiographicImageStorage, "XA")]
)
def test_frames_in_time_are_no_volume(tmp_path, sop_class, modality, name):
    own = {name: TIMES[name]} if name else {}
    write_dicom_file(tmp_path / "a.dcm", numbers("u1", shape=(4, *SHAPE)), sop_class, Modality=modality, **own)
    if name is None and modality == "US":  # a sweep, for all that its header tells
        assert load_image(tmp_path / "a.dcm").shape == (1, 9, 7, 4)
        return
    assert reason(tmp_path / "a.dcm") == (
        "its 4 frames follow one another in time, and are no slices of a volume: save each frame as a file of its own"
    )


@pytest.mark.parametrize("own", [{"FrameTime": 33.3}, {"CineRate": 30, "NumberOfFrames": 1}])
def test_one_frame_is_an_image_whatever_the_time(tmp_path, own):
    pixels = numbers("u1")
    write_dicom_file(tmp_path / "a.dcm", pixels, UltrasoundMultiFrameImageStorage, Modality="US", **own)
    np.testing.assert_array_equal(load_image(tmp_path / "a.dcm").numpy()[0], pixels.T)


@pytest.mark.parametrize(
    ("sop_class", "pointer"),
    [
        (MultiFrameGrayscaleByteSecondaryCaptureImageStorage, [0x00182001]),  # pages
        (NuclearMedicineImageStorage, [0x00540080]),  # slices
        (NuclearMedicineImageStorage, [0x00540010, 0x00540020]),  # windows of energy, and detectors
    ],
)
def test_frames_that_tell_no_time_stay_a_volume(tmp_path, sop_class, pointer):
    pixels = numbers("u1", shape=(4, *SHAPE))
    write_dicom_file(tmp_path / "a.dcm", pixels, sop_class, FrameIncrementPointer=pointer)
    np.testing.assert_array_equal(load_image(tmp_path / "a.dcm").numpy()[0], pixels.T)


# Enhanced files

FRAMES = np.arange(4)[:, None, None] * 1000 + NUMBERS.integers(0, 900, (4, *SHAPE))
FRAMES = FRAMES.astype(np.uint16)


def reason(path):
    with pytest.raises(ValueError, match=r"^cannot read ") as caught:
        load_image(path)
    return str(caught.value).removeprefix(f"cannot read {path}: ")


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]])
def test_frames_lie_where_their_headers_say(tmp_path, order):
    write_enhanced_file(tmp_path / "a.dcm", FRAMES[order], order)
    image = load_image(tmp_path / "a.dcm")
    np.testing.assert_array_equal(image.numpy()[0], FRAMES.T)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = np.array(OBLIQUE[:3]) * 0.5, np.array(OBLIQUE[3:]) * 0.7
    affine[:3, 2], affine[:3, 3] = 3 * np.cross(OBLIQUE[:3], OBLIQUE[3:]), (10, 20, 30)
    np.testing.assert_allclose(image.affine, LPS_TO_RAS @ affine, atol=1e-6)


def test_each_frame_is_rescaled_by_its_own_numbers(tmp_path):
    groups = [
        {
            "PixelValueTransformationSequence": {
                "RescaleSlope": slope,
                "RescaleIntercept": 7 - slope,
                "RescaleType": "US",
            }
        }
        for slope in (2, 0.5, 3, 1.25)
    ]
    order = [1, 0, 3, 2]
    write_enhanced_file(tmp_path / "a.dcm", FRAMES[order], order, groups)
    slopes = np.array([0.5, 2, 1.25, 3])[:, None, None]  # by place
    np.testing.assert_allclose(load_image(tmp_path / "a.dcm").numpy()[0], (FRAMES * slopes + 7 - slopes).T, rtol=1e-6)


def test_phases_in_one_file_are_told_by_what_differs(tmp_path):
    groups = [{"FrameContentSequence": {"TemporalPositionIndex": phase}} for phase in (1, 1, 2, 2)]
    write_enhanced_file(tmp_path / "a.dcm", FRAMES, [0, 1, 0, 1], groups)
    assert reason(tmp_path / "a.dcm") == (
        "its frame 1 and frame 3 lie at one place, and differ in TemporalPositionIndex (1, 2); its 4 slices lie at 2 "
        "places: remove copies, and give each phase or echo a folder of its own"
    )


def test_enhanced_files_of_one_frame_are_slices_of_a_series(tmp_path):
    folder = tmp_path / "mr"
    for place in range(4):
        write_enhanced_file(folder / f"{place}.dcm", FRAMES[place : place + 1], [place])
    whole = load_image(folder)
    np.testing.assert_array_equal(whole.numpy()[0], FRAMES.T)
    write_enhanced_file(tmp_path / "a.dcm", FRAMES, range(4))
    np.testing.assert_allclose(whole.affine, load_image(tmp_path / "a.dcm").affine)
    (folder / "1.dcm").unlink()
    assert reason(folder).startswith("its slices are not evenly spaced, ")


@pytest.mark.parametrize("sop_class", [EnhancedMRImageStorage, SegmentationStorage])
def test_a_frame_that_lost_its_place_is_named(tmp_path, sop_class):
    path = tmp_path / "a.dcm"
    header = write_enhanced_file(path, FRAMES.astype(np.uint8), range(4), sop_class=sop_class)
    del header.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence
    header.save_as(path)
    assert reason(path) == "damaged: its frame 3 has no place, unlike its other frames"


def test_an_enhanced_file_of_one_frame_that_lost_its_place_is_named(tmp_path):
    for place in range(3):
        write_enhanced_file(tmp_path / f"{place}.dcm", FRAMES[place : place + 1], [place])
    header = pydicom.dcmread(tmp_path / "1.dcm")
    del header.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence
    header.save_as(tmp_path / "1.dcm")
    assert reason(tmp_path).startswith("its file 1.dcm is a slice without ImagePositionPatient, ")


def test_missing_frames_are_counted(tmp_path):
    write_enhanced_file(tmp_path / "a.dcm", FRAMES, [0, 1, 2, 5])
    assert reason(tmp_path / "a.dcm") == (
        "its slices are not evenly spaced, 2 are missing: 9 mm lie between frame 3 and frame 4, 3 mm between most "
        "others: add what is missing, or give each part a folder of its own"
    )


# Series


def test_the_affine_of_a_series_is_that_of_simpleitk(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    paths = write_ct_series(tmp_path / "ct", VOLUME, orientation=OBLIQUE)
    image = load_image(tmp_path / "ct")
    other = sitk.ReadImage([str(path) for path in paths])
    np.testing.assert_array_equal(image.numpy()[0], sitk.GetArrayFromImage(other).T)
    for index in ((0, 0, 0), (8, 0, 0), (0, 6, 0), (0, 0, 5)):
        ours = (image.affine.numpy() @ [*index, 1])[:3]
        np.testing.assert_allclose(ours, other.TransformIndexToPhysicalPoint(index) * np.array([-1, -1, 1]), atol=1e-4)


def test_each_slice_of_a_series_is_rescaled_by_its_own_numbers(tmp_path):
    slopes, intercepts = [0.5, 1.0, 2.25, 3.0, 0.125, 7.0], [0, -3, 5, 0.5, 1, -9]
    for place, (slope, intercept) in enumerate(zip(slopes, intercepts, strict=True)):
        own = {"RescaleSlope": slope, "RescaleIntercept": intercept}
        write_dicom_file(tmp_path / f"pet/{place}.dcm", VOLUME[place], position=(0, 0, place), **own)
    expected = VOLUME * np.array(slopes)[:, None, None] + np.array(intercepts)[:, None, None]
    np.testing.assert_allclose(load_image(tmp_path / "pet").numpy()[0], expected.T, rtol=1e-6)


def test_a_series_of_colour_slices(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (4, 7, 9, 3)).astype(np.uint8)
    for index, pixels in enumerate(colours):
        write_dicom_file(tmp_path / f"{index}.dcm", pixels, position=(0, 0, -2 * index))
    image = load_image(tmp_path)
    np.testing.assert_array_equal(image.numpy(), colours[::-1].transpose(3, 2, 1, 0))
    np.testing.assert_allclose(image.affine[:3, 2:], [[0, 0], [0, 0], [2, -6]])


# Damage


@pytest.mark.parametrize("name", ["MR_small.dcm", "image_dfl.dcm", "SC_rgb_jpeg_dcmtk.dcm", "MR_small_implicit.dcm"])
def test_headers_of_any_bytes_are_read_or_refused(tmp_path, name):
    rng = np.random.default_rng(0)
    with open(get_testdata_file(name, download=False), "rb") as file:
        content = file.read()
    path = tmp_path / "a.dcm"
    for _ in range(150):
        broken = bytearray(content[: rng.integers(132, 3000)] if rng.random() < 0.3 else content)
        for place in rng.integers(132, min(len(broken), 2500), 4):
            broken[place] = rng.integers(256)
        path.write_bytes(broken)
        with warnings.catch_warnings(), contextlib.suppress(ValueError):
            warnings.simplefilter("error")
            assert read_header(str(path)).frames > 0
