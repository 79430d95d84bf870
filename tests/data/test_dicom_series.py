"""Which images a folder of DICOM files holds, and why some folders are refused: by `load_image` and `find_images`."""

import shutil

import numpy as np
import pydicom
import pytest
from dicom_tools import AXIAL, write_ct_series, write_dicom_file
from pydicom.uid import (
    BasicTextSRStorage,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    EncapsulatedPDFStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    ParametricMapStorage,
    RawDataStorage,
    RTDoseStorage,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    TwelveLeadECGWaveformStorage,
    UltrasoundImageStorage,
    VolumeRenderingVolumetricPresentationStateStorage,
)

from monai_fusenet.data import find_images, load_image

# Slices, rows and columns differ.
VOLUME = np.random.default_rng(0).integers(0, 4096, (6, 7, 9)).astype(np.uint16)
PICTURE = VOLUME[0]


def images(folder):
    return [item["file"] for item in find_images(folder)]


def refusal(folder):
    """The reason for which a folder is no volume: it is one image of the data set, which fails as the folder does."""
    with pytest.raises(ValueError, match=r"^cannot read ") as caught:
        load_image(folder)
    (item,) = find_images(folder)
    assert item["image"] == str(folder)
    with pytest.raises(ValueError, match=r"^cannot read ") as found:
        load_image(item["image"])
    assert str(found.value) == str(caught.value)
    return str(caught.value).removeprefix(f"cannot read {folder}: ")


def write_slices(folder, places, **own):
    """Slices 0.000 and so on at places in mm along z; `own` may hold a list, of a value for each."""
    for index, place in enumerate(places):
        each = {name: value[index] if isinstance(value, list) else value for name, value in own.items()}
        number = {"InstanceNumber": index + 1, **each}
        write_dicom_file(folder / f"{index}.dcm", VOLUME[index % 6], position=(0, 0, place), **number)
    return folder


# Images that are no slices


@pytest.mark.parametrize(
    ("sop_class", "own"),
    [
        (ComputedRadiographyImageStorage, {}),
        (ComputedRadiographyImageStorage, {"position": (0, 0, 0)}),
        (SecondaryCaptureImageStorage, {}),
        (SecondaryCaptureImageStorage, {"Modality": "DX", "position": (0, 0, 0)}),
        (UltrasoundImageStorage, {"Modality": "US"}),
        (UltrasoundImageStorage, {"Modality": "US", "position": (0, 0, 0)}),
        (UltrasoundImageStorage, {"Modality": "US", "position": (0, 0, 0), "orientation": (0, 0, 0, 0, 0, 0)}),
        (CTImageStorage, {"SeriesInstanceUID": None}),
        (CTImageStorage, {"SeriesInstanceUID": ""}),
    ],
)
def test_files_that_tell_no_place_of_a_slice_are_an_image_each(tmp_path, sop_class, own):
    for index, name in enumerate(["LAT.dcm", "PA.dcm", "PA2.dcm"]):
        write_dicom_file(tmp_path / name, VOLUME[index], sop_class, InstanceNumber=index, **own)
    items = find_images(tmp_path)
    assert [item["file"] for item in items] == ["LAT.dcm", "PA.dcm", "PA2.dcm"]
    for item, pixels in zip(items, VOLUME, strict=False):
        np.testing.assert_array_equal(load_image(item["image"]).numpy()[0], pixels.T)


def test_a_folder_of_pictures_is_no_volume(tmp_path):
    for name in "ab":
        write_dicom_file(tmp_path / f"{name}.dcm", PICTURE, ComputedRadiographyImageStorage)
    message = (
        "a folder must hold one DICOM series, got 2 images that are no slices of a volume: load each by the path of "
        "its file$"
    )
    with pytest.raises(ValueError, match=message):
        load_image(tmp_path)
    (tmp_path / "b.dcm").unlink()
    np.testing.assert_array_equal(load_image(tmp_path).numpy()[0], PICTURE.T)


def test_screenshots_beside_a_series_are_images_of_their_own(tmp_path):
    write_slices(tmp_path / "ct", range(6))
    write_dicom_file(tmp_path / "ct/shot.dcm", VOLUME[3], SecondaryCaptureImageStorage)
    write_dicom_file(tmp_path / "ct/clip.dcm", VOLUME[:4], SecondaryCaptureImageStorage)
    assert images(tmp_path) == ["ct", "ct/clip.dcm", "ct/shot.dcm"]
    np.testing.assert_array_equal(load_image(tmp_path / "ct").numpy()[0], VOLUME.T)
    assert load_image(tmp_path / "ct/clip.dcm").shape == (1, 9, 7, 4)


