"""Faults of the machine, produced for real: full disks, killed processes, signals, files and memory that go."""

import csv
import os
import random
import resource
import signal
import subprocess
import time
from contextlib import contextmanager, suppress

import pytest
from bundle_tools import ENVIRONMENT, SMALL, SMALL_TRAINING, call, command, draw_folder, hear, last_line, read_summary
from PIL import Image
from test_distillation_workflow import SMALL_STUDENT
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from monai_fusenet.bundle import Interrupted
from monai_fusenet.data import SeededCacheDataset, reading
from monai_fusenet.evaluation import loading
from monai_fusenet.inferers import PerImageInferer, per_image

OPTIONS = {"inference": SMALL, "training": SMALL_TRAINING, "distillation": SMALL_STUDENT, "evaluation": SMALL}
AGAIN = "what is finished is kept, run the same command again to go on"


def work(workflow, folder, output, **options):
    """Runs a workflow in this process alone, where tests see what happens, unless there are to be workers."""
    alone = {} if workflow == "training" else {"workers": 0}
    return call(workflow, dataset_dir=folder, output_dir=output, **{**OPTIONS[workflow], **alone, **options})


def states(output):
    return [row["status"] for row in read_summary(output)]


def hidden(folder):
    return [path for path in folder.rglob(".*") if path.is_file()]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_folder(tmp_path_factory.mktemp("faults") / "data")


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A folder of twelve images of equal size."""
    folder = tmp_path_factory.mktemp("many")
    source = draw_folder(tmp_path_factory.mktemp("source"), count=1, masks=False) / "images" / "scan0.png"
    for index in range(12):
        with Image.open(source) as image:
            image.rotate(30 * index).save(folder / f"scan{index:02}.png")
    return folder


@pytest.fixture
def during_fits(monkeypatch):
    """Lets something happen at the beginning of a fit, given by its number, counted from 1."""

    def plan(number, event):
        genuine, fits = PerImageInferer.__call__, []

        def fit(self, *args, **kwargs):
            fits.append(args)
            if len(fits) == number:
                event()
            return genuine(self, *args, **kwargs)

        monkeypatch.setattr(PerImageInferer, "__call__", fit)
        return fits

    return plan


# Disks.


@contextmanager
def file_size_limit(size):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("workflow", "limit", "file"),
    [
        ("inference", 12_000, "{out}/scan0_panel.png"),
        ("training", 12_000, "{out}/checkpoint.pt"),
        ("distillation", 60_000, "{out}/rounds/1/checkpoint.pt"),
    ],
)
def test_files_may_not_be_so_large(data, tmp_path, workflow, limit, file, during_fits):
    fits = during_fits(99, None)
    with file_size_limit(limit):
        status = work(workflow, data, tmp_path / "out")
    path = tmp_path / file.format(out="out")
    assert status == (
        f"error: cannot write {path.name} into {path.parent}: File too large; raise the limit on the size of files, or "
        f"choose another folder; {AGAIN}"
    )
    assert len(fits) == {"inference": 1, "training": 0, "distillation": 3}[workflow]
    assert hidden(tmp_path) == []
    assert not path.exists()
    assert work(workflow, data, tmp_path / "out") == 0


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 72 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=72k", "none", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs to be allowed to mount a disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(disk):
    with suppress(OSError), (disk / "ballast").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_disk_that_becomes_full(many, small_disk, workers, during_fits):
    output = small_disk / "out"
    fits = during_fits(99, None)
    status = work("inference", many, output, workers=workers)
    assert status.startswith("error: cannot write ")
    assert status.endswith(
        f" into {output}: No space left on device; free space there, or choose another folder; {AGAIN}"
    )
    finished = len(list(output.glob("*_panel.png")))
    assert 0 < finished < 12
    if workers == 0:  # those of workers are not seen here
        assert finished <= len(fits) < 12
    assert len(hidden(small_disk)) < max(1, workers)  # a worker may have been ended as it wrote

    fill(small_disk)
    assert work("inference", many, output) == f"error: output_dir cannot be written: {output} (No space left on device)"

    subprocess.run(["mount", "-o", "remount,size=9m", str(small_disk)], check=True)
    assert work("inference", many, output) == 0
    assert sorted(states(output)) == ["kept"] * finished + ["ok"] * (12 - finished)


def test_a_disk_that_becomes_read_only(data, small_disk, during_fits):
    output = small_disk / "out"
    fits = during_fits(2, lambda: subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True))
    assert work("inference", data, output) == (
        f"error: cannot write scan1_panel.png into {output}: Read-only file system; make the folder writable, or "
        f"choose another folder; {AGAIN}"
    )
    assert len(fits) == 2
    assert work("inference", data, output) == (f"error: output_dir cannot be written: {output} (Read-only file system)")
    assert states(output) == ["ok"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_becomes_read_only(data, tmp_path, during_fits):
    output = tmp_path / "out"
    during_fits(2, lambda: output.chmod(0o555))
    status = work("inference", data, output)
    output.chmod(0o755)
    assert status.startswith(f"error: cannot write scan1_panel.png into {output}: Permission denied; make the folder")
    assert states(output) == ["ok"]


# Files.


def test_a_file_that_vanishes_fails_alone(tmp_path, during_fits):
    folder = draw_folder(tmp_path / "data")
    during_fits(1, (folder / "images" / "scan1.png").unlink)
    assert work("inference", folder, tmp_path / "out") == 2
    assert states(tmp_path / "out") == ["ok", "failed", "ok"]
    assert "no such file or folder" in read_summary(tmp_path / "out")[1]["message"]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_changes_while_it_is_fitted_is_done_by_the_next_run(tmp_path, during_fits, workers):
    folder = draw_folder(tmp_path / "data")
    path, other = folder / "images" / "scan1.png", (folder / "images" / "scan2.png").read_bytes()
    during_fits(2, lambda: path.write_bytes(other))
    assert work("inference", folder, tmp_path / "out", num_workers=workers) == 2
    assert states(tmp_path / "out") == ["ok", "failed", "ok"]
    assert read_summary(tmp_path / "out")[1]["message"] == "the file has changed since it was read; run again"
    assert work("inference", folder, tmp_path / "out") == 0
    assert states(tmp_path / "out") == ["kept", "ok", "kept"]


# Memory.


def test_a_smaller_fit_where_memory_does_not_suffice(data, tmp_path, monkeypatch):
    genuine = per_image.draw_views

    def draw(augmentation, image, size, seed):
        if min(size) > 50:
            raise MemoryError
        return genuine(augmentation, image, size, seed)

    monkeypatch.setattr(per_image, "draw_views", draw)
    assert work("inference", data, tmp_path / "out", working_size=[64, 80]) == 0
    assert states(tmp_path / "out") == ["ok"] * 3
    for row in read_summary(tmp_path / "out"):
        assert "fitted at 45 x 56, as memory did not suffice for 64 x 80" in row["message"]


# Workers that load images.


@pytest.fixture
def deadly(monkeypatch):
    """Makes a function kill the process that calls it with certain arguments, unless that is the main one."""
    main_process = os.getpid()

    def plan(owner, name, meant):
        genuine = getattr(owner, name)

        def load(*args, **kwargs):
            if os.getpid() != main_process and meant(args):
                os.kill(os.getpid(), signal.SIGKILL)
            return genuine(*args, **kwargs)

        monkeypatch.setattr(owner, name, load)

    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.5,))  # seconds between looks
    return plan


@pytest.mark.parametrize("kind", ["num_workers", "workers"])
def test_an_image_that_kills_whoever_loads_it_fails_alone(data, tmp_path, deadly, caplog, kind):
    deadly(reading, "load_image", lambda args: "scan1" in str(args[0]))
    hear(caplog)
    assert work("inference", data, tmp_path / "out", logging_file=False, **{kind: 2}) == 2
    assert states(tmp_path / "out") == ["ok", "failed", "ok"]
    done, says = {
        "num_workers": ("loaded it", "a process that loads images was killed; another one goes on"),
        "workers": ("worked on it", "a process that works on images was killed; the others go on"),
    }[kind]
    reason = f"the process that {done} was killed, twice; perhaps memory does not suffice"
    assert read_summary(tmp_path / "out")[1]["message"] == reason
    assert says in caplog.messages
    assert work("inference", data, tmp_path / "out", workers=0) == 0


def test_an_image_that_kills_whoever_scores_it_is_not_scored(data, tmp_path, deadly):
    deadly(loading, "load_image", lambda args: "scan1" in str(args[0]))
    assert work("evaluation", data, tmp_path / "out", workers=2) == 2
    reason = "not scored: the process that worked on it was killed, twice; perhaps memory does not suffice"
    assert [row["message"] for row in read_summary(tmp_path / "out")] == ["", reason, ""]


def masks_of(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*.png") if "panel" not in path.name}


def test_any_number_of_workers_gives_the_same_files(many, data, tmp_path):
    for workers in (1, 2, 4):
        assert work("inference", many, tmp_path / f"masks{workers}", workers=workers) == 0
        assert work("evaluation", data, tmp_path / f"scores{workers}", workers=workers) == 0
    for workers in (2, 4):
        assert masks_of(tmp_path / f"masks{workers}") == masks_of(tmp_path / "masks1")
        rows = [read_summary(tmp_path / f"masks{number}") for number in (1, workers)]
        assert [[row["file"], row["mask_fraction"], row["fingerprint"]] for row in rows[0]] == [
            [row["file"], row["mask_fraction"], row["fingerprint"]] for row in rows[1]
        ]
        scores = [scores_without_time(tmp_path / f"scores{number}") for number in (1, workers)]
        assert scores[0] == scores[1]


def scores_without_time(folder):
    with (folder / "scores.csv").open(encoding="utf-8") as file:
        return [{**row, "seconds": "", "peak_mib": ""} for row in csv.DictReader(file)]


def test_a_training_whose_worker_dies_says_so(data, tmp_path, deadly):
    deadly(SeededCacheDataset, "_transform", lambda args: True)
    assert work("training", data, tmp_path / "out", num_workers=1) == (
        "error: a process that loads images was killed, perhaps as memory did not suffice; what is finished is kept, "
        "run the same command again to go on, with fewer --num_workers"
    )
    assert work("training", data, tmp_path / "out", num_workers=0) == 0


# Signals.


def interrupt():
    raise Interrupted(130)


@pytest.mark.parametrize(
    ("workflow", "number", "told"),
    [
        ("inference", 2, "1 of 3 images done; "),
        ("distillation", 3, "2 of 3 images done; "),
        ("evaluation", 1, "0 of 3 images done; "),
    ],
)
def test_an_interrupt_says_what_is_done(data, tmp_path, capsys, during_fits, workflow, number, told):
    during_fits(number, interrupt)
    assert work(workflow, data, tmp_path / "out") == 130
    assert capsys.readouterr().err.splitlines()[-1] == f"interrupted; {told}run the same command again to go on"
    assert work(workflow, data, tmp_path / "out") == 0


def test_an_interrupt_of_scoring(data, tmp_path, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("monai_fusenet.evaluation.folder.Judge", lambda *args: interrupt())
        assert work("evaluation", data, tmp_path / "out") == 130
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted; run the same command again to go on"
    assert states(tmp_path / "out") == ["ok"] * 3
    assert work("evaluation", data, tmp_path / "out") == 0
    assert states(tmp_path / "out") == ["kept"] * 3


def start(workflow, folder, output, **options):
    """Runs a workflow in a process, and processes of its own."""
    options = {**OPTIONS[workflow], **options, "dataset_dir": folder, "output_dir": output}
    options = {key: str(value).replace(" ", "") if isinstance(value, list) else value for key, value in options.items()}
    return subprocess.Popen(
        command(workflow, **options),
        cwd=output.parent,
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    )


def wait_for(process, path):
    while not path.exists() and process.poll() is None:
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("workflow", "number", "first", "status"),
    [
        ("inference", signal.SIGINT, "summary.csv", 130),
        ("training", signal.SIGTERM, "checkpoint.pt", 143),
    ],
)
def test_signals_end_in_one_line(many, tmp_path, workflow, number, first, status):
    """Ctrl-C reaches workers, too; a SIGTERM, the main process alone."""
    options = {"inference": {"num_workers": 2}, "training": {"num_workers": 1, "max_epochs": 10_000}}[workflow]
    process = start(workflow, many, tmp_path / "out", **options)
    wait_for(process, tmp_path / "out" / first)
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == status, errors
    assert "Traceback" not in errors
    process.stderr = errors
    done = f"{len(states(tmp_path / 'out'))} of 12 images done; " if workflow == "inference" else ""
    assert last_line(process) == f"interrupted; {done}run the same command again to go on"
    assert hidden(tmp_path / "out") == []


def test_killed_at_random_moments_no_image_is_done_twice(many, tmp_path):
    output, rng = tmp_path / "out", random.Random(0)
    finished = {}
    for kill in range(2):
        process = start("inference", many, output)
        wait_for(process, output / f"scan{4 * kill:02}_panel.png")
        time.sleep(rng.uniform(0, 0.6))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
        for path in output.glob("[!.]*.png"):  # hidden ones were being written
            Image.open(path).load()  # whole, whenever it was killed
        assert {name: (output / name).stat().st_mtime_ns for name in finished} == finished
        finished |= {path.name: path.stat().st_mtime_ns for path in output.glob("*_panel.png")}
    assert 5 <= len(finished) < 12
    assert work("inference", many, output) == 0
    assert {name: (output / name).stat().st_mtime_ns for name in finished} == finished
    assert sorted(states(output)) == ["kept"] * len(finished) + ["ok"] * (12 - len(finished))
    assert hidden(output) == []
    assert len(list(output.iterdir())) == 3 * 12 + 1
