"""What the bundle's README shows, works: each command and example, on small images and with small networks.

Commands of torchrun go into one run of two processes, which saves the time of importing; others run in this process.
"""

import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from unittest import mock

import pytest
import torch
from bundle_tools import BUNDLE, CONFIG_OF, ENVIRONMENT, ROOT, SMALL, SMALL_STUDENT, SMALL_TRAINING, draw_folder
from federation_tools import TRAINING
from monai.utils import version_geq
from test_ranks_workflows import JOBS, TORCHRUN, write_jobs

from monai_fusenet.bundle import faults

README = (BUNDLE / "docs" / "README.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SHARED = [shlex.split(line) for line in COMMANDS if line.startswith("torchrun ")]
ALONE = [shlex.split(line) for line in COMMANDS if line.startswith("python -m monai.bundle ")]
FIGURE = re.compile(r"\b\d\.\d{3}\b")
TINY = {"training": SMALL_TRAINING, "inference": SMALL, "evaluation": SMALL, "distillation": SMALL_STUDENT}


def options_of(words):
    """`--name value ...` as a dictionary."""
    return {name.removeprefix("--"): value for name, value in zip(words[::2], words[1::2], strict=True)}


def tiny(run_id, stated):
    """What a command is given beside its own options so that it takes no time."""
    ends = {name.split("#")[-1] for name in stated}
    return {name: value for name, value in TINY[run_id].items() if name.split("#")[-1] not in ends}


def run_alone(words, monkeypatch):
    """What `python -m monai.bundle ...` does; returns the exit status."""
    monkeypatch.setattr(sys, "argv", ["monai.bundle", *words])
    try:
        with (
            mock.patch.object(faults, "is_program", return_value=True),
            mock.patch("monai_fusenet.bundle.startup.end_on_signals"),  # this process keeps its own handlers
        ):
            runpy.run_module("monai.bundle", run_name="__main__", alter_sys=False)
    except SystemExit as status:
        return status.code or 0
    return 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of the bundle, with images beside its own folders."""
    folder = tmp_path_factory.mktemp("zoo") / "fusenet_segmentation"
    shutil.copytree(BUNDLE, folder, ignore=shutil.ignore_patterns("output", "FOLDER", "ACCEPTED"))
    draw_folder(folder / "FOLDER", count=4)
    (folder / "ACCEPTED").mkdir()
    for name in ("scan0.png", "scan2.png"):
        shutil.copyfile(folder / "FOLDER" / "masks" / name, folder / "ACCEPTED" / name)
    return folder


@pytest.fixture(scope="module")
def statuses(folder):
    """The exit status, or the message, of each command that needs one process, in the order of the README."""
    done = []
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        for words in ALONE:
            words = words[3:]
            if words[0] == "onnx_export" and not version_geq(torch.__version__, "2.9.0"):
                done.append(0)
                continue
            if words[0] == "run" and words[1] in TINY:
                more = tiny(words[1], options_of(words[2:]))
                words = [*words, *(word for name, value in more.items() for word in (f"--{name}", str(value)))]
            elif words[0] == "run":  # the student's bundle
                words = [*words, "--device", "cpu"]
            elif words[1] == "network_def" and "output/training/model.pt" in words:  # of a tiny network
                words = [*words, "--network_def#features", "4"]
            done.append(run_alone(words, monkeypatch))
    return done


def test_there_are_commands_for_every_workflow():
    runs = [words[words.index("run") + 1] for words in [*ALONE, *SHARED] if "run" in words]
    assert {*CONFIG_OF} <= {*runs}
    assert {words[words.index("run") + 1] for words in SHARED} == {*CONFIG_OF}
    assert len(ALONE) + len(SHARED) == len(COMMANDS)
    assert len(EXAMPLES) == 1


def test_each_command_ends_well(folder, statuses):
    assert dict(zip((" ".join(words) for words in ALONE), statuses, strict=True)) == {
        " ".join(words): 0 for words in ALONE
    }
    for path in re.findall(r"(?:--filepath|--output_dir) (output/\S+)", "\n".join(map(" ".join, ALONE))):
        if path.endswith(".onnx") and not version_geq(torch.__version__, "2.9.0"):
            continue
        assert (folder / path).exists(), path


def test_what_is_exported_is_the_network_that_was_trained(folder, statuses):
    weights = torch.load(folder / "output" / "training" / "model.pt", weights_only=True)
    script = torch.jit.load(folder / "output" / "fusenet.ts").state_dict()
    assert script.keys() == weights.keys()
    for name, value in weights.items():
        assert torch.equal(script[name], value), name


def test_each_command_of_several_processes_ends_well(folder, tmp_path):
    jobs = []
    for words in SHARED:
        run_id = words[words.index("run") + 1]
        options = options_of(words[words.index("run") + 2 :])
        names = options.pop("config_file")
        first, *overlays = re.findall(r"[\w/]+\.json", names)
        assert first == f"configs/{CONFIG_OF[run_id]}"
        places = {name: str(folder / options[name]) for name in ("dataset_dir", "output_dir")}
        jobs.append((run_id, [folder / name for name in overlays], {**TINY[run_id], **options, **places}))
    jobs_folder = write_jobs(tmp_path / "jobs", *jobs)
    process = subprocess.run(
        [sys.executable, *map(str, (*TORCHRUN, JOBS, jobs_folder))],
        env=ENVIRONMENT,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    for rank in (0, 1):
        assert json.loads((jobs_folder / f"statuses{rank}.json").read_text(encoding="utf-8")) == [0] * len(jobs)


def test_the_example_of_a_federation(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (example,) = EXAMPLES
    options = {**TRAINING, "dataset_dir": "FOLDER", "output_dir": "output/site"}
    example, count = re.subn(r"train_kwargs=\{.*?\}", f"train_kwargs={options}", example)
    assert count == 1
    exec(compile(example, "README.md", "exec"), {})
    assert (folder / "output" / "site").is_dir()


def test_files_that_are_named_exist():
    for word in re.findall(r"\b(?:configs|models)/[\w./]+\.(?:json|pt|conf)", README):
        assert (BUNDLE / word).is_file() or f"output/distillation/model/{word}" in README, word
    for word in re.findall(r"`((?:docs|benchmarks)/[\w./]+)`", README):
        assert (ROOT / word).is_file() or (BUNDLE / word).is_file(), word


def test_figures_are_those_of_the_results():
    section = README.split("## Performance")[1].split("## Inputs and outputs")[0]
    measured = "\n".join(
        path.read_text(encoding="utf-8")
        for path in (ROOT / "docs" / "results.md", ROOT / "benchmarks" / "results" / "speed.md")
    )
    figures = FIGURE.findall(section)
    assert len(figures) > 50
    assert [figure for figure in figures if figure not in measured] == []


def test_the_sections_of_the_zoo_s_template_are_there():
    titles = re.findall(r"^##+ (.+)$", README, re.MULTILINE)
    wanted = ["Authors", "Tags", "Model description", "Data", "Performance", "System configuration", "Limitations"]
    assert [title for title in wanted if title not in titles] == []
