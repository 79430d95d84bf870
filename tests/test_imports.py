"""What networks, losses, engines and inferers need, and what importing them costs."""

import subprocess
import sys
from pathlib import Path

# What torch, MONAI, Ignite and numpy do without.
ABSENT = (
    "itk, sklearn, matplotlib, nibabel, skimage, scipy, PIL, threadpoolctl, tensorboard, tensorboardX, pydicom, pandas"
)

HIDDEN = """
import sys

class Absent:
    '''Finds nothing of packages that are not to be there.'''

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in absent else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

absent = sys.argv[1].split(", ")
sys.meta_path[:] = [Absent(finder) for finder in sys.meta_path]
sys.path.append(sys.argv[2])
"""

FIT = """
import torch
import monai_fusenet.engines, monai_fusenet.inferers, monai_fusenet.losses, monai_fusenet.networks
from toy_method import ToyLoss, draw_toy_network, mirror

images = torch.rand(3, 3, 11, 9)
inferer = monai_fusenet.inferers.PerImageInferer(
    steps=2, at_once=2, max_refits=0, loss_function=ToyLoss(), augmentation=mirror
)
scores = inferer(images, draw_toy_network())
print(*scores.shape, *(record.steps for record in inferer.record), bool(scores.isfinite().all()))
print(sorted(set(absent) & set(sys.modules)))
"""

BROUGHT = """
import sys
import torch, monai, monai.data, monai.engines, monai.inferers, monai.transforms, ignite
before = set(sys.modules)
import monai_fusenet.engines, monai_fusenet.inferers, monai_fusenet.losses, monai_fusenet.networks
absent = sys.argv[1].split(", ")
print(sorted(name for name in set(sys.modules) - before if name.partition(".")[0] in absent))
"""

PICTURE = """
import tempfile
import numpy as np
import monai_fusenet.bundle
from monai_fusenet.data import load_image
from PIL import Image
with tempfile.NamedTemporaryFile(suffix=".png") as file:
    Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)).save(file.name)
    print(*load_image(file.name).shape, *sorted(set(absent) & set(sys.modules)))
"""

SECONDS = """
import time
import torch, monai
start = time.perf_counter()
import monai_fusenet.losses
print(time.perf_counter() - start)
"""


def printed_by(code, absent=ABSENT):
    command = [sys.executable, "-c", code, absent, str(Path(__file__).parent)]
    run = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_a_method_is_fitted_where_only_torch_monai_ignite_and_numpy_are_installed():
    assert printed_by(HIDDEN + FIT) == ["3 5 11 9 2 2 2 True", "[]"]


def test_pictures_go_through_the_bundle_without_itk():
    assert printed_by(HIDDEN + PICTURE, absent="itk") == ["1 3 4"]


def test_imports_bring_no_package_that_monai_has_not_brought():
    assert printed_by(BROUGHT) == ["[]"]


def test_losses_are_imported_at_once():
    # The fastest of a few, as other processes disturb.
    assert any(float(printed_by(SECONDS)[0]) < 0.05 for _ in range(5))
