"""Masks of DICOM images as DICOM, read back by highdicom, pydicom and our own loader."""

import re

import highdicom
import numpy as np
import pydicom
import pytest
import torch
from dicom_tools import AXIAL, OBLIQUE, read_headers, write_ct_series, write_dicom_file
from monai.data import MetaTensor
from pydicom.data import get_testdata_file
from pydicom.uid import (
    BasicTextSRStorage,
    EnhancedCTImageStorage,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
)

from monai_fusenet import __version__
from monai_fusenet.data import load_image
from monai_fusenet.results.dicom import (
    UnfitSourceError,
    check_dicom_output,
    dicom_mask_path,
    is_dicom,
    remove_dicom_masks,
    write_dicom_mask,
)

# Rows, columns and slices differ, and every voxel of the mask is drawn.
VOLUME = np.random.default_rng(3).integers(0, 4096, (5, 7, 9))
BRIGHT = VOLUME > 1500
# What a viewer shows changes the sign of the first two axes.
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def mask_of(path, least=1500):
    """(1, *spatial) of 0 and 1, from the values in the file."""
    image = load_image(path)
    values = image.as_tensor() if least is None else image.as_tensor() > least * 2 - 1024  # as the file rescales
    return MetaTensor(values.to(torch.uint8), meta=image.meta)


def refusal(source, folder, kind, mask=None):
    with pytest.raises(UnfitSourceError, match=r"^(its source|the slices of its source) ") as caught:
        write_dicom_mask(mask_of(source) if mask is None else mask, source, folder, "a_mask", kind)
    assert [path.name for path in folder.glob("*a_mask*")] == []
    return str(caught.value)


SERIES = {
    "oblique": {},
    "oblique, reversed": {"reverse": True},
    "axial": {"orientation": AXIAL, "gap": 0.8},
    "sagittal, reversed": {"orientation": (0, 1, 0, 0, 0, -1), "reverse": True},
}


@pytest.fixture(params=SERIES.values(), ids=SERIES)
def series(request, tmp_path):
    """A folder of slices, their paths in the order of `VOLUME`, and where results go."""
    paths = write_ct_series(tmp_path / "ct", VOLUME, **request.param)
    (tmp_path / "out").mkdir()
    return tmp_path / "ct", paths, tmp_path / "out"


# DICOM-SEG


def test_a_segmentation_refers_each_frame_to_its_slice(series):
    folder, paths, out = series
    path = write_dicom_mask(mask_of(folder), folder, out, "a_mask", "seg")
    assert path == out / "a_mask.dcm"
    seg = highdicom.seg.segread(path)
    uids = [str(pydicom.dcmread(one).SOPInstanceUID) for one in paths]
    pixels = seg.get_pixels_by_source_instance(uids, segment_numbers=[1])
    np.testing.assert_array_equal(pixels[..., 0], BRIGHT)


def test_a_segmentation_lies_where_its_source_lies(series):
    folder, _, out = series
    mask = mask_of(folder)
    seg = highdicom.seg.segread(write_dicom_mask(mask, folder, out, "a_mask", "seg"))
    volume = seg.get_volume(combine_segments=True)  # has its own order of axes
    ours = LPS_TO_RAS @ mask.affine.numpy()
    for voxel in np.argwhere(volume.array >= 0):
        index = np.linalg.solve(ours, volume.affine @ [*voxel, 1])[:3]
        np.testing.assert_allclose(index, index.round(), atol=1e-6)
        assert mask[0][tuple(index.round().astype(int))] == volume.array[tuple(voxel)]


