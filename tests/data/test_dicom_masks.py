"""Segmentation objects as masks: their frames show a segment of a slice each, and none where a slice has none."""

import numpy as np
import pydicom
import pytest
from dicom_tools import OBLIQUE, write_ct_series, write_enhanced_file
from pydicom.uid import SegmentationStorage

from monai_fusenet.data import load_image, load_mask
from monai_fusenet.data.grids import load_mask_on_grid_of

SHAPE = (7, 9)
NUMBERS = np.random.default_rng(0)
# The first two axes of a viewer's coordinates have the other sign.
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def bits(frames):
    return NUMBERS.integers(0, 2, (frames, *SHAPE)).astype(np.uint8)


def reason(path):
    with pytest.raises(ValueError, match=r"^cannot read ") as caught:
        load_image(path)
    return str(caught.value).removeprefix(f"cannot read {path}: ")


def write_segmentation(path, masks, places, segments=None, **own):
    """The frames of a segmentation, (frames, rows, columns), 3 mm apart; see `write_enhanced_file`."""
    groups = [{"SegmentIdentificationSequence": {"ReferencedSegmentNumber": number}} for number in segments or []]
    write_enhanced_file(path, masks, places, groups or None, sop_class=SegmentationStorage, **own)


def test_a_segmentation_object_is_a_mask_in_its_place(tmp_path):
    order = [2, 0, 3, 1]
    masks = bits(4)
    write_enhanced_file(tmp_path / "a.dcm", masks[order], order, sop_class=SegmentationStorage)
    np.testing.assert_array_equal(load_image(tmp_path / "a.dcm").numpy()[0], masks.T)


@pytest.mark.parametrize(
    ("places", "step"),
    [
        ([0, 1, 3], 1),
        ([1, 7, 8, 20], 1),
        ([9, 2, 3], 1),
        ([2, 7], 1),  # their distance is a multiple of their thickness
        ([0, 4, 8], 1),
        ([0, 4, 10], 1),
        ([0, 1.5, 4], 0.5),  # which is not all of their thickness
        ([5, 5.002, 6], 1),
    ],
)
def test_slices_that_a_segmentation_leaves_out_are_background(tmp_path, places, step):
    masks = bits(len(places))
    write_segmentation(tmp_path / "a.dcm", masks, places)
    image = load_image(tmp_path / "a.dcm")
    whole = np.zeros((round((max(places) - min(places)) / step) + 1, *SHAPE))
    for place, mask in zip(places, masks, strict=True):
        index = round((place - min(places)) / step)
        whole[index] = np.maximum(whole[index], mask)
    np.testing.assert_array_equal(image.numpy()[0], whole.T)
    normal = np.cross(OBLIQUE[:3], OBLIQUE[3:])
    np.testing.assert_allclose(image.affine[:3, 2], LPS_TO_RAS[:3, :3] @ normal * 3 * step, atol=0.01)
    start = np.array([10, 20, 30]) + 3 * min(places) * normal
    np.testing.assert_allclose(image.affine[:3, 3], LPS_TO_RAS[:3, :3] @ start, atol=1e-6)


def test_segments_of_one_segmentation_are_united(tmp_path):
    masks = bits(5)
    write_segmentation(tmp_path / "a.dcm", masks, [0, 1, 2, 1, 2], [1, 1, 1, 2, 2])
    united = np.stack([masks[0], masks[1] | masks[3], masks[2] | masks[4]])
    np.testing.assert_array_equal(load_mask(tmp_path / "a.dcm").numpy()[0], united.T)
    write_segmentation(tmp_path / "b.dcm", masks[:2], [4, 4], [1, 2])
    united = load_mask(tmp_path / "b.dcm")
    np.testing.assert_array_equal(united.numpy()[0], (masks[0] | masks[1]).T)
    np.testing.assert_allclose(united.affine[:3, 2], LPS_TO_RAS[:3, :3] @ np.cross(OBLIQUE[:3], OBLIQUE[3:]) * 3)


def test_a_segmentation_of_all_frames_keeps_its_slices_whatever_their_thickness(tmp_path):
    masks = bits(3)
    write_segmentation(tmp_path / "a.dcm", masks, [0, 2, 4], DimensionOrganizationType="3D")
    np.testing.assert_array_equal(load_mask(tmp_path / "a.dcm").numpy()[0], masks.T)


def test_a_segmentation_of_a_nameless_thickness_takes_its_step_from_its_gaps(tmp_path):
    masks = bits(4)
    header = write_enhanced_file(tmp_path / "a.dcm", masks, [0, 2, 5, 7], sop_class=SegmentationStorage)
    measures = header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    expected = np.zeros((8, *SHAPE))
    expected[[0, 2, 5, 7]] = masks
    for thickness in ("", "0", "-3", "0.0001", "1e300"):
        measures.SliceThickness = thickness
        header.save_as(tmp_path / "a.dcm")
        np.testing.assert_array_equal(load_mask(tmp_path / "a.dcm").numpy()[0], expected.T)


def test_frames_of_one_slice_that_are_shifted_within_it_are_refused(tmp_path):
    path = tmp_path / "a.dcm"
    header = write_enhanced_file(path, np.ones((2, *SHAPE), np.uint8), [0, 0], sop_class=SegmentationStorage)
    place = header.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0]
    place.ImagePositionPatient = (np.array([10, 20, 30]) + 5 * np.array(OBLIQUE[:3])).tolist()
    header.save_as(path)
    assert reason(path).startswith("its frames lie on no even grid, ")


@pytest.mark.parametrize("places", [[0, 1, 5000], [0, 0.01, 1, 200]])
def test_a_segmentation_on_no_grid_is_refused(tmp_path, places):
    write_segmentation(tmp_path / "a.dcm", np.ones((len(places), *SHAPE), np.uint8), places)
    assert reason(tmp_path / "a.dcm") == (
        "its frames lie on no even grid, though frames of empty slices may be left out: save the mask with all frames, "
        "or as NIfTI"
    )


def test_a_segmentation_without_empty_frames_is_the_mask_of_its_series(tmp_path):
    highdicom = pytest.importorskip("highdicom")
    from pydicom.sr.codedict import codes

    sources = [
        pydicom.dcmread(path) for path in write_ct_series(tmp_path / "ct", NUMBERS.integers(0, 4096, (10, *SHAPE)))
    ]
    labels = np.zeros((10, *SHAPE), np.uint8)
    labels[2:4, 1:4, 2:6], labels[3, 2:6, 4:8], labels[7, 3:6, 1:5] = 1, 2, 1
    algorithm = highdicom.AlgorithmIdentificationSequence("a", codes.DCM.ArtificialIntelligence, "1")
    segments = [
        highdicom.seg.SegmentDescription(
            number, f"{number}", codes.SCT.Tissue, codes.SCT.Tissue, "AUTOMATIC", algorithm
        )
        for number in (1, 2)
    ]
    uids = {"series_instance_uid": highdicom.UID(), "sop_instance_uid": highdicom.UID()}
    device = dict.fromkeys(
        ("manufacturer", "manufacturer_model_name", "software_versions", "device_serial_number"), "a"
    )
    highdicom.seg.Segmentation(
        sources, labels, "BINARY", segments, series_number=9, instance_number=1, **uids, **device
    ).save_as(tmp_path / "mask.dcm")
    mask = load_mask_on_grid_of(tmp_path / "mask.dcm", load_image(tmp_path / "ct"))
    np.testing.assert_array_equal(mask.numpy()[0], labels.T > 0)
