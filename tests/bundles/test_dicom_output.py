"""Masks of DICOM images as DICOM, when the inference workflow is asked for them."""

import highdicom
import nibabel as nib
import numpy as np
import pytest
from bundle_tools import CONFIGS, SMALL, call, draw_folder, hear, read_summary
from dicom_tools import write_ct_series
from monai.bundle import ConfigParser

from monai_fusenet.bundle.student_bundle import student_config
from monai_fusenet.data import find_images, load_image

SHAPE = (9, 13, 18)  # slices, rows, columns
MASKS = {"seg": "scan_mask.dcm", "series": "scan_mask_dicom"}


def draw_series(folder, **own):
    rng = np.random.default_rng(0)
    volume = rng.normal(1000, 20, SHAPE)
    volume[2:6, 4:9, 5:12] += 600
    write_ct_series(folder, volume.astype(np.uint16), **own)
    return folder.parent


def infer(folder, output, **options):
    options = {**SMALL, "working_size": [12, 12, 8], "network_def#features": 8, **options}
    return call("inference", "volume.yaml", dataset_dir=folder, output_dir=output, **options)


def statuses(output):
    return [(row["status"], row["message"]) for row in read_summary(output)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_series(tmp_path_factory.mktemp("dicom") / "data" / "scan")


@pytest.mark.parametrize("kind", ["seg", "series"])
def test_the_mask_as_dicom_is_the_mask_as_nifti(data, tmp_path, kind):
    assert infer(data, tmp_path / "out", dicom_output=kind) == 0
    kinds = ["scan_clusters.nii.gz", "scan_mask.nii.gz", "scan_panel.png", "summary.csv"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([*kinds, MASKS[kind]])
    assert statuses(tmp_path / "out") == [("ok", "")]
    mask = nib.load(tmp_path / "out" / "scan_mask.nii.gz")
    voxels = np.asarray(mask.dataobj)
    assert 0 < voxels.mean() < 1
    if kind == "seg":
        volume = highdicom.seg.segread(tmp_path / "out" / MASKS[kind]).get_volume(combine_segments=True)
        assert volume.array.sum() == voxels.sum()
    else:
        loaded = load_image(tmp_path / "out" / MASKS[kind])
        np.testing.assert_array_equal(loaded.numpy()[0], voxels)
        np.testing.assert_allclose(loaded.affine, mask.affine, atol=1e-5)  # NIfTI keeps 32 bits


def test_finished_are_images_with_all_files_that_are_asked_for(data, tmp_path):
    output = tmp_path / "out"
    assert infer(data, output) == 0
    mask = nib.load(output / "scan_mask.nii.gz").get_fdata()
    for kind, path in MASKS.items():  # the same options but for this one
        assert infer(data, output, dicom_output=kind) == 0
        assert statuses(output) == [("ok", "")]
        assert infer(data, output, dicom_output=kind) == 0
        assert statuses(output) == [("kept", "")]
        assert [name for name in MASKS.values() if (output / name).exists()] == [path]
    assert infer(data, output) == 0
    assert statuses(output) == [("kept", "")]
    np.testing.assert_array_equal(nib.load(output / "scan_mask.nii.gz").get_fdata(), mask)


def test_results_of_other_options_are_refused_also_where_the_dicom_is_missing(data, tmp_path):
    assert infer(data, tmp_path / "out") == 0
    before = (tmp_path / "out" / "scan_mask.nii.gz").read_bytes()
    refused = infer(data, tmp_path / "out", dicom_output="seg", **{"foreground#polarity": "dark"})
    assert refused.startswith(f"error: {tmp_path / 'out'} holds results for scan that come from another image or from")
    assert (tmp_path / "out" / "scan_mask.nii.gz").read_bytes() == before
    assert not (tmp_path / "out" / "scan_mask.dcm").exists()


def test_a_source_that_permits_none_keeps_its_nifti_mask_and_says_why(tmp_path):
    folder = draw_series(tmp_path / "data" / "scan", FrameOfReferenceUID=None)
    for status in ("ok", "kept"):
        assert infer(folder, tmp_path / "out", dicom_output="seg") == 0
        assert statuses(tmp_path / "out") == [(status, "no DICOM seg: its source has no FrameOfReferenceUID")]
        assert (tmp_path / "out" / "scan_mask.nii.gz").is_file()
        assert not (tmp_path / "out" / "scan_mask.dcm").exists()
    assert infer(folder, tmp_path / "out", dicom_output="series") == 0
    assert statuses(tmp_path / "out") == [("ok", "")]


def test_pictures_are_no_dicom_and_a_line_says_so(tmp_path, caplog):
    hear(caplog)
    options = {**SMALL, "dataset_dir": draw_folder(tmp_path / "data", count=2), "output_dir": tmp_path / "out"}
    for status in ("ok", "kept"):
        assert call("inference", dicom_output="seg", logging_file=False, **options) == 0
        assert [row["status"] for row in read_summary(tmp_path / "out")] == [status] * 2
        assert "DICOM" not in str(statuses(tmp_path / "out"))
    assert "dicom_output has no effect on 2 images that are not DICOM" in caplog.messages
    assert not list((tmp_path / "out").glob("*.dcm"))


def test_results_are_no_images_wherever_they_lie(data, tmp_path):
    folder = draw_series(tmp_path / "data" / "scan")
    for kind in MASKS:
        assert infer(folder, folder / "results" / kind, dicom_output=kind) == 0
    assert [item["file"] for item in find_images(folder)] == ["scan"]
    # Beside the image, out of the folder of results, it is a mask.
    (folder / "results" / "series" / MASKS["series"]).rename(folder / MASKS["series"])
    (item,) = find_images(folder)
    assert (item["file"], item["label"]) == ("scan", str(folder / MASKS["series"]))


@pytest.mark.parametrize("workflow", ["inference", "evaluation"])
def test_a_wrong_value_gets_one_line(tmp_path, monkeypatch, workflow):
    monkeypatch.chdir(tmp_path)
    expected = 'error: dicom_output must be null, "seg" or "series", got dcm'
    assert call(workflow, dicom_output="dcm") == expected
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_a_line_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("monai_fusenet.results.dicom.find_spec", lambda name: None)
    assert call("inference", dicom_output="seg") == (
        "error: dicom_output seg needs highdicom; pip install 'monai-fusenet[dicom]'"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_distilled_bundle_has_the_option():
    distill, inference = (ConfigParser.load_config_file(CONFIGS / f"{name}.json") for name in ("distill", "inference"))
    config = student_config(distill, inference, {}, "weights")
    assert config["dicom_output"] is None
    assert config["writer"]["dicom_output"] == "@dicom_output"