def test_what_a_segmentation_says(tmp_path):
    write_ct_series(tmp_path / "ct", VOLUME)
    seg = pydicom.dcmread(write_dicom_mask(mask_of(tmp_path / "ct"), tmp_path / "ct", tmp_path, "a_mask", "seg"))
    source = read_headers(tmp_path / "ct")[0]
    for name in ("PatientName", "PatientID", "StudyInstanceUID", "StudyDate", "FrameOfReferenceUID"):
        assert seg[name].value == source[name].value
    assert seg.SeriesInstanceUID != source.SeriesInstanceUID
    assert (seg.Modality, seg.SegmentationType, seg.SeriesDescription) == ("SEG", "BINARY", "label-free foreground")
    assert (seg.Manufacturer, seg.ManufacturerModelName) == ("monai_fusenet", "monai_fusenet")
    assert seg.SoftwareVersions == __version__
    (segment,) = seg.SegmentSequence
    assert segment.SegmentLabel == "label-free foreground"
    assert (segment.SegmentAlgorithmType, segment.SegmentAlgorithmName) == ("AUTOMATIC", "monai_fusenet")
    assert segment.SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion == __version__
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    # The slices are 2.5 mm apart, whatever SpacingBetweenSlices of the source (7.5) says.
    assert (measures.PixelSpacing, measures.SpacingBetweenSlices, measures.SliceThickness) == ([0.7, 0.5], 2.5, 1.25)


@pytest.mark.parametrize("value", [0, 1])
def test_an_empty_and_a_full_mask_have_all_frames(tmp_path, value):
    paths = write_ct_series(tmp_path / "ct", VOLUME)
    mask = mask_of(tmp_path / "ct")
    mask[:] = value
    seg = highdicom.seg.segread(write_dicom_mask(mask, tmp_path / "ct", tmp_path, "a_mask", "seg"))
    uids = [str(pydicom.dcmread(one).SOPInstanceUID) for one in paths]
    assert seg.NumberOfFrames == 5
    assert (seg.get_pixels_by_source_instance(uids) == value).all()


def test_a_segmentation_of_slices_at_unequal_distances(tmp_path):
    paths = write_ct_series(tmp_path / "ct", VOLUME)
    before, last = (pydicom.dcmread(path) for path in paths[-2:])
    step = np.subtract(last.ImagePositionPatient, before.ImagePositionPatient)
    last.ImagePositionPatient = [f"{value:.10g}" for value in last.ImagePositionPatient + 0.2 * step]
    last.save_as(paths[-1])
    seg = highdicom.seg.segread(write_dicom_mask(mask_of(tmp_path / "ct"), tmp_path / "ct", tmp_path, "a_mask", "seg"))
    uids = [str(pydicom.dcmread(one).SOPInstanceUID) for one in paths]
    np.testing.assert_array_equal(seg.get_pixels_by_source_instance(uids, segment_numbers=[1])[..., 0], BRIGHT)
    assert "SpacingBetweenSlices" not in seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]


def test_a_segmentation_of_a_picture_without_geometry(tmp_path):
    nowhere = dict.fromkeys(["FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient"])
    own = {"SOPClassUID": UltrasoundImageStorage, "Modality": "US", "PixelSpacing": None, "SliceThickness": None}
    (path,) = write_ct_series(tmp_path / "us", VOLUME[:1], **nowhere, **own)
    seg = highdicom.seg.segread(write_dicom_mask(mask_of(path), path, tmp_path, "a_mask", "seg"))
    uid = str(pydicom.dcmread(path).SOPInstanceUID)
    np.testing.assert_array_equal(seg.get_pixels_by_source_instance([uid])[0, ..., 0], BRIGHT[0])
    assert "FrameOfReferenceUID" not in seg


def test_attributes_that_may_be_empty_may_be_missing(tmp_path):
    missing = dict.fromkeys(["PatientID", "PatientBirthDate", "StudyTime", "AccessionNumber", "SliceThickness"])
    write_ct_series(tmp_path / "ct", VOLUME, **missing)
    seg = pydicom.dcmread(write_dicom_mask(mask_of(tmp_path / "ct"), tmp_path / "ct", tmp_path, "a_mask", "seg"))
    assert (seg.PatientID, seg.PatientBirthDate, seg.AccessionNumber) == ("", "", "")
    assert seg.PatientName == "Müller^Ünal"


