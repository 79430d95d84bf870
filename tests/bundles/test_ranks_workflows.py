"""Two processes share a workflow, and leave what one leaves."""

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from bundle_tools import (
    CONFIGS,
    ENVIRONMENT,
    SMALL,
    SMALL_TRAINING,
    call,
    draw_folder,
    hear,
    read_summary,
)
from test_distillation_workflow import SMALL_STUDENT
from test_training import assert_same_weights, weights

OVERLAY = CONFIGS / "multi_gpu_train.json"
EVALUATION_OVERLAY = CONFIGS / "multi_gpu_evaluate.json"
JOBS = Path(__file__).with_name("rank_jobs.py")
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
HALTED = {**SMALL, "inferer#steps": 20}
LONG_TRAINING = {**SMALL_TRAINING, "max_epochs": 40, "val_interval": 1000}


def write_jobs(folder, *jobs):
    """Writes what `rank_jobs.py` is to do: (run id, overlays, options) each."""
    folder.mkdir()
    listed = [{"run_id": run_id, "overlays": overlays, "options": options} for run_id, overlays, options in jobs]
    (folder / "jobs.json").write_text(json.dumps(listed, default=str), encoding="utf-8")
    return folder


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(*command, **variables):
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        env={**ENVIRONMENT, **variables},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def wait_for(condition, *processes, seconds=120):
    """Waits until something is so while processes run."""
    end = time.monotonic() + seconds
    while not condition():
        assert all(process.poll() is None for process in processes), "it was over too early"
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.02)


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def without_costs(rows):
    return [{key: value for key, value in row.items() if key not in ("seconds", "peak_mib")} for row in rows]


