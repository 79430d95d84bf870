"""Two sites in NVFlare's simulator, by the commands of docs/federated.md: what they learn, and what leaves them."""

import importlib.util
import json
import re
import runpy
import shlex
import sys

import pytest
import torch
from bundle_tools import ROOT, draw_folder, read_summary
from document_tools import run_module
from federation_tools import OPTIONS, average, make_site, update, weights_of

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("nvflare") is None, reason="needs nvflare, in an environment of its own"
)
TEXT = (ROOT / "docs" / "federated.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    for line in block.replace("\\\n", "").splitlines()
]
SITES = {"site-1": 3, "site-2": 6}  # images
ROUNDS = 2
WORKSPACES = {"training": "federation", "distillation": "student"}


def run_command(words, monkeypatch, **options):
    """What `python FILE ...` or `monai-fusenet ...` does, in this process, with options beside those that it gives."""
    program, *words = words
    for name, value in options.items():
        words += [f"--{name}", str(value)]
    if program == "monai-fusenet":
        run_module("monai_fusenet", words)
    else:
        assert program == "python"
        monkeypatch.setattr(sys, "argv", words)
        runpy.run_path(words[0], run_name="__main__")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The repository's folders, two sites, and what both federations of the page leave."""
    from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
    from recording import Recorder

    folder = tmp_path_factory.mktemp("federation")
    for name in ("bundles", "configs", "federated"):
        (folder / name).symlink_to(ROOT / name)
    for site, count in SITES.items():
        draw_folder(folder / "data" / site, count, masks=False)
    initialize = FedAvgRecipe.__init__
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        for command in COMMANDS:
            if (match := re.search(r"job\.py (\w+)", command)) is None:
                continue
            recorder = Recorder(str(folder / "sent" / match[1]))

            def record(self, recorder=recorder, **options):
                initialize(self, **options)
                self.add_client_output_filter(recorder, tasks=["train"])

            monkeypatch.setattr(FedAvgRecipe, "__init__", record)
            run_command(shlex.split(command), monkeypatch, num_rounds=ROUNDS, **OPTIONS[match[1]])
    return folder


def learnt(folder, workflow):
    """The weights that a federation leaves, and those that all sites began with."""
    workspace = folder / "output" / WORKSPACES[workflow]
    path = workspace / ("model.pt" if workflow == "training" else "model/models/model.pt")
    return (torch.load(one, weights_only=True) for one in (path, workspace / "initial.pt"))


def test_the_page_has_the_commands_that_are_tested_here():
    assert [re.findall(r"job\.py (\w+)", line) for line in COMMANDS if "job.py" in line] == [[one] for one in OPTIONS]


@pytest.mark.parametrize("workflow", OPTIONS)
def test_weights_are_those_of_one_process_that_averages(workflow, folder, tmp_path):
    found, weights = learnt(folder, workflow)
    sites = [make_site(workflow, folder / "data" / site, tmp_path / site) for site in SITES]
    for name, value in weights_of(sites[0]).items():
        assert torch.equal(value, weights[name]), name
    begun = weights
    for _ in range(ROUNDS):
        weights = average([update(site, weights) for site in sites], tuple(SITES.values()))
    assert found.keys() == weights.keys()
    for name, value in weights.items():
        torch.testing.assert_close(found[name], value.to(found[name].dtype), rtol=1e-6, atol=1e-7, msg=name)
    assert any(not torch.allclose(found[name], begun[name], atol=1e-4) for name in begun)


@pytest.mark.parametrize("workflow", OPTIONS)
def test_weights_and_the_number_of_images_leave_a_site_and_nothing_else(workflow, folder):
    expected = {name: list(value.shape) for name, value in next(iter(learnt(folder, workflow))).items()}
    for site, count in SITES.items():
        lines = (folder / "sent" / workflow / f"{site}.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line) for line in lines] == [
            {
                "data": expected,
                "kind": "WEIGHTS",
                "meta": {"NUM_STEPS_CURRENT_ROUND": count},
                "__headers__": {"__content_type__": "DXO", "start_round": 0, "current_round": number},
            }
            for number in range(ROUNDS)
        ]


@pytest.mark.parametrize("workflow", OPTIONS)
def test_no_image_and_no_name_of_one_lies_at_the_server(workflow, folder):
    server = folder / "output" / WORKSPACES[workflow] / "federation" / "server"
    files = [path for path in server.rglob("*") if path.is_file()]
    assert {path.name for path in files} > {"FL_global_model.pt", "log.txt"}
    assert [path for path in files if b"scan0" in path.read_bytes() or b"PNG" in path.read_bytes()[:8]] == []


def test_a_job_holds_no_part_of_this_package(folder):
    """Which would hide the package that a site has installed."""
    assert [path.name for path in folder.rglob("custom/federated/*")] == ["client.py"] * 2 * (1 + len(SITES))
    assert not list(folder.rglob("custom/monai_fusenet"))


def test_what_was_learnt_makes_masks(folder, monkeypatch):
    monkeypatch.chdir(folder)
    commands = [line for line in COMMANDS if "job.py" not in line]
    for command, options in zip(commands, ({"network_def#features": 4, "working_size": [24, 24]}, {}), strict=True):
        run_command(shlex.split(command), monkeypatch, device="cpu", **options)
        rows = read_summary(folder / re.search(r"--output (\S+)", command)[1])
        assert [row["status"] for row in rows] == ["ok"] * SITES["site-1"]


REFUSED = [
    ({"batchsize": 2}, "unknown option batchsize; did you mean batch_size?"),
    ({"sites": "site-1"}, "sites must be a list of different names, as ['site-1','site-2'], got site-1"),
    ({"sites": "['a','a']"}, "sites must be a list of different names, as ['site-1','site-2'], got ['a', 'a']"),
    ({"output_dir": "out"}, "output_dir must hold {{site}}, for each site has its own, got out"),
    (
        {"workspace": "a b"},
        "workspace must be a path without blanks, at which NVFlare's simulator splits it, got {here}/a b",
    ),
    ({"num_rounds": 0}, "num_rounds must be a whole number of at least 1, got 0"),
    ({"local_epochs": 0.5}, "local_epochs must be a whole number of at least 1, got 0.5"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_what_cannot_begin_is_refused_in_one_line(options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["python", str(ROOT / "federated" / "job.py"), "training"]
    with pytest.raises(SystemExit) as caught:
        run_command(words, monkeypatch, **{"sites": ["a", "b"], **options})
    assert caught.value.code == "error: " + message.format(here=tmp_path)
    assert not list(tmp_path.iterdir())


def test_images_that_cannot_be_read_do_not_count(tmp_path):
    client = runpy.run_path(str(ROOT / "federated" / "client.py"))
    draw_folder(tmp_path / "data" / "north", 3, masks=False)
    (tmp_path / "data" / "north" / "images" / "scan1.png").write_bytes(b"no image")
    for workflow, name in (("training", "train"), ("distillation", "distill")):
        folders = {"dataset_dir": f"{tmp_path}/data/{{site}}", "output_dir": f"{tmp_path}/{workflow}/{{site}}"}
        site = client["make_site"]("north", [name, f"federated_{name}"], 1, {**OPTIONS[workflow], **folders})
        assert client["count_images"](site) == 2
        assert (tmp_path / workflow / "north").is_dir() == (workflow == "distillation")