@pytest.mark.parametrize("reverse", [False, True])
def test_a_segmentation_is_loaded_in_its_place(tmp_path, reverse):
    write_ct_series(tmp_path / "ct", VOLUME, reverse=reverse)  # 63 pixels a slice: frames begin within a byte
    mask = mask_of(tmp_path / "ct")
    loaded = load_image(write_dicom_mask(mask, tmp_path / "ct", tmp_path, "a_mask", "seg"))
    np.testing.assert_array_equal(loaded.numpy(), mask.numpy())
    np.testing.assert_allclose(loaded.affine, mask.affine, atol=1e-9)


@pytest.mark.parametrize("kind", ["seg", "series"])
def test_files_without_suffix_and_beside_other_objects(tmp_path, kind):
    for path in write_ct_series(tmp_path / "ct", VOLUME):
        path.rename(path.with_suffix(""))
    write_dicom_file(tmp_path / "ct" / "report", None, BasicTextSRStorage)
    write_dicom_file(tmp_path / "ct" / "shot", VOLUME[0].astype(np.uint16), SecondaryCaptureImageStorage)
    for source, out in ((tmp_path / "ct", tmp_path / "a"), (tmp_path / "ct" / "shot", tmp_path / "b")):
        assert is_dicom(source)
        out.mkdir()
        mask = mask_of(source)
        loaded = load_image(write_dicom_mask(mask, source, out, "a_mask", kind))
        np.testing.assert_array_equal(loaded.numpy(), mask.numpy())


# Series


def classes_of(path):
    """(1, *spatial) of 0, 2 and 300, by ranges of the values in the file."""
    image = load_image(path)
    values = (image.as_tensor() + 1024) / 2  # as the file rescales
    labels = torch.where(values > 3000, 300, torch.where(values > 1500, 2, 0))
    return MetaTensor(labels.to(torch.int32), meta=image.meta)


SEVERAL = np.select([VOLUME > 3000, VOLUME > 1500], [300, 2])


def test_a_segmentation_has_a_segment_for_each_class(series):
    folder, paths, out = series
    path = write_dicom_mask(classes_of(folder), folder, out, "a_mask", "seg", classes=(2, 7, 300))
    seg = highdicom.seg.segread(path)
    described = [(one.SegmentNumber, one.SegmentLabel) for one in seg.SegmentSequence]
    assert described == [(1, "class 2"), (2, "class 7"), (3, "class 300")]
    uids = [str(pydicom.dcmread(one).SOPInstanceUID) for one in paths]
    pixels = seg.get_pixels_by_source_instance(uids, segment_numbers=[1, 2, 3])
    for place, value in enumerate((2, 7, 300)):  # of 7 there is nothing
        np.testing.assert_array_equal(pixels[..., place], value == SEVERAL)


def test_a_series_holds_the_values_of_classes(series):
    folder, paths, out = series
    path = write_dicom_mask(classes_of(folder), folder, out, "a_mask", "series", classes=(2, 7, 300))
    written = {str(one.SourceImageSequence[0].ReferencedSOPInstanceUID): one for one in read_headers(path)}
    for source, labels in zip(paths, SEVERAL, strict=True):
        one = written[str(pydicom.dcmread(source).SOPInstanceUID)]
        np.testing.assert_array_equal(one.pixel_array, labels)
        assert (one.WindowCenter, one.WindowWidth) == (150, 300)


