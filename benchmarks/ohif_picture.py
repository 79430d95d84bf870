"""OHIF as README shows it: `python -m benchmarks.ohif_picture docs/ohif.png` (Linux; needs playwright and chromium).

Starts Orthanc with a drawn CT, and this package's server on it; opens the study in the OHIF that MONAI Label brings, at
1280 x 800 pixels in a headless browser, asks for a mask, and keeps what is seen. Orthanc, of Debian's packages orthanc
and orthanc-dicomweb, listens on all addresses: run it in a network of its own, by
`unshare -n sh -c 'ip link set lo up && python -m benchmarks.ohif_picture docs/ohif.png'`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from playwright.sync_api import Page, sync_playwright
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

PLUGIN = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"
ORTHANC = "http://127.0.0.1:8042"
SIZE = {"width": 1280, "height": 800}
MILLISECONDS = 120_000
SOFTWARE_RENDERING = ["--no-sandbox", "--use-gl=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ohif_picture", description=__doc__)
    parser.add_argument("picture", type=Path)
    picture = parser.parse_args().picture
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    with tempfile.TemporaryDirectory() as scratch, orthanc(Path(scratch)), sync_playwright() as tool:
        study = send_ct(*draw_body())
        command = [sys.executable, "-m", "monai_fusenet.label", "--studies", f"{ORTHANC}/dicom-web", "--port", port]
        server = subprocess.Popen([*command, "--app", f"{scratch}/app", "--preset", "ct"])
        browser = tool.chromium.launch(executable_path=shutil.which("chromium"), args=SOFTWARE_RENDERING)
        try:
            page = browser.new_page(viewport=SIZE)
            open_study(page, f"http://127.0.0.1:{port}", study)
            ask(page, "Auto-Segmentation", "fusenet_mask")
            page.wait_for_timeout(5000)  # until what says so is gone
            page.screenshot(path=picture)
        finally:
            browser.close()
            server.terminate()
            server.wait()


@contextmanager
def orthanc(folder: Path) -> Iterator[None]:
    """A running Orthanc with DICOMweb, whose files lie in a folder."""
    options: dict[str, Any] = {"StorageDirectory": f"{folder}/store", "IndexDirectory": f"{folder}/store"}
    options |= {"Plugins": [PLUGIN], "HttpPort": 8042, "DicomServerEnabled": False, "AuthenticationEnabled": False}
    (folder / "orthanc.json").write_text(json.dumps(options))
    with (folder / "orthanc.log").open("w") as log:
        process = subprocess.Popen(["Orthanc", str(folder / "orthanc.json")], stdout=log, stderr=log)
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{ORTHANC}/system", timeout=5).close()
                break
            except OSError:
                time.sleep(0.5)
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)


def draw_body() -> tuple[np.ndarray, tuple[float, float, float]]:
    """A body of 40 HU with two kidneys of 180 HU in air: (slices, rows, columns), and the spacing in mm."""
    z, y, x = np.mgrid[:40, :160, :192].astype(np.float32)
    units = np.where(((x - 96) / 86) ** 2 + ((y - 80) / 62) ** 2 < 1, 40.0, -1000.0)
    for side in (-1, 1):
        bent = (x - 96 - side * (38 + (z - 20) / 4)) / 13
        kidney = bent**2 + ((y - 96) / 19) ** 2 + ((z - 20) / 15) ** 2 < 1
        units[kidney] = 180
    spine = ((x - 96) / 15) ** 2 + ((y - 118) / 13) ** 2 < 1
    units[spine] = 320
    return units + np.random.default_rng(0).normal(0, 9, units.shape), (3.0, 2.0, 2.0)


def send_ct(units: np.ndarray, spacing: tuple[float, float, float]) -> str:
    """Sends a CT to Orthanc; returns the UID of its study."""
    uids = {name: generate_uid() for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")}
    for index, plane in enumerate(np.round(units + 1024).clip(0).astype("<u2")):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset = Dataset()
        dataset.update(
            {
                **uids,
                "SOPClassUID": CTImageStorage,
                "SOPInstanceUID": generate_uid(),
                "Modality": "CT",
                "PatientID": "drawn",
                "PatientName": "Drawn^Body",
                "StudyDate": "20260101",
                "StudyTime": "120000",
                "SeriesDescription": "drawn body",
                "SeriesNumber": 1,
                "InstanceNumber": index + 1,
                "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
                "ImagePositionPatient": [0, 0, index * spacing[0]],
                "PixelSpacing": list(spacing[1:]),
                "SliceThickness": spacing[0],
                "SamplesPerPixel": 1,
                "PhotometricInterpretation": "MONOCHROME2",
                "Rows": plane.shape[0],
                "Columns": plane.shape[1],
                "BitsAllocated": 16,
                "BitsStored": 16,
                "HighBit": 15,
                "PixelRepresentation": 0,
                "RescaleIntercept": -1024,
                "RescaleSlope": 1,
                "WindowCenter": 60,
                "WindowWidth": 500,
            }
        )
        dataset.PixelData = plane.tobytes()
        dataset["PixelData"].VR = "OW"
        dataset.file_meta = meta
        with tempfile.NamedTemporaryFile(suffix=".dcm") as file:
            pydicom.dcmwrite(file.name, dataset, write_like_original=False)
            request = urllib.request.Request(f"{ORTHANC}/instances", Path(file.name).read_bytes())
            urllib.request.urlopen(request, timeout=60).close()
    return str(uids["StudyInstanceUID"])


def open_study(page: Page, server: str, study: str) -> None:
    """Opens a study in OHIF's mode for MONAI Label, and connects its panel with the server."""
    for _ in range(100):
        try:
            page.goto(f"{server}/ohif/monai-label?StudyInstanceUIDs={study}")
            break
        except Exception:
            page.wait_for_timeout(500)  # it is not served yet
    page.get_by_text("Confirm and Hide").click(timeout=MILLISECONDS)
    page.locator("canvas").nth(2).wait_for(timeout=MILLISECONDS)
    page.locator(".actionInput").first.fill(f"{server}/")
    with page.expect_response(f"{server}/info/", timeout=MILLISECONDS):
        page.locator("button:near(.actionInput)").first.click()
    page.get_by_text("Auto-Segmentation").wait_for(timeout=MILLISECONDS)
    page.wait_for_timeout(2000)  # until all slices are drawn


def ask(page: Page, section: str, model: str) -> bytes:
    """Runs a model in a section of the panel; returns the answer, which OHIF has drawn then."""
    models = page.locator("select:visible", has_text=model).first
    if not models.count():
        page.get_by_text(section).click()
        models.wait_for(timeout=MILLISECONDS)
    if models.input_value() != model:  # or OHIF would forget the points
        models.select_option(model)
    with page.expect_response(lambda one: f"/infer/{model}" in one.url, timeout=MILLISECONDS) as answered:
        models.locator("xpath=following::button[1]").click()
    content = answered.value.body()
    page.wait_for_timeout(3000)
    return content


if __name__ == "__main__":
    main()
