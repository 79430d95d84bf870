"""The bundle itself, and one that was distilled, unchanged, in the app that MONAI Label has for bundles."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from bundle_tools import BUNDLE, ENVIRONMENT, SMALL_STUDENT, call, draw_image
from label_tools import AFFINE, ROOT, dice
from PIL import Image

# That app imports torchvision, whose wheel lacks its operators beside a CPU build of torch; their names suffice.
SCRIPT = """
import json, os, sys
import torch

library = torch.library.Library("torchvision", "DEF")
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from monailabel.config import settings

app_dir, studies = sys.argv[1:]
settings.MONAI_LABEL_APP_DIR, settings.MONAI_LABEL_STUDIES = app_dir, studies
settings.MONAI_LABEL_APP_CONF = {"models": "fusenet_segmentation,distilled", "zoo_source": "local", "sam2": "false"}
settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD = False
settings.MONAI_LABEL_SESSION_PATH = os.path.join(app_dir, "sessions")
from fastapi.testclient import TestClient
from monailabel.app import app

client = TestClient(app)
models = client.get("/info/").json()["models"]
files = {}
for model in models:
    for image in ("a", "b", "c"):
        answer = client.post(f"/infer/{model}?image={image}&output=image", data={"params": '{"device": "cpu"}'})
        assert answer.status_code == 200, answer.text
        name = f"{model}_{image}"
        files[name] = os.path.join(app_dir, name + (".nii.gz" if image == "c" else ".png"))
        with open(files[name], "wb") as file:
            file.write(answer.content)
print(json.dumps({"models": list(models), "files": files}))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    installed = Path(sys.prefix) / "monailabel" / "sample-apps" / "monaibundle"
    shutil.copytree(installed, folder / "app")
    shutil.copytree(BUNDLE, folder / "app" / "model" / "fusenet_segmentation")
    (folder / "studies").mkdir()
    pixels, _ = draw_image(61, 83)
    Image.fromarray(pixels).save(folder / "studies" / "a.png")
    Image.fromarray(pixels).save(folder / "studies" / "b.jpg", quality=95)
    nib.save(nib.Nifti1Image(pixels[..., 0].T.astype(np.float32), AFFINE), folder / "studies" / "c.nii.gz")
    distilled = folder / "distillation"
    assert call("distillation", dataset_dir=folder / "studies", output_dir=distilled, **SMALL_STUDENT) == 0
    shutil.copytree(distilled / "model", folder / "app" / "model" / "distilled")
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder / "app"), str(folder / "studies")],
        env={**ENVIRONMENT, "PYTHONPATH": str(ROOT), "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return {**json.loads(process.stdout.splitlines()[-1]), "distilled": distilled / "masks"}


def test_it_is_listed(answers):
    assert sorted(answers["models"]) == ["distilled", "fusenet_segmentation"]


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_picture_gets_a_mask_on_its_grid(answers, name):
    mask = np.asarray(Image.open(answers["files"][f"fusenet_segmentation_{name}"]))
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) == {0, 1}
    assert dice(mask > 0, draw_image(61, 83)[1] > 0) > 0.9


def test_a_nifti_slice_gets_a_mask_on_its_grid(answers):
    written = nib.load(answers["files"]["fusenet_segmentation_c"])
    assert np.allclose(written.affine, AFFINE)
    assert dice(np.asarray(written.dataobj)[..., 0] > 0, draw_image(61, 83)[1].T > 0) > 0.9


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_distilled_bundle_gives_a_picture_the_mask_of_its_own_inference(answers, name):
    mask = np.asarray(Image.open(answers["files"][f"distilled_{name}"]))
    assert mask.dtype == np.uint8
    assert np.array_equal(mask * 255, np.asarray(Image.open(answers["distilled"] / f"{name}_mask.png")))


def test_a_distilled_bundle_gives_a_nifti_slice_the_mask_of_its_own_inference(answers):
    theirs, ours = (
        np.asarray(nib.load(file).dataobj).squeeze()
        for file in (answers["files"]["distilled_c"], answers["distilled"] / "c_mask.nii.gz")
    )
    assert np.array_equal(theirs, ours)