def test_classes_above_255_of_a_source_of_8_bits_have_16(tmp_path):
    (path,) = write_ct_series(tmp_path / "us", VOLUME[:1], BitsAllocated=8, BitsStored=8, HighBit=7)
    header = pydicom.dcmread(path)
    header.PixelData = (VOLUME[0] // 16).astype(np.uint8).tobytes() + b"\0"
    header.save_as(path)
    for top, bits in ((5, 8), (300, 16)):
        labels = torch.from_numpy(BRIGHT[0].T.astype(np.int32) * top)[None]
        mask = MetaTensor(labels, meta=load_image(path).meta)
        (one,) = read_headers(write_dicom_mask(mask, path, tmp_path, "a_mask", "series", classes=(1, top)))
        assert one.BitsAllocated == bits
        np.testing.assert_array_equal(one.pixel_array, BRIGHT[0] * top)


def test_a_series_has_voxels_and_affine_of_its_source(series):
    folder, paths, out = series
    mask = mask_of(folder)
    path = write_dicom_mask(mask, folder, out, "a_mask", "series")
    assert path == out / "a_mask_dicom"
    loaded = load_image(path)
    np.testing.assert_array_equal(loaded.numpy(), mask.numpy())
    np.testing.assert_allclose(loaded.affine.numpy(), mask.affine.numpy(), rtol=0, atol=1e-6)
    by_position = {tuple(one.ImagePositionPatient): one.pixel_array for one in read_headers(path)}
    for one, bright in zip(paths, BRIGHT, strict=True):
        np.testing.assert_array_equal(by_position[tuple(pydicom.dcmread(one).ImagePositionPatient)], bright)


def test_what_the_slices_of_a_series_say(tmp_path):
    paths = write_ct_series(tmp_path / "ct", VOLUME)
    folder = write_dicom_mask(mask_of(tmp_path / "ct"), tmp_path / "ct", tmp_path, "a_mask", "series")
    assert [path.name for path in sorted(folder.iterdir())] == [f"slice{index:04d}.dcm" for index in range(1, 6)]
    slices, sources = read_headers(folder), {one.SOPInstanceUID: one for one in map(pydicom.dcmread, paths)}
    assert len({one.SeriesInstanceUID for one in slices} - {one.SeriesInstanceUID for one in sources.values()}) == 1
    assert len({one.SOPInstanceUID for one in slices} - sources.keys()) == 5
    for one in slices:
        source = sources[one.SourceImageSequence[0].ReferencedSOPInstanceUID]
        for name in ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "ImagePositionPatient"):
            assert one[name].value == source[name].value
        for name in ("ImageOrientationPatient", "PixelSpacing", "SliceThickness", "InstanceNumber", "KVP", "Modality"):
            assert one[name].value == source[name].value
        assert one.file_meta.MediaStorageSOPInstanceUID == one.SOPInstanceUID
        assert one.ImageType == ["DERIVED", "SECONDARY", "AXIAL"]
        assert (one.SeriesDescription, one.SeriesNumber) == ("label-free foreground", 9004)
        assert (one.Manufacturer, one.SoftwareVersions) == ("monai_fusenet", __version__)
        # What was true of the scanner's values would falsify these.
        assert (one.RescaleIntercept, one.RescaleSlope, one.RescaleType) == (0, 1, "US")
        assert (one.WindowCenter, one.WindowWidth) == (0.5, 1)
        assert (one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation) == (16, 16, 15, 0)
        for name in ("SmallestImagePixelValue", "LargestImagePixelValue", "StationName", "ImageComments"):
            assert name not in one
        assert not [element for element in one if element.tag.is_private]
        assert set(np.unique(one.pixel_array)) == {0, 1}


def test_a_window_shows_the_mask_black_and_white(tmp_path):
    write_ct_series(tmp_path / "ct", VOLUME)
    folder = write_dicom_mask(mask_of(tmp_path / "ct"), tmp_path / "ct", tmp_path, "a_mask", "series")
    one = read_headers(folder)[0]
    shown = pydicom.pixels.apply_windowing(one.pixel_array, one)
    assert set(shown[one.pixel_array == 0]) == {0}
    assert set(shown[one.pixel_array == 1]) == {65535}