def test_views_of_one_series_in_different_directions_are_an_image_each(tmp_path):
    for name, axes in {"a": AXIAL, "c": (1, 0, 0, 0, 0, -1), "s": (0, 1, 0, 0, 0, -1)}.items():
        write_dicom_file(tmp_path / f"{name}.dcm", PICTURE, position=(0, 0, 0), orientation=axes)
    assert images(tmp_path) == ["a.dcm", "c.dcm", "s.dcm"]


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_scouts_in_two_directions_are_an_image_each(tmp_path, modality):
    for name, axes in {"c": (1, 0, 0, 0, 0, -1), "s": (0, 1, 0, 0, 0, -1)}.items():
        write_dicom_file(tmp_path / f"{name}.dcm", PICTURE, position=(0, 0, 0), orientation=axes, Modality=modality)
    assert images(tmp_path) == ["c.dcm", "s.dcm"]


def test_a_damaged_picture_fails_alone(tmp_path):
    for name in "abc":
        write_dicom_file(tmp_path / f"{name}.dcm", PICTURE, ComputedRadiographyImageStorage)
    (tmp_path / "b.dcm").write_bytes((tmp_path / "b.dcm").read_bytes()[:-20])
    assert images(tmp_path) == ["a.dcm", "b.dcm", "c.dcm"]
    with pytest.raises(ValueError, match=r"b.dcm: not an image, or damaged: element \(7fe0,0010\) claims 126 bytes"):
        load_image(tmp_path / "b.dcm")


# Objects without an image

OBJECTS = {
    "Basic Text SR": BasicTextSRStorage,
    "Grayscale Softcopy Presentation State": GrayscaleSoftcopyPresentationStateStorage,
    "Key Object Selection Document": KeyObjectSelectionDocumentStorage,
    "RT Structure Set": RTStructureSetStorage,
    "Encapsulated PDF": EncapsulatedPDFStorage,
    "12-lead ECG Waveform": TwelveLeadECGWaveformStorage,
    "Raw Data": RawDataStorage,
    "Volume Rendering Volumetric Presentation State": VolumeRenderingVolumetricPresentationStateStorage,
    "object of the class 1.3.12.2.1107.5.9.1": "1.3.12.2.1107.5.9.1",
}
MAPS = {"Segmentation": SegmentationStorage, "RT Dose": RTDoseStorage, "Parametric Map": ParametricMapStorage}


@pytest.mark.parametrize("name", ["x.dcm", "x"])
@pytest.mark.parametrize("kind", [*OBJECTS, *MAPS])
def test_objects_without_an_image_are_passed_over(tmp_path, kind, name):
    sop_class, pixels = (OBJECTS[kind], None) if kind in OBJECTS else (MAPS[kind], VOLUME.astype(np.uint16))
    write_slices(tmp_path / "ct", range(6))
    write_dicom_file(tmp_path / "ct" / name, pixels, sop_class)
    write_dicom_file(tmp_path / "alone" / name, pixels, sop_class)
    assert images(tmp_path) == ["ct"]
    np.testing.assert_array_equal(load_image(tmp_path / "ct").numpy()[0], VOLUME.T)
    with pytest.raises(ValueError, match=rf"alone: it holds no image, but 1 {kind}$"):
        load_image(tmp_path / "alone")
    with pytest.raises(ValueError, match=rf", but 1 {kind}$"):
        find_images(tmp_path / "alone")


def test_an_object_without_an_image_says_what_it_is(tmp_path):
    write_dicom_file(tmp_path / "x.dcm", None, BasicTextSRStorage)
    with pytest.raises(
        ValueError, match=r"x.dcm: it holds no image, it is a DICOM object of another kind: Basic Text SR$"
    ):
        load_image(tmp_path / "x.dcm")


