"""MONAI Label's own endpoint suites, which its wheel carries, against this app.

They look for an app and studies beside themselves, so a copy of them is laid out as they expect it.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from label_tools import AFFINE, ROOT, draw_volume

from monai_fusenet.label.__main__ import write_app

SUITES = {"info": 1, "datastore": 11, "session": 3, "activelearning": 2, "logs": 3, "batch_infer": 4}  # and their tests


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suites")
    site_packages = Path(importlib.util.find_spec("monailabel").origin).parents[1]
    shutil.copytree(site_packages / "tests" / "unit" / "endpoints", folder / "tests" / "unit" / "endpoints")
    for package in ("tests", "tests/unit"):
        (folder / package / "__init__.py").touch()
    write_app(folder / "sample-apps" / "radiology")
    studies = folder / "tests" / "data" / "dataset" / "local" / "spleen"
    (studies / "labels" / "final").mkdir(parents=True)
    volume, mask = draw_volume()
    for number in (3, 8, 9, 10):
        nib.save(nib.Nifti1Image(volume + number, AFFINE), studies / f"spleen_{number}.nii.gz")
    for number in (3, 9):
        nib.save(
            nib.Nifti1Image(mask.astype(np.uint8), AFFINE), studies / "labels" / "final" / f"spleen_{number}.nii.gz"
        )
    return folder


def test_suites(laid_out):
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    process = subprocess.run(
        [sys.executable, "-m", "unittest", *(f"tests.unit.endpoints.test_{suite}" for suite in SUITES)],
        cwd=laid_out,
        env={**os.environ, "HOME": str(laid_out), "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    assert f"Ran {sum(SUITES.values())} tests" in process.stderr