def read_table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def assert_same_results(first, second):
    """Equal files to the last byte, and summaries that are equal but for time and memory."""
    assert files(first) == files(second)
    for name in files(first):
        if name.endswith(".png"):
            assert (first / name).read_bytes() == (second / name).read_bytes(), name
    assert without_costs(read_summary(first)) == without_costs(read_summary(second))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Holds `data`, four images with masks, of which the second is broken, and `good`, the same without that one."""
    base = tmp_path_factory.mktemp("ranks")
    draw_folder(base / "data", count=4)
    (base / "data" / "masks" / "scan1.png").unlink()
    (base / "data" / "images" / "scan1.png").unlink()
    shutil.copytree(base / "data", base / "good")
    (base / "data" / "images" / "scan1.png").write_bytes(b"no image")
    return base


@pytest.fixture(scope="module")
def killed_training(base):
    """What the survivor of two processes said; `killed` holds what they left.

    They are started without torchrun, which would end the other at once.
    """
    options = {**LONG_TRAINING, "dataset_dir": base / "good", "output_dir": base / "killed"}
    jobs = write_jobs(base / "killed_jobs", ("training", [OVERLAY], options))
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    pair = [start(JOBS, jobs, RANK=rank, LOCAL_RANK=rank, **shared) for rank in "01"]
    wait_for((base / "killed" / "checkpoint.pt").is_file, *pair)
    pair[1].kill()
    pair[0].communicate(timeout=60)
    pair[1].communicate(timeout=60)
    return json.loads((jobs / "statuses0.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def killed_inference(base):
    """The rows that two processes had written when one was killed, which made torchrun end the other."""
    draw_folder(base / "many", count=7, masks=False)
    options = {**HALTED, "dataset_dir": base / "many", "output_dir": base / "halted"}
    jobs = write_jobs(base / "halted_jobs", ("inference", [], options))
    process = start(*TORCHRUN, JOBS, jobs)
    parts = [base / "halted" / f"summary.part{rank}.csv" for rank in (0, 1)]
    wait_for(lambda: all(part.is_file() and len(read_table(part)) > 0 for part in parts), process)
    os.kill(int((jobs / "pid1").read_text(encoding="utf-8")), signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == 1
    return [row for part in parts for row in read_table(part)]


@pytest.fixture(scope="module")
def statuses(base, killed_training, killed_inference):
    """All workflows in two processes; the exit statuses of both for each, and what they said."""
    data, good = {"dataset_dir": base / "data"}, {"dataset_dir": base / "good"}
    training, evaluation = {**SMALL_TRAINING, **good}, {**SMALL, **good, "seeds": [0, 1]}
    assert call("training", **training, output_dir=base / "one" / "training") == 0
    shutil.copytree(base / "one" / "training", base / "continued")
    shutil.copytree(base / "halted", base / "halted again")
    halted = {**HALTED, "dataset_dir": base / "many", "output_dir": base / "halted again"}
    jobs = {
        "no overlay": ("training", [], {**training, "output_dir": base / "never"}),
        "no folder": ("inference", [], {**SMALL, "dataset_dir": base / "nowhere", "output_dir": base / "never"}),
        "inference": ("inference", [], {**SMALL, **data, "output_dir": base / "two" / "inference"}),
        "inference again": ("inference", [], {**SMALL, **data, "output_dir": base / "two" / "inference"}),
        "halted": ("inference", [], halted),
        "evaluation": ("evaluation", [], {**evaluation, "output_dir": base / "two" / "evaluation"}),
        "evaluation, overlay": (
            "evaluation",
            [EVALUATION_OVERLAY],
            {**evaluation, "output_dir": base / "two" / "evaluation, overlay"},
        ),
        "inference, overlay": (
            "inference",
            [EVALUATION_OVERLAY],
            {**SMALL, **good, "output_dir": base / "two" / "inference, overlay"},
        ),
        "distillation": ("distillation", [], {**SMALL_STUDENT, **good, "output_dir": base / "two" / "distillation"}),
        "training": ("training", [OVERLAY], {**training, "output_dir": base / "two" / "training"}),
        "training with a bad image": ("training", [OVERLAY], {**SMALL_TRAINING, **data, "output_dir": base / "left"}),
        "long": ("training", [OVERLAY], {**LONG_TRAINING, **good, "output_dir": base / "whole"}),
        "resumed": ("training", [OVERLAY], {**LONG_TRAINING, **good, "output_dir": base / "killed"}),
        "continued": ("training", [OVERLAY], {**training, "max_epochs": 3, "output_dir": base / "continued"}),
    }
    folder = write_jobs(base / "jobs", *jobs.values())
    process = start(*TORCHRUN, JOBS, folder)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    both = [json.loads((folder / f"statuses{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)]
    return {**dict(zip(jobs, zip(*both, strict=True), strict=True)), "said": said}


def test_the_overlay_alone_changes_no_weight(base, statuses, tmp_path):
    options = {**SMALL_TRAINING, "dataset_dir": base / "good", "output_dir": tmp_path}
    assert call("training", OVERLAY, **options) == 0
    assert not torch.distributed.is_initialized()
    assert_same_weights(weights(tmp_path), weights(base / "one" / "training"))


def test_without_the_overlay_one_line_names_it(base, statuses):
    first, second = sorted(map(str, statuses["no overlay"]))
    assert first == "1"
    assert second == (
        "error: train.json alone trains in one process, but 2 were started; add the overlay: "
        f"--config_file \"['{CONFIGS / 'train.json'}','{OVERLAY}']\""
    )


def test_an_error_of_all_is_said_by_one(base, statuses):
    first, second = sorted(map(str, statuses["no folder"]))
    assert first == "1"
    assert second.startswith("error: ")
    assert "nowhere" in second
    assert not (base / "never").exists()


def test_two_processes_leave_what_one_leaves_of_a_training(base, statuses):
    assert statuses["training"] == (0, 0)
    names = [
        {"events" if name.startswith("events") else name for name in files(base / count / "training")}
        for count in ("one", "two")
    ]
    assert names[0] == names[1] == {"checkpoint.pt", "events", "model.pt", "panel.png"}
    assert len(files(base / "two" / "training")) == 4
    one, two = (weights(base / count / "training") for count in ("one", "two"))
    assert {name: value.shape for name, value in one.items()} == {name: value.shape for name, value in two.items()}
    assert any(not torch.equal(one[name], two[name]) for name in one)  # twice as many images in a step


def test_weights_of_two_processes_serve_one(base, statuses, tmp_path):
    options = {key: value for key, value in SMALL.items() if key != "inferer#steps"}
    options |= {"dataset_dir": base / "good", "checkpoint": base / "two" / "training" / "model.pt"}
    assert call("inference", "feedforward.yaml", **options, output_dir=tmp_path) == 0


def test_what_one_rank_cannot_load_all_leave_out(base, statuses):
    assert statuses["training with a bad image"] == (2, 2)
    assert statuses["said"].count("left out images/scan1.png: cannot read") == 1
    assert (base / "left" / "model.pt").is_file()


def test_a_process_that_is_killed_ends_the_other_and_nothing_is_lost(base, killed_training, statuses):
    assert killed_training == ["error: another process of this run has ended, and this one cannot go on alone"]
    assert statuses["long"] == statuses["resumed"] == (0, 0)
    assert statuses["said"].count("resuming after epoch") == 2
    assert_same_weights(weights(base / "killed"), weights(base / "whole"))


def test_another_number_of_processes_continues_and_says_so(base, statuses, caplog, tmp_path):
    assert statuses["continued"] == (0, 0)
    line = "trained in 1 process so far, from here on in 2: the weights will differ from both"
    assert statuses["said"].count(line) == 1
    assert torch.load(base / "continued" / "checkpoint.pt", weights_only=True)["epoch"] == 3

    shutil.copytree(base / "continued", tmp_path / "back")
    hear(caplog)
    options = {**SMALL_TRAINING, "max_epochs": 5, "dataset_dir": base / "good", "output_dir": tmp_path / "back"}
    assert call("training", **options, logging_file=False) == 0
    assert any("trained in 2 processes so far, from here on in 1:" in message for message in caplog.messages)
    state = torch.load(tmp_path / "back" / "checkpoint.pt", weights_only=True)
    assert (state["epoch"], state["iteration"]) == (5, 10)  # three images in batches of two


def test_two_processes_infer_as_one(base, statuses):
    assert statuses["inference"] == statuses["inference again"] == (2, 2)  # the image that fails is one rank's only
    assert statuses["said"].count("images/scan1.png failed: cannot read") == 2  # once in each run
    assert "3 images done, 1 failed" in statuses["said"]
    options = {**SMALL, "dataset_dir": base / "data", "output_dir": base / "one" / "inference"}
    assert [call("inference", **options) for _ in range(2)] == [2, 2]
    assert_same_results(base / "one" / "inference", base / "two" / "inference")
    assert [(row["file"], row["status"]) for row in read_summary(base / "two" / "inference")] == [
        ("images/scan0.png", "kept"),
        ("images/scan1.png", "failed"),
        ("images/scan2.png", "kept"),
        ("images/scan3.png", "kept"),
    ]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_rank_costs_no_row(base, killed_inference, statuses, processes):
    assert 2 <= len({row["file"] for row in killed_inference}) < 7
    folder = base / ("halted" if processes == 1 else "halted again")
    if processes == 1:
        assert call("inference", **HALTED, dataset_dir=base / "many", output_dir=folder) == 0
    else:
        assert statuses["halted"] == (0, 0)
    rows = {row["file"]: row for row in read_summary(folder)}
    assert list(rows) == [f"images/scan{index}.png" for index in range(7)]
    for row in killed_inference:
        assert rows[row["file"]] == {**row, "status": "kept"}
    assert not list(folder.glob("summary.part*"))


def test_two_processes_evaluate_as_one(base, statuses):
    options = {**SMALL, "dataset_dir": base / "good", "output_dir": base / "one" / "evaluation", "seeds": [0, 1]}
    assert call("evaluation", **options) == 0
    one = base / "one" / "evaluation"
    for run in ("evaluation", "evaluation, overlay"):
        assert statuses[run] == (0, 0)
        two = base / "two" / run
        assert files(one) == files(two)
        for seed in ("seed_0", "seed_1"):
            assert_same_results(one / seed, two / seed)
        assert without_costs(read_table(one / "scores.csv")) == without_costs(read_table(two / "scores.csv"))


def test_the_overlay_of_the_evaluation_serves_inference(base, statuses, tmp_path):
    assert statuses["inference, overlay"] == (0, 0)
    assert call("inference", **SMALL, dataset_dir=base / "good", output_dir=tmp_path) == 0
    assert_same_results(tmp_path, base / "two" / "inference, overlay")


def test_the_overlay_of_the_evaluation_changes_nothing_in_one_process(base, statuses, tmp_path):
    options = {**SMALL, "dataset_dir": base / "good", "output_dir": tmp_path, "seeds": [0, 1]}
    assert call("evaluation", EVALUATION_OVERLAY, **options) == 0
    assert without_costs(read_table(tmp_path / "scores.csv")) == without_costs(
        read_table(base / "two" / "evaluation" / "scores.csv")
    )


def test_two_processes_distil_as_one(base, statuses):
    assert statuses["distillation"] == (0, 0)
    options = {**SMALL_STUDENT, "dataset_dir": base / "good", "output_dir": base / "one" / "distillation"}
    assert call("distillation", **options) == 0
    one, two = (base / count / "distillation" for count in ("one", "two"))
    assert files(one) == files(two)
    for folder in ("teacher/seed_0", "teacher/classical", "masks"):
        assert_same_results(one / folder, two / folder)
    assert_same_weights(*(weights(folder / "model" / "models") for folder in (one, two)))