def test_segmentation_objects_are_masks_where_masks_lie(tmp_path):
    write_dicom_file(tmp_path / "images/a.dcm", PICTURE)
    write_dicom_file(tmp_path / "masks/a.dcm", (PICTURE > 2000).astype(np.uint8), SegmentationStorage)
    write_dicom_file(tmp_path / "images/b.dcm", PICTURE)
    write_dicom_file(tmp_path / "images/b_seg.dcm", (PICTURE > 2000).astype(np.uint8), SegmentationStorage)
    labels = {item["file"]: item["label"] for item in find_images(tmp_path)}
    assert labels == {"images/a.dcm": str(tmp_path / "masks/a.dcm"), "images/b.dcm": str(tmp_path / "images/b_seg.dcm")}
    np.testing.assert_array_equal(load_image(tmp_path / "masks/a.dcm").numpy()[0], (PICTURE > 2000).T)


def test_an_image_of_an_unknown_class_says_so(tmp_path):
    write_dicom_file(tmp_path / "a.dcm", PICTURE, "1.3.12.2.1107.5.9.1")
    assert images(tmp_path) == ["a.dcm"]
    message = (
        r"a\.dcm: not an image, or damaged, or of a class that GDCM does not know: object of the class "
        r"1\.3\.12\.2\.1107\.5\.9\.1; save it as NIfTI$"
    )
    with pytest.raises(ValueError, match=message):
        load_image(tmp_path / "a.dcm")


# Files without a suffix


@pytest.mark.parametrize(
    "names",
    [
        [f"IM{number:04d}" for number in range(6)],
        [f"1.2.840.113619.2.{number}" for number in range(6)],
        [f"CT.1.2.840.{number}_01" for number in range(6)],
        ["0.dcm", "1", "2.DCM", "3", "4.IMA", "5.dicom"],
    ],
)
def test_files_without_a_suffix_are_dicom_by_their_mark(tmp_path, names):
    write_slices(tmp_path / "x", range(6))
    for index, name in enumerate(names):
        (tmp_path / "x" / f"{index}.dcm").rename(tmp_path / "x" / name)
    write_dicom_file(tmp_path / "single" / names[1], PICTURE)
    (tmp_path / "README").write_text("no image " * 40)
    (tmp_path / "single" / "notes.1").write_text("no image " * 40)
    items = find_images(tmp_path)
    assert [(item["file"], item["name"]) for item in items] == [(f"single/{names[1]}", names[1]), ("x", "x")]
    np.testing.assert_array_equal(load_image(items[0]["image"]).numpy()[0], PICTURE.T)
    np.testing.assert_array_equal(load_image(items[1]["image"]).numpy()[0], VOLUME.T)


def test_a_known_suffix_says_what_a_file_is(tmp_path):
    write_dicom_file(tmp_path / "a.png", PICTURE)
    with pytest.raises(ValueError, match=r"a\.png: not an image, or damaged$"):
        load_image(tmp_path / "a.png")


def test_a_file_without_suffix_and_mark_is_none(tmp_path):
    (tmp_path / "IM0001").write_bytes(b"\0" * 500)
    with pytest.raises(ValueError, match=r"IM0001: unknown suffix '', expected one of "):
        load_image(tmp_path / "IM0001")


# Series that are no volume


def test_slices_of_another_kind_are_named(tmp_path):
    kinds = {
        "orientation": (
            {"orientation": (1, 0, 0, 0, 0, -1)},
            r"ImageOrientationPatient 1\0\0\0\0\-1, not 1\0\0\0\1\0",
        ),
        "spacing": ({"PixelSpacing": [0.7, 0.6]}, r"PixelSpacing 0.7\0.6, not 0.7\0.5"),
        "no spacing": ({"PixelSpacing": None}, r"PixelSpacing unknown, not 0.7\0.5"),
    }
    for name, (own, difference) in kinds.items():
        folder = write_slices(tmp_path / name, range(6))
        write_dicom_file(folder / "scout.dcm", PICTURE, position=(0, 0, 6), **own)
        assert refusal(folder) == (
            f"its scout.dcm is no slice of the others: it has {difference}: give each kind of slice a folder of its own"
        )


