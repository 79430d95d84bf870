"""What `python -m benchmarks.gpu` writes, tried on the CPU."""

import csv
import sys
import time

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu_job import Case, Job


@pytest.fixture
def job(tmp_path):
    return Job(torch.device("cpu"), True, time.perf_counter() + 60, 2, tmp_path)


def test_parity_and_steps_become_a_table(tmp_path, capsys):
    gpu.main([str(tmp_path), "--device", "cpu", "--tiny", "--sections", "parity", "steps"])
    with (tmp_path / "gpu.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    deviations = [row["value"] for row in rows.values() if row["section"] == "parity"]
    assert deviations == ["0"] * 6  # the CPU agrees with itself
    for name in ("eager", "eager, bfloat16", "torch.compile", "fit", "fit, bfloat16", "second view of a fit"):
        row = rows.pop(f"{name}, 24 x 24")
        assert (row["unit"], float(row["value"]) > 0) == ("ms", True)
        assert (row["target"] == "50") == name.startswith("fit")
    assert {row["note"] for row in rows.values() if row["section"] == "steps"} == {
        "skipped: CUDA graphs are of a GPU only",
        "skipped: of a GPU only",
    }
    text = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert f"torch {torch.__version__}\n\n| section | case | value | unit | target | note |\n|---|---|" in text
    assert "\n| steps | CUDA graph, 24 x 24 |  |  |  | skipped: CUDA graphs are of a GPU only |\n" in text
    assert "steps | eager, 24 x 24" in capsys.readouterr().out


def test_a_compiled_step_is_the_eager_one(job):
    eager, compiled = (gpu.step_of(job, 17, compiled=how) for how in (False, True))
    assert [compiled().item() for _ in range(3)] == pytest.approx([eager().item() for _ in range(3)], rel=0.05)


@pytest.mark.parametrize("section", ["folder", "distillation", "processes"])
def test_a_package_that_is_missing_is_named(job, section, monkeypatch):
    monkeypatch.setitem(sys.modules, "fire", None)
    (row,) = gpu.rows_of(job, section)
    assert (row.section, row.case, row.value) == (section, "all", "")
    assert row.note == "skipped: import of fire halted; None in sys.modules"


def test_what_fails_or_comes_too_late_says_so_and_the_rest_goes_on(job, monkeypatch):
    def fail():
        raise KeyError("status")

    cases = [Case("long", fail, "s", 1000), Case("wrong", fail, "s", 1), Case("good", lambda: (1234.56, ""), "s", 1)]
    monkeypatch.setitem(gpu.SECTIONS, "folder", lambda job: iter(cases))
    late, wrong, good = gpu.rows_of(job, "folder")
    assert late.note.startswith("skipped: ")
    assert late.note.endswith(" s are left, and it may take 1000")
    assert (wrong.value, wrong.note) == ("", "failed: KeyError: 'status'")
    assert (good.value, good.note) == ("1235", "")


def test_a_process_says_its_error_and_ends_with_the_time(job):
    with pytest.raises(RuntimeError, match="status 1: ValueError: no such size"):
        job.run([sys.executable, "-c", "raise ValueError('no such size')"])
    start = time.perf_counter()
    with pytest.raises(RuntimeError, match="stopped after 1 s, when time was over"):
        job._replace(end=start).run(["sh", "-c", "sleep 50 & wait"])
    assert time.perf_counter() - start < 20


def test_no_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"no GPU: torch\.cuda\.is_available\(\) is False"):
        gpu.main([str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
