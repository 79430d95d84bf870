"""What docs/export.md shows, works: on the shipped bundle, and on a distilled network."""

import ast
import re
import runpy
import shlex
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from bundle_tools import ENVIRONMENT, ROOT, SMALL, call, draw_folder
from monai.bundle import ConfigParser
from monai.utils import version_geq
from PIL import Image

TEXT = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]
SIZE = (32, 48)
STUDENT = {
    **SMALL,
    "student_def#features": [8, 8, 8, 8, 8, 8],
    "student_size": list(SIZE),
    "teacher_seeds": [],
    "rounds": 1,
    "round_steps": 40,
    "batch_size": 3,
    "objects": 1,
}

pytestmark = pytest.mark.skipif(
    version_geq(torch.__version__, "2.9.0") is False, reason="docs/export.md describes the exporters of torch 2.9"
)


def run_module(name, arguments, monkeypatch):
    """What `python -m name` does, without the time that a new process takes to import all."""
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_module(name, run_name="__main__")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The repository's folders, and what a distillation leaves."""
    folder = tmp_path_factory.mktemp("export")
    for name in ("bundles", "configs", "docs"):
        (folder / name).symlink_to(ROOT / name)
    draw_folder(folder / "data", count=6)
    options = {"dataset_dir": folder / "data", "output_dir": folder / "output" / "distillation", **STUDENT}
    assert call("distillation", **options) == 0
    return folder


@pytest.fixture(scope="module")
def exported(folder):
    """The folder, with what MONAI's commands leave in it."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        for command in COMMANDS:
            python, *words = shlex.split(command)
            assert python == "python"
            if words[0] == "-m":
                run_module(words[1], words[2:], monkeypatch)
    return folder


def networks(folder):
    """Both networks in torch, by the name of the file, and the size that each is exported at."""
    places = {"fusenet": "bundles/fusenet_segmentation", "student": "output/distillation/model"}
    for name, size in (("fusenet", (128, 128)), ("student", SIZE)):
        bundle = folder / places[name]
        config = ConfigParser.load_config_file(bundle / "configs" / "inference.json")
        network = ConfigParser(config).get_parsed_content("network_def").eval()
        network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
        yield name, network, size


def assert_equal_scores(actual, expected):
    torch.testing.assert_close(torch.as_tensor(actual), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_the_document_has_what_is_tested_here():
    assert len(EXAMPLES) == 2
    assert [re.findall(r"--filepath (\S+)", line) for line in COMMANDS] == [
        *(["fusenet.ts"], ["student.ts"], ["fusenet.onnx"], ["student.onnx"], []),
    ]


def test_torchscript_of_both(exported):
    for name, network, size in networks(exported):
        script = torch.jit.load(exported / f"{name}.ts")
        for shape in ((1, 3, *size), (2, 3, 48, 64)):
            image = torch.rand(shape)
            assert_equal_scores(script(image), network(image).detach())


def test_onnx_of_both(exported):
    for name, network, size in networks(exported):
        session = onnxruntime.InferenceSession(exported / f"{name}.onnx")
        image = torch.rand(1, 3, *size)
        (scores,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
        assert_equal_scores(scores, network(image).detach())


def test_examples_for_any_size(folder, tmp_path, monkeypatch):
    (tmp_path / "bundles").symlink_to(ROOT / "bundles")
    monkeypatch.chdir(tmp_path)
    for example in EXAMPLES:
        exec(compile(example, "export.md", "exec"), {})
    network = next(networks(folder))[1]
    session, program = onnxruntime.InferenceSession("fusenet.onnx"), torch.export.load("fusenet.pt2").module()
    for shape in ((1, 3, 40, 56), (3, 3, 33, 71), (1, 3, 128, 128)):
        image = torch.rand(shape)
        expected = network(image).detach()
        assert_equal_scores(program(image).detach(), expected)
        assert_equal_scores(session.run(None, {"image": image.numpy()})[0], expected)


def imported_by(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]


def test_the_example_makes_the_masks_of_the_bundle_without_torch(exported, monkeypatch):
    script = ROOT / "docs" / "onnx_inference.py"
    assert not {"torch", "monai", "monai_fusenet"} & set(imported_by(script))
    monkeypatch.chdir(exported)
    (command,) = [line for line in COMMANDS if "onnx_inference.py" in line]
    model = exported / "output" / "distillation" / "model" / "configs" / "inference.json"
    assert (
        call("inference", config=model, dataset_dir=exported / "data", output_dir=exported / "new", device="cpu") == 0
    )
    for index in (0, 5):
        (exported / "scan.png").write_bytes((exported / f"data/images/scan{index}.png").read_bytes())
        arguments = [sys.executable, *shlex.split(command)[1:]]
        subprocess.run(arguments, check=True, env=ENVIRONMENT, timeout=60)
        with (
            Image.open("mask.png") as made,
            Image.open(f"new/scan{index}_mask.png") as expected,
        ):
            assert made.size == expected.size
            made, expected = np.asarray(made), np.asarray(expected)
        assert set(np.unique(made)) == {0, 255}
        assert (made != expected).sum() <= 0.01 * (expected > 0).sum()  # pixels of the contour