def test_slices_of_another_size_are_named_and_counted(tmp_path):
    folder = write_slices(tmp_path / "x", range(6))
    for index in range(2):
        write_dicom_file(folder / f"scout{index}.dcm", PICTURE[:5], position=(0, 0, 6 + index))
    assert refusal(folder) == (
        "its scout0.dcm is no slice of the others: it has Rows 5, not 7 (2 of 8 slices differ from the others): give "
        "each kind of slice a folder of its own"
    )


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_two_slices_of_a_scanner_that_are_unlike_are_no_images_each(tmp_path, modality):
    spacings = [[0.7, 0.5], [0.8, 0.5]]
    folder = write_slices(tmp_path / "two", range(2), PixelSpacing=spacings, Modality=modality)
    reason = (
        "its 1.dcm is no slice of the others: it has PixelSpacing 0.8\\0.5, not 0.7\\0.5{}: give each kind of slice"
    )
    assert refusal(folder) == reason.format("") + " a folder of its own"
    folder = write_slices(tmp_path / "three", range(3), PixelSpacing=[*spacings, [0.9, 0.5]], Modality=modality)
    more = " (2 of 3 slices differ from the others)"
    assert refusal(folder) == reason.format(more) + " a folder of its own"


@pytest.mark.parametrize("lost", [0, 2, 5])
@pytest.mark.parametrize("lacks", ["ImagePositionPatient", "ImageOrientationPatient"])
def test_a_slice_that_lost_its_place_is_named(tmp_path, lacks, lost):
    folder = tmp_path / "ct"
    path = write_ct_series(folder, VOLUME)[lost]
    header = pydicom.dcmread(path)
    del header[lacks]
    header.save_as(path)
    assert refusal(folder) == (
        f"its file {path.name} is a slice without {lacks}, unlike the others of its series: restore it, or move the "
        "file to another folder"
    )


def test_damaged_files_are_counted_without_those_that_lost_their_place(tmp_path):
    write_slices(tmp_path, range(6))
    write_dicom_file(tmp_path / "3.dcm", VOLUME[3])
    (tmp_path / "x.dcm").write_bytes(b"no image " * 40)
    assert refusal(tmp_path) == "1 of its DICOM files are damaged, the first is x.dcm"


def test_one_of_two_slices_that_lost_its_place_is_named(tmp_path):
    for name, position in {"a": None, "b": (0, 0, 3)}.items():
        write_dicom_file(tmp_path / f"{name}.dcm", PICTURE, position=position)
    assert refusal(tmp_path).startswith("its file a.dcm is a slice without ImagePositionPatient, ")


@pytest.mark.parametrize("page", [PICTURE[:5], np.zeros((7, 9, 3), np.uint8)], ids=["size", "colour"])
def test_a_page_of_the_class_of_slices_and_of_another_form_is_an_image_of_its_own(tmp_path, page):
    write_slices(tmp_path / "ct", range(6))
    write_dicom_file(tmp_path / "ct/dose.dcm", page)
    assert images(tmp_path) == ["ct", "ct/dose.dcm"]
    np.testing.assert_array_equal(load_image(tmp_path / "ct").numpy()[0], VOLUME.T)


def test_copies_of_a_slice_are_named(tmp_path):
    folder = write_slices(tmp_path / "x", range(6))
    shutil.copy(folder / "2.dcm", folder / "2 (1).dcm")
    reason = "its 2 (1).dcm and 2.dcm are copies of one slice (of one SOPInstanceUID): remove "
    assert refusal(folder) == reason + "one"
    shutil.copy(folder / "4.dcm", folder / "4 (1).dcm")
    assert refusal(folder) == reason + "all copies, of which there are more"


PHASES = [
    ("AcquisitionNumber", [1, 2], "1, 2"),
    ("EchoTime", [4.5, 9], "4.5, 9.0"),
    ("TemporalPositionIdentifier", [1, 2], "1, 2"),
    ("TriggerTime", [0, 40.5], "0.0, 40.5"),
    ("DiffusionBValue", [0.0, 1000.0], "0.0, 1000.0"),
    ("ContentTime", ["101112", "101155"], "101112, 101155"),
]


@pytest.mark.parametrize(("name", "values", "shown"), PHASES)
def test_phases_are_told_by_what_differs(tmp_path, name, values, shown):
    own = {name: [value for value in values for _ in range(3)], "InstanceNumber": 1}
    folder = write_slices(tmp_path / "x", [0, 3, 6] * 2, **own)
    assert refusal(folder) == (
        f"its 0.dcm and 3.dcm lie at one place, and differ in {name} ({shown}); its 6 slices lie at 3 places: remove "
        "copies, and give each phase or echo a folder of its own"
    )


