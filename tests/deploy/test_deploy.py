"""The MONAI Deploy application on drawn series: its mask is the bundle's own, voxel by voxel."""

import importlib.util
import json
import shlex
import subprocess
import sys

import nibabel as nib
import numpy as np
import pydicom
import pytest
from bundle_tools import BUNDLE, ROOT, SMALL_STUDENT, draw_folder, draw_image, export_torchscript, run
from dicom_tools import write_ct_series, write_dicom_file
from pydicom.uid import ComputedRadiographyImageStorage

from monai_fusenet.bundle.merged import write_merged

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("monai.deploy") is None, reason="needs monai-deploy-app-sdk, in an environment of its own"
)
SHAPE = (24, 36, 40)  # slices, rows, columns
# What a file of an X-ray holds beside its pixels.
OF_XRAY = {"Modality": "CR", "PatientName": "a", "PatientBirthDate": "", "PatientSex": "", "AccessionNumber": ""}
OF_XRAY |= {"StudyID": "", "StudyDate": "20200101", "StudyTime": "101010", "ReferringPhysicianName": ""}
OF_XRAY |= {"InstanceNumber": 1, "Manufacturer": "m", "PixelSpacing": [0.7, 0.7], "SeriesDescription": "thorax"}


def deploy(bundle, series, results):
    """Runs the application as a hospital does, by the command of the page."""
    text = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("python deploy/app.py"))
    places = {"output/deploy/bundle": bundle, "FOLDER": series, "output/deploy/results": results}
    places |= {"python": sys.executable, "deploy/app.py": ROOT / "deploy" / "app.py"}
    command = [places.get(word, word) for word in shlex.split(line)]
    return subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", timeout=300, cwd=results.parent
    )


def segmented(results):
    """The DICOM SEG that was written."""
    (path,) = results.glob("*.dcm")
    return pydicom.dcmread(path)


def run_bundle(bundle, series, results):
    """Runs a bundle by MONAI's command, and returns the mask (columns, rows, slices)."""
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json"]
    command += ["--dataset_dir", str(series), "--output_dir", str(results)]
    subprocess.run(command, check=True, capture_output=True, timeout=300, cwd=bundle)
    (path,) = results.glob("*_mask.nii.gz")
    return np.asarray(nib.load(path).dataobj)


@pytest.fixture(scope="module")
def xray(tmp_path_factory):
    """A folder with a drawn X-ray of unequal sides."""
    folder = tmp_path_factory.mktemp("xray") / "series"
    pixels = draw_image(90, 121, seed=1)[0][..., 0].astype(np.uint16) * 16
    write_dicom_file(folder / "xray.dcm", pixels, ComputedRadiographyImageStorage, **OF_XRAY)
    return folder


