"""The commands of README and docs that need monailabel or a browser: servers, requests, pictures."""

import re
import shlex
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
from document_tools import documented_commands, parse_benchmark, run_module, runs_elsewhere
from label_tools import Server, draw_studies, picture
from PIL import Image

LINES = [line for line, _ in documented_commands() if runs_elsewhere(line) == "tests/label/test_annotate_page.py"]
REQUESTS = [line for line in LINES if line.startswith("curl")]
PICTURES = [line for line in LINES if "benchmarks" in line]
SERVING = [line for line in LINES if line not in REQUESTS + PICTURES]


def test_the_pages_have_what_is_tested_here():
    assert len(REQUESTS) == 3
    assert len(PICTURES) > 2
    assert len(SERVING) > 5


def test_requests(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("answers")
    # Of its own: a batch leaves masks of all images.
    with Server(draw_studies(tmp_path_factory.mktemp("studies")), tmp_path_factory.mktemp("app")) as server:
        for line in REQUESTS:
            line = line.replace("http://127.0.0.1:8000", server.url).replace("case_1", "a")
            subprocess.run([*shlex.split(line), "--fail", "--silent"], cwd=tmp_path, check=True, timeout=300)
            server.wait_for("batch/infer")
    mask = np.asarray(Image.open(tmp_path / "mask.png"))
    assert mask.shape == picture("a.png")[0].shape[:2]
    assert set(np.unique(mask)) <= {0, 1}
    assert mask[80, 120] == 1


def test_commands_that_serve(studies, tmp_path, monkeypatch):
    import monailabel.main  # where it is installed

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for line in SERVING:
        if re.match("mkdir|echo", line):
            subprocess.run(["bash", "-c", line], check=True)
            continue
        words = [str(studies) if word == "FOLDER" else word for word in shlex.split(line)]
        with mock.patch("monailabel.main.Main.action_start_server") as served:
            if words[0] == "monailabel":
                with mock.patch.object(sys, "argv", words):
                    monailabel.main.Main().run()
            elif words[0] == "monai-fusenet":
                run_module("monai_fusenet", words[1:])
            else:
                run_module(words[2], words[3:])
        (arguments,) = served.call_args.args
        assert arguments.studies == (str(studies) if "FOLDER" in line else "http://127.0.0.1:8042/dicom-web")
        assert ["preset", re.search(r"preset (\w+)", line)[1]] in arguments.conf


@pytest.mark.parametrize("line", PICTURES)
def test_arguments_of_pictures_and_measurements(line):
    parse_benchmark(shlex.split(line)[2], shlex.split(line)[3:])