def test_a_single_file_is_a_series_of_one_slice(tmp_path):
    """With an odd number of bytes, in 8 bits, and of MR, which knows no rescaling."""
    own = {"SOPClassUID": MRImageStorage, "Modality": "MR", "RescaleIntercept": None, "RescaleSlope": None}
    (path,) = write_ct_series(tmp_path / "mr", VOLUME[:1], RescaleType=None, **own)
    header = pydicom.dcmread(path)
    header.BitsAllocated = header.BitsStored = 8
    header.HighBit = 7
    header.PixelData = (VOLUME[0] // 16).astype(np.uint8).tobytes() + b"\0"
    header.add_new(0x60003000, "OW", b"\1\0")  # an overlay
    header.save_as(path)
    mask = mask_of(path, least=None)
    mask[:] = torch.from_numpy(BRIGHT[0].T.astype(np.uint8))
    loaded = load_image(write_dicom_mask(mask, path, tmp_path, "a_mask", "series") / "slice0001.dcm")
    np.testing.assert_array_equal(loaded.numpy()[0], BRIGHT[0].T)
    np.testing.assert_allclose(loaded.affine.numpy(), mask.affine.numpy(), rtol=0, atol=1e-6)
    (one,) = read_headers(tmp_path / "a_mask_dicom")
    assert (one.BitsAllocated, "RescaleSlope" in one, 0x60003000 in one) == (8, False, False)


@pytest.mark.parametrize("name", ["CT_small", "MR_small_implicit", "MR_small_bigendian", "MR_small_RLE"])
def test_files_of_scanners(tmp_path, name):
    """Files that pydicom ships, in different encodings."""
    path = get_testdata_file(f"{name}.dcm", download=False)
    mask = mask_of(path, least=-1)
    mask[:, :20] = 0
    loaded = load_image(write_dicom_mask(mask, path, tmp_path, "a_mask", "series") / "slice0001.dcm")
    np.testing.assert_array_equal(loaded.numpy(), mask.numpy())
    np.testing.assert_allclose(loaded.affine.numpy(), mask.affine.numpy(), rtol=0, atol=1e-6)
    seg = highdicom.seg.segread(write_dicom_mask(mask, path, tmp_path, "a_mask", "seg"))
    np.testing.assert_array_equal(seg.pixel_array, mask.numpy()[0].T)


def test_a_colour_picture_gets_a_grey_mask(tmp_path):
    colours = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    depth = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    (path,) = write_ct_series(tmp_path / "us", VOLUME[:1], **colours, **depth)
    header = pydicom.dcmread(path)
    header.PixelData = np.repeat(VOLUME[0, ..., None] // 16, 3, axis=-1).astype(np.uint8).tobytes() + b"\0"
    header.save_as(path)
    image = load_image(path)
    mask = MetaTensor(torch.from_numpy(BRIGHT[0].T.astype(np.uint8))[None], meta=image.meta)
    (one,) = read_headers(write_dicom_mask(mask, path, tmp_path, "a_mask", "series"))
    np.testing.assert_array_equal(one.pixel_array, BRIGHT[0])
    assert one.PhotometricInterpretation == "MONOCHROME2"
    assert "PlanarConfiguration" not in one


# What sources do not permit


@pytest.mark.parametrize(
    ("missing", "kind"),
    [
        ("FrameOfReferenceUID", "seg"),
        ("PixelSpacing", "seg"),
        ("SOPInstanceUID", "series"),
        ("StudyInstanceUID", "seg"),
        ("StudyInstanceUID", "series"),
    ],
)
def test_missing_attributes_are_named(tmp_path, missing, kind):
    paths = write_ct_series(tmp_path / "ct", VOLUME)
    mask = mask_of(tmp_path / "ct")
    header = pydicom.dcmread(paths[2])
    del header[missing]
    header.save_as(paths[2])
    assert refusal(tmp_path / "ct", tmp_path, kind, mask) == f"its source has no {missing}"


def test_a_series_needs_no_frame_of_reference(tmp_path):
    write_ct_series(tmp_path / "ct", VOLUME, FrameOfReferenceUID=None)
    mask = mask_of(tmp_path / "ct")
    path = write_dicom_mask(mask, tmp_path / "ct", tmp_path, "a_mask", "series")
    np.testing.assert_array_equal(load_image(path).numpy(), mask.numpy())


@pytest.mark.parametrize("kind", ["seg", "series"])
def test_several_frames_in_one_file_are_refused(tmp_path, kind):
    own = {"SOPClassUID": EnhancedCTImageStorage, "NumberOfFrames": 5}
    (path,) = write_ct_series(tmp_path / "ct", VOLUME.reshape(1, 35, 9), **own)
    header = pydicom.dcmread(path)
    header.Rows = 7
    header.save_as(path)
    mask = mask_of(path)
    assert mask.shape == (1, 9, 7, 5)
    expected = "its source has several frames in one file, and not one file for each slice"
    assert refusal(path, tmp_path, kind, mask) == expected


def test_slices_that_are_turned_against_each_other_are_refused(tmp_path):
    paths = write_ct_series(tmp_path / "ct", VOLUME, orientation=AXIAL)
    mask = mask_of(tmp_path / "ct")
    header = pydicom.dcmread(paths[2])
    header.ImageOrientationPatient = list(OBLIQUE)
    header.save_as(paths[2])
    expected = "the slices of its source differ in ImageOrientationPatient"
    assert refusal(tmp_path / "ct", tmp_path, "seg", mask) == expected


def test_values_that_dicom_does_not_know_are_named(tmp_path):
    write_ct_series(tmp_path / "ct", VOLUME, PatientSex="X")
    assert refusal(tmp_path / "ct", tmp_path, "seg") == (
        "its source is no valid DICOM ('X' is not a valid PatientSexValues)"
    )


@pytest.mark.filterwarnings("ignore:Invalid value")
def test_values_that_are_no_values(tmp_path):
    paths = write_ct_series(tmp_path / "ct", VOLUME, SeriesNumber=471)
    mask = mask_of(tmp_path / "ct")
    for path in paths:
        path.write_bytes(path.read_bytes().replace(b"471 ", b"4x1 "))
    for kind in ("seg", "series"):
        expected = "its source is no valid DICOM (invalid literal for int() with base 10: '4x1')"
        assert refusal(tmp_path / "ct", tmp_path, kind, mask) == expected


# Files


def test_an_earlier_mask_gives_way_and_nothing_else_is_left(tmp_path):
    write_ct_series(tmp_path / "ct", VOLUME)
    mask = mask_of(tmp_path / "ct")
    (tmp_path / "out" / "a_mask_dicom").mkdir(parents=True)
    (tmp_path / "out" / "a_mask_dicom" / "slice9999.dcm").touch()
    for _ in range(2):
        for kind in ("seg", "series"):
            write_dicom_mask(mask, tmp_path / "ct", tmp_path / "out", "a_mask", kind)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a_mask.dcm", "a_mask_dicom"]
    assert len(list((tmp_path / "out" / "a_mask_dicom").iterdir())) == 5
    remove_dicom_masks(tmp_path / "out", "a_mask")
    remove_dicom_masks(tmp_path / "out", "a_mask")  # nothing there is fine
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("kind", ["seg", "series"])
def test_a_full_disk_leaves_no_part(tmp_path, kind, monkeypatch):
    write_ct_series(tmp_path / "ct", VOLUME)
    mask, writes = mask_of(tmp_path / "ct"), []
    genuine = pydicom.Dataset.save_as

    def save_as(dataset, path, **options):
        genuine(dataset, path, **options)
        writes.append(path)
        if kind == "seg" or len(writes) == 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(pydicom.Dataset, "save_as", save_as)
    (tmp_path / "out").mkdir()
    with pytest.raises(OSError, match="No space left"):
        write_dicom_mask(mask, tmp_path / "ct", tmp_path / "out", "a_mask", kind)
    assert writes
    assert list((tmp_path / "out").iterdir()) == []


def test_which_images_are_dicom(tmp_path):
    assert [is_dicom(name) for name in (tmp_path, "a.dcm", "A.IMA", "a.png", "a.nii.gz")] == [True] * 3 + [False] * 2
    assert dicom_mask_path(tmp_path, "a_mask", "seg").name == "a_mask.dcm"
    assert dicom_mask_path(tmp_path, "a_mask", "series").name == "a_mask_dicom"


def test_the_option(monkeypatch):
    for value in (None, "seg", "series"):
        check_dicom_output(value)
    with pytest.raises(ValueError, match=r'^dicom_output must be null, "seg" or "series", got SEG$'):
        check_dicom_output("SEG")
    monkeypatch.setattr("monai_fusenet.results.dicom.find_spec", lambda name: None)
    check_dicom_output(None)
    expected = "dicom_output seg needs highdicom; pip install 'monai-fusenet[dicom]'"
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        check_dicom_output("seg")
