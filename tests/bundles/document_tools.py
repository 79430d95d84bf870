"""The commands and Python blocks of README and docs, and how each command is run in small."""

import argparse
import re
import runpy
import shlex
import subprocess
import sys
from unittest import mock

import nibabel as nib
import numpy as np
from bundle_tools import ENVIRONMENT, ROOT, draw_folder
from PIL import Image

PAGES = [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").rglob("*.md") if "measured" not in path.parts)]
WORKFLOWS = {"masks": "inference", "train": "training", "evaluate": "evaluation", "distill": "distillation"}

# What needs packages that are not here is run by the tests that have them, from the same pages.
ELSEWHERE = {
    r"ckpt_export|onnx_export|onnx_inference\.py": "tests/test_export_docs.py",
    r"federated/job\.py|output/federation|output/student/model": "tests/federated/test_simulator.py",
    r"deploy/app\.py": "tests/deploy/test_deploy.py",
    r"^curl|^monailabel|^mkdir|^echo|monai_fusenet\.label|monai-fusenet annotate": "tests/label/test_annotate_page.py",
    r"benchmarks\.(annotators|ohif_picture|page_picture)": "tests/label/test_annotate_page.py",
}

# What makes each workflow take a second; an option that the command itself gives stays as it gives it.
FITS = {"device": "cpu", "features": "4", "working_size": "[24,24]", "steps": "2", "min_clusters": "0", "workers": "0"}
STUDENT = {"student_def#features": "[4,4,4,4,4,4]", "student_size": "[32,32]", "teacher_seeds": "[]", "rounds": "1"}
SMALL = {
    "inference": FITS | {"inferer#progress": "False"},
    "evaluation": FITS | {"inferer#progress": "False"},
    "training": {name: FITS[name] for name in ("device", "features", "working_size", "min_clusters")}
    | {"max_epochs": "1", "batch_size": "2"},
    "distillation": FITS | STUDENT | {"inferer#progress": "False", "round_steps": "60"},
    None: {"device": "cpu"},  # a bundle that was distilled
}
INSTEAD = {"student_def": "student_def#features", "working_spacing": "working_size", "fit_steps": "steps"}


def blocks(page, language):
    """The blocks of a page in a language."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def documented_commands():
    """Each command of all pages once: those in blocks, and whole ones within a sentence."""
    found = {}
    for page in PAGES:
        lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]
        lines += [span for span in spans if re.match(r"(python -m benchmarks|monai-fusenet \w|python docs/)", span)]
        for line in lines:
            for part in line.split(" && "):
                found.setdefault(part, page)
    return list(found.items())


def runs_elsewhere(line):
    """The test that runs a command, where it is not one of this folder."""
    return next((test for pattern, test in ELSEWHERE.items() if re.search(pattern, line)), None)


class World:
    """A folder for each kind of image that commands take, and what earlier commands leave."""

    def __init__(self, folder):
        self.folder, self.done = folder, set()
        self.pictures = draw_folder(folder / "pictures", count=3)
        self.lungs = draw_folder(folder / "lungs", count=3)
        for path in self.lungs.rglob("*.png"):  # two of what pictures have one of
            pixels = np.asarray(Image.open(path))
            Image.fromarray(np.concatenate([pixels, pixels[:, ::-1]], axis=1)).save(path)
        self.samples = folder / "samples"
        self.accepted = folder / "accepted"
        self.accepted.mkdir()
        Image.open(self.pictures / "masks" / "scan0.png").save(self.accepted / "scan0.png")  # of two, one is held out
        self.volumes, self.sequences = folder / "volumes", folder / "sequences"
        grid = np.meshgrid(*(np.linspace(-1, 1, side) for side in (17, 19, 8)), indexing="ij")
        inside = sum((axis / width) ** 2 for axis, width in zip(grid, (0.5, 0.6, 0.7), strict=True)) < 1
        for case in range(2):
            noise = np.random.default_rng(case).normal(-50, 12, inside.shape)
            image = nib.Nifti1Image((noise + 200 * inside).astype(np.int16), np.diag([1.5, 1.5, 4, 1]))
            for place in ("volumes/case{}", "sequences/case{}_t1", "sequences/case{}_t2"):
                path = folder / f"{place.format(case)}.nii.gz"
                path.parent.mkdir(exist_ok=True)
                nib.save(image, path)

    def places(self, line):
        """What stands for the folders and files that a command names, by the option that names them."""
        kinds = {"output/samples": "samples", "sequences": "sequences", "volume": "volumes", "distill.*lung": "lungs"}
        kind = next((kind for pattern, kind in kinds.items() if re.search(pattern, line)), "pictures")
        earlier = self.folder / "output"
        return {
            **dict.fromkeys(("dataset_dir", "folder"), getattr(self, kind)),
            **dict.fromkeys(("accepted_dir", "accepted"), self.lungs / "masks" if kind == "lungs" else self.accepted),
            **dict.fromkeys(("predictions_dir", "predictions"), earlier / "inference"),
            "checkpoint": earlier / "training" / "model.pt",
            "bundle": earlier / "distillation" / "model",
        }

    def run_once(self, module, words):
        """Runs what no other command has run but for its output folder, which pages name as it suits them."""
        key = module, re.sub(r" --output(_dir)? \S+", "", " ".join(words))
        if key not in self.done:
            run_module(module, words)
            self.done.add(key)

    def prepare(self, monkeypatch):
        """Runs what others need: a training, an inference and a distillation."""
        enter(self.folder, monkeypatch)
        for line in ("train FOLDER", "masks FOLDER", "distill FOLDER", "samples samples"):
            run(f"monai-fusenet {line}", self)


def enter(folder, monkeypatch):
    """Makes a folder look like the repository, and goes there."""
    for name in ("bundles", "configs", "docs", "monai_fusenet", "benchmarks"):
        (folder / name).symlink_to(ROOT / name)
    monkeypatch.chdir(folder)


def run(line, world):
    """Runs a command in the current folder, in this process where that is possible.

    Raises:
        SystemExit: with another status than 0, or with a message.
        ValueError: nobody knows how to run it.
    """
    words = shlex.split(line)
    if words[:2] == ["pip", "install"]:
        check_install(words[2:])
    elif words[0] == "pytest":
        assert all((ROOT / word).exists() for word in words[1:])
    elif words[0] == "sphinx-build":
        assert line in map(str.strip, (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines())
    elif words[0] == "monai-fusenet":
        world.run_once("monai_fusenet", small_program(words[1:], world.places(line)))
    elif words[:4] == ["python", "-m", "monai.bundle", "run"]:
        world.run_once("monai.bundle", small_bundle(words[3:], world.places(line)))
    elif words[0] == "torchrun":
        start = words.index("run")
        module = [sys.executable, "-m", "torch.distributed.run", *words[1:start]]
        module[module.index("--nproc_per_node") + 1] = "1"  # tests of ranks start two
        subprocess.run([*module, *small_bundle(words[start:], world.places(line))], env=ENVIRONMENT, check=True)
    elif words[:2] == ["python", "-m"] and words[2].startswith("benchmarks"):
        parse_benchmark(words[2], words[3:])
    elif words[:2] == ["python", "-m"]:
        run_module(words[2], words[3:])
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file()
    else:
        raise ValueError(f"no test runs this command: {line}")


def run_module(name, arguments):
    """What `python -m name` does, without the time that a new process takes to import all."""
    with (
        mock.patch.object(sys, "argv", [name, *arguments]),
        mock.patch("monai_fusenet.bundle.startup.end_on_signals"),  # this process keeps its own handlers
    ):
        try:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            if end.code not in (None, 0):
                raise


def check_install(words):
    """Whether extras and files of requirements are there; `.ci/run` installs them."""
    installed = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for name in re.findall(r"\.\[(\w+)\]", " ".join(words)):
        assert f'".[{name}]"' in installed
    for place, word in enumerate(words):
        if word == "-r":
            assert (ROOT / words[place + 1]).is_file()
        if word.startswith("torch=="):
            assert word in installed


def small_bundle(words, places):
    """The words after `python -m monai.bundle`, with small images and networks."""
    run_id = None if words[1].startswith("--") else words[1]
    flags = words[1:] if run_id is None else words[2:]
    config = flags[flags.index("--config_file") + 1]
    if config.startswith("output/"):
        flags[flags.index(config)] = str(places["bundle"] / "configs" / "inference.json")
    head = ["run"] if run_id is None else ["run", run_id]
    return [*head, *small_flags(flags, places, run_id)]


def small_program(words, places):
    """The words after `monai-fusenet`, with small images and networks."""
    command, *rest = words
    if command not in WORKFLOWS:
        return words
    if rest and not rest[0].startswith("-"):
        rest = [str(places["folder"]), *rest[1:]]
    return [command, *small_flags(rest, places, None if "--bundle" in rest else WORKFLOWS[command])]


def small_flags(flags, places, workflow):
    """Flags of a command with folders that are there, and with what makes a workflow small."""
    flags, given = list(flags), set()
    for place, flag in enumerate(flags):
        if flag.startswith("--"):
            name = flag[2:].replace("-", "_")
            given |= {name, INSTEAD.get(name, name)}
            if name in places:
                flags[place + 1] = str(places[name])
    text = " ".join(flags)
    volume = re.search("volume", text)
    given |= {"steps"} if "feedforward" in text else set()
    for name, value in SMALL[workflow].items():
        if name not in given:
            flags += [f"--{name}", "[12,12,12]" if volume and name == "working_size" else value]
    return flags


class ParsedError(Exception):
    """The program has understood its arguments."""


def parse_benchmark(name, arguments):
    """Starts a benchmark up to the point where its arguments are understood: the rest takes minutes."""
    parse = argparse.ArgumentParser.parse_args

    def parse_args(self, *given):
        parse(self, *given)
        raise ParsedError

    name = f"{name}.__main__" if (ROOT / name.replace(".", "/")).is_dir() else name
    with mock.patch.object(argparse.ArgumentParser, "parse_args", parse_args):
        try:
            run_module(name, arguments)
        except ParsedError:
            return
    assert name == "benchmarks.cases"  # it has JSON for arguments, and has run