def test_slices_at_one_place_that_nothing_tells_apart(tmp_path):
    folder = write_slices(tmp_path / "x", [0, 0, 0], Modality="MR", InstanceNumber=1)
    assert refusal(folder) == (
        "its 0.dcm and 1.dcm lie at one place, and differ in no attribute; its 3 slices lie at 1 place: remove copies, "
        "and give each phase or echo a folder of its own"
    )


def test_missing_slices_are_counted_and_placed(tmp_path):
    assert refusal(write_slices(tmp_path / "one", [0, 3, 6, 12, 15])) == (
        "its slices are not evenly spaced, 1 is missing: 6 mm lie between 2.dcm and 3.dcm, 3 mm between most others: "
        "add what is missing, or give each part a folder of its own"
    )
    assert refusal(write_slices(tmp_path / "many", [0, 3, 6, 15, 18, 24])) == (
        "its slices are not evenly spaced, 3 are missing: 9 mm lie between 2.dcm and 3.dcm, 3 mm between most others: "
        "add what is missing, or give each part a folder of its own"
    )


def test_slices_at_uneven_distances_are_placed(tmp_path):
    assert refusal(write_slices(tmp_path / "x", [0, 3, 6, 10.4, 13.4])) == (
        "its slices are not evenly spaced, they lie up to 1.05 mm off: 4.4 mm lie between 2.dcm and 3.dcm, 3 mm "
        "between most others: are some missing, or of another scan?"
    )
    assert refusal(write_slices(tmp_path / "few", [0, 5, 10, 12.5])) == (
        "its slices are not evenly spaced, they lie up to 1.67 mm off: 2.5 mm lie between 2.dcm and 3.dcm, 5 mm "
        "between most others: are some missing, or of another scan?"
    )


def test_a_slice_that_lies_aside_is_named(tmp_path):
    folder = write_slices(tmp_path / "x", range(0, 18, 3))
    write_dicom_file(folder / "2.dcm", VOLUME[2], position=(0, 5, 6))
    assert refusal(folder) == (
        "its slices do not lie behind one another, 2.dcm lies 5 mm aside: resample them to one grid"
    )


@pytest.mark.parametrize("value", [[0, 0], ["nan", 0, 0]])
def test_a_place_that_is_no_place_is_named(tmp_path, value):
    folder = write_slices(tmp_path / "x", range(6))
    write_dicom_file(folder / "3.dcm", VOLUME[3], ImagePositionPatient=value, ImageOrientationPatient=list(AXIAL))
    assert refusal(folder).startswith("its file 3.dcm is damaged: its ImagePositionPatient must hold 3 numbers, got ")


def test_directions_that_are_none_are_named(tmp_path):
    folder = write_slices(tmp_path / "x", range(6))
    write_dicom_file(folder / "3.dcm", VOLUME[3], position=(0, 0, 3), orientation=(1, 0, 0, 1, 0, 0))
    assert refusal(folder) == (
        "its file 3.dcm is damaged: its ImageOrientationPatient [1.0, 0.0, 0.0, 1.0, 0.0, 0.0] is no two directions at "
        "right angles"
    )


def test_an_image_without_pixels_is_damaged(tmp_path):
    folder = write_slices(tmp_path / "x", range(6))
    header = pydicom.dcmread(folder / "3.dcm")
    del header.PixelData
    header.save_as(folder / "3.dcm")
    assert refusal(folder) == "its file 3.dcm is damaged: it has no pixels"


@pytest.mark.parametrize("left", [2, 82])
def test_a_slice_with_fewer_pixels_than_its_header_says_is_damaged(tmp_path, left):
    folder = tmp_path / "ct"
    path = write_ct_series(folder, np.zeros((4, 6, 7), np.int16))[2]
    dataset = pydicom.dcmread(path)
    dataset.PixelData = dataset.PixelData[:left]
    dataset.save_as(path)
    assert refusal(folder) == f"its file {path.name} is damaged: its pixels are 84 bytes, and {left} are there"


def test_slices_of_two_patients_are_no_volume(tmp_path):
    write_slices(tmp_path / "x", range(6), PatientID=["a", "a", "a", "b", "b", "b"])
    assert refusal(tmp_path / "x") == "a folder must hold one DICOM series, got 2: give each a folder of its own"