def test_an_oblique_ct_of_unequal_spacings(tmp_path):
    z, y, x = np.mgrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    organ = ((x - 22) / 11) ** 2 + ((y - 16) / 9) ** 2 + ((z - 12) / 7) ** 2 < 1
    units = np.where(organ, 220, 40) + np.random.default_rng(0).integers(-6, 7, SHAPE)
    write_ct_series(tmp_path / "series", ((units + 1024) // 2).astype(np.int16), spacing=(0.9, 0.5))
    write_merged(tmp_path / "bundle", ["volume", "ct"], {"features": 8})
    process = deploy(tmp_path / "bundle", tmp_path / "series", tmp_path / "results")
    assert process.returncode == 0, process.stderr[-3000:]
    own = run_bundle(tmp_path / "bundle", tmp_path / "series", tmp_path / "own").T > 0
    assert 2 * (own & organ).sum() / (own.sum() + organ.sum()) > 0.9
    found = segmented(tmp_path / "results")
    frames = np.atleast_3d(found.pixel_array).reshape(-1, *SHAPE[1:])
    planes = [frame.PlanePositionSequence[0].ImagePositionPatient for frame in found.PerFrameFunctionalGroupsSequence]
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in (tmp_path / "series").glob("*.dcm")]
    index_of = {tuple(one.ImagePositionPatient): one.InstanceNumber - 1 for one in headers}
    mask = np.zeros(SHAPE, dtype=bool)
    for plane, frame in zip(planes, frames, strict=True):  # empty ones are left out
        mask[index_of[tuple(plane)]] = frame > 0
    assert np.array_equal(mask, own)
    assert {one.ReferencedSOPInstanceUID for one in found.ReferencedSeriesSequence[0].ReferencedInstanceSequence} <= {
        one.SOPInstanceUID for one in headers
    }


def test_an_xray(xray, tmp_path):
    write_merged(tmp_path / "bundle", ["lung"], {"network_def#features": 16})
    process = deploy(tmp_path / "bundle", xray, tmp_path / "results")
    assert process.returncode == 0, process.stderr[-3000:]
    own = run_bundle(tmp_path / "bundle", xray, tmp_path / "own")
    assert np.array_equal(segmented(tmp_path / "results").pixel_array, own.squeeze().T)


def test_a_distilled_bundle_as_a_folder_and_as_torchscript(xray, tmp_path):
    folder = draw_folder(tmp_path / "drawn")
    options = {"dataset_dir": folder, "output_dir": tmp_path / "out"}
    process = run("distillation", cwd=tmp_path, **SMALL_STUDENT, **options)
    assert process.returncode == 0, process.stderr
    model, exported = tmp_path / "out" / "model", tmp_path / "exported" / "student.ts"
    exported.parent.mkdir()
    export_torchscript(model, exported)
    own = run_bundle(model, xray, tmp_path / "own").squeeze().T
    for name, bundle in (("folder", model), ("torchscript", exported)):
        process = deploy(bundle, xray, tmp_path / name)
        assert process.returncode == 0, process.stderr[-3000:]
        assert np.array_equal(segmented(tmp_path / name).pixel_array, own), name


def test_a_fit_from_torchscript_is_refused_in_one_line(xray, tmp_path):
    exported = tmp_path / "fusenet.ts"
    export_torchscript(BUNDLE, exported)
    process = deploy(exported, xray, tmp_path / "results")
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1].startswith(
        "error: PerImageInferer fits a network to each image and needs the module itself, got TorchScriptModel: "
    )


def refused(bundle, series, results):
    """What is said of a series that is refused, in one line."""
    process = deploy(bundle, series, results)
    assert process.returncode == 1
    assert not list(results.glob("*.dcm"))
    return process.stderr.splitlines()[-1]


def test_series_that_are_no_volume_are_refused_in_one_line(tmp_path):
    series, two = tmp_path / "series", tmp_path / "two"
    paths = write_ct_series(series, np.zeros((6, 36, 40), np.int16) + np.arange(40, dtype=np.int16))
    write_ct_series(two / "first", np.zeros((3, 36, 40), np.int16))
    write_ct_series(two / "second", np.zeros((3, 36, 40), np.int16))
    paths[2].unlink()
    write_merged(tmp_path / "bundle", ["volume", "ct"])
    results = tmp_path / "results"
    assert refused(tmp_path / "bundle", series, results).startswith(
        "error: the slices of the series are not evenly spaced, 2.5 to 5 mm apart: some are missing, "
    )
    assert refused(tmp_path / "bundle", two, results) == (
        "error: -i must hold one DICOM series, got 2: give each a folder of its own"
    )
    assert refused(tmp_path, series, results) == (
        f"error: -m must be a bundle, or one as TorchScript, but {tmp_path} is none"
    )


def test_a_folder_without_dicom_is_refused_in_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    process = deploy(BUNDLE, tmp_path / "empty", tmp_path / "results")
    assert process.returncode == 1
    assert "No study loaded from path" in process.stderr.splitlines()[-1]


def test_the_config_of_a_merged_bundle_names_its_overlays(tmp_path):
    write_merged(tmp_path / "bundle", ["volume", "ct"])
    config = json.loads((tmp_path / "bundle" / "configs" / "inference.json").read_text("utf-8"))
    assert (config["spatial_dims"], config["window"]) == (3, "abdomen")
