"""Draws studies, starts the real server on loopback, and talks to it as clients do."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nibabel as nib
import numpy as np
from bundle_tools import ENVIRONMENT, draw_image
from PIL import Image

ROOT = Path(__file__).parents[2]
AFFINE = np.array(
    [[0, -1.5, 0, 10], [2, 0, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1]], dtype=float
)  # axes swapped, one turned
# One dark object, fitted with a narrow network and learnt by another one on a coarse grid, for time.
SMALL = """network_def#features: 16
foreground#objects: 1
foreground#polarity: dark
student_def:
  _target_: monai.networks.nets.BasicUNet
  spatial_dims: "@spatial_dims"
  in_channels: "@in_channels"
  out_channels: 1
  features: [8, 8, 8, 8, 8, 8]
student_size: "$[32] * @spatial_dims"
rounds: 2
"""


def draw_studies(folder):
    """Pictures in several formats, a volume and a damaged file."""
    for index, name in enumerate(("a.png", "b.jpg", "c.JPEG", "d.BMP")):
        pixels, _ = picture(name)
        Image.fromarray(pixels).save(folder / name, format="JPEG" if index in (1, 2) else None, quality=95)
    volume, _ = draw_volume()
    nib.save(nib.Nifti1Image(volume, AFFINE), folder / "volume.nii.gz")
    (folder / "damaged.png").write_bytes(b"no picture")
    return folder


def picture(name):
    """The drawn picture of a name and its mask, bool."""
    index = "abcd".index(name[0])
    pixels, mask = draw_image(90 + 6 * index, 121 - 4 * index, seed=index)
    return pixels, mask > 0


def draw_volume():
    """A dark ellipsoid on bright ground, (X, Y, Z) float32, and its mask; all sides differ."""
    x, y, z = np.mgrid[:40, :36, :24]
    mask = ((x - 22) / 11) ** 2 + ((y - 16) / 9) ** 2 + ((z - 12) / 7) ** 2 < 1
    volume = np.where(mask, 60.0, 200.0) + np.random.default_rng(0).normal(0, 6, mask.shape)
    return volume.astype(np.float32), mask


def middle(mask):
    """The centre of a mask as a client gives it: [x, y] for pictures, [i, j, k] for volumes."""
    centre = np.argwhere(mask).mean(axis=0).round().astype(int).tolist()
    return centre[::-1] if mask.ndim == 2 else centre


def dice(mask, truth):
    return 2 * (mask & truth).sum() / (mask.sum() + truth.sum())


class Server:
    """A server in a process of its own, from entering the block to leaving it."""

    def __init__(self, studies, app, preset=None, command=None):
        self.studies, self.app = Path(studies), Path(app)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        overlay = self.app / "small.yaml"
        overlay.write_text(SMALL)
        self.preset = preset or str(overlay)
        self.command = command or [
            *(sys.executable, "-m", "monai_fusenet.label", "--studies", str(studies), "--app", str(app)),
            *("--preset", self.preset, "--port", str(self.port)),
        ]

    def __enter__(self):
        home = self.app / "home"
        home.mkdir(exist_ok=True)
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = {**ENVIRONMENT, "HOME": str(home), "PYTHONPATH": path}
        self.log = self.app / "server.log"
        with self.log.open("w") as log:
            command = [part.replace("PORT", str(self.port)) for part in self.command]
            self.process = subprocess.Popen(
                command, cwd=self.app, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + 120
        while self.get("/info/")[0] != 200:
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise RuntimeError(f"the server did not start:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.5)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(timeout=60)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def client(self):
        """A client of MONAI Label's own, with the system's temporary folder as by default."""
        from monailabel.client import MONAILabelClient

        return MONAILabelClient(self.url)

    def get(self, selector, data=None):
        """Status and JSON of a plain request: GET, or POST where there is data."""
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(self.url + selector, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, None

    def wait_for(self, task):
        """The status of a background task (`batch/infer`, `train`) once it has ended."""
        for _ in range(600):
            _, status = self.get(f"/{task}/" if task == "train" else f"/{task}")
            if status["status"] not in ("SUBMITTED", "RUNNING"):
                return status
            time.sleep(0.5)
        raise RuntimeError(f"{task} has not ended: {status}")

    def ask(self, model, image, params, output="image", **files):
        """Status and content of a request as web pages send it; files by the field's name."""
        import requests

        opened = {field: (Path(file).name, Path(file).read_bytes()) for field, file in files.items()}
        answer = requests.post(
            f"{self.url}/infer/{model}",
            params={"image": image, "output": output},
            data={"params": json.dumps(params)},
            files=opened or None,
            timeout=300,
        )
        return answer.status_code, answer.content

    def infer(self, model, image, params=None, **files):
        """The label map as an array, and what is told beside it."""
        file, told = self.client().infer(model, image, params or {}, **files)
        try:
            array = np.asarray(nib.load(file).dataobj) if file.endswith(".nii.gz") else np.asarray(Image.open(file))
        finally:
            os.remove(file)
        return array, told
