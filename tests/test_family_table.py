"""The arithmetic of `python -m benchmarks.family`, on scores that were written down by hand."""

import csv

import pytest

from benchmarks import family

HEAD = ("file", "method", "seed", "level", "dice", "ari", "clusters", "collapsed", "seconds", "peak_mib")


def write(path, rows, head):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(head)
        table.writerows(rows)


@pytest.fixture
def results(tmp_path):
    """Two images, two seeds, one baseline, and what `evaluation` leaves of them."""
    rows = []
    for seed, (first, second) in enumerate(((0.9, 0.4), (0.7, 0.8))):
        for file, dice in (("a.png", first), ("b.png", second)):
            rows.append((file, "MSFormer", seed, "deployed", dice, "nan", 5 + seed, dice < 0.5, 4 + seed, 900 + seed))
            rows.append((file, "MSFormer", seed, "partition", dice / 2, 0.5, 5, 0, "", ""))
    rows = [tuple(float(cell) if isinstance(cell, bool) else cell for cell in row) for row in rows]
    rows += [(file, "2-means", "", "deployed", 0.6, "nan", 2, 0, "", "") for file in ("a.png", "b.png")]
    write(tmp_path / "scores.csv", rows, HEAD)
    for seed in range(2):
        write(tmp_path / f"seed_{seed}" / "summary.csv", [("a.png", 10), ("b.png", 12 + seed)], ("file", "steps"))
    return tmp_path


def test_a_row_by_hand(results):
    (row,) = family.rows_of(results, "drawn", "MS-Former", with_baselines=False)
    assert (row["set"], row["method"], row["images"], row["seeds"]) == ("drawn", "MS-Former", 2, 2)
    assert row["deployed"] == pytest.approx(0.7)
    assert row["deployed_sd"] == pytest.approx(0.0707, abs=1e-4)  # of the means of the seeds, 0.65 and 0.75
    assert (row["worst"], row["below_half"]) == (0.4, 0.25)
    assert (row["partition"], row["ari"], row["oracle"]) == (0.35, 0.5, "")
    assert (row["steps"], row["clusters"], row["collapsed"]) == (11.2, 5.5, 0.25)
    assert (row["seconds"], row["peak_mib"]) == (4.5, 901)


def test_baselines_follow_the_method(results):
    method, baseline = family.rows_of(results, "drawn", "MS-Former", with_baselines=True)
    assert (method["method"], baseline["method"]) == ("MS-Former", "2-means")
    assert (baseline["deployed"], baseline["deployed_sd"], baseline["steps"], baseline["seconds"]) == (0.6, "", "", "")


def test_table_and_picture_hold_every_row(results, tmp_path):
    rows = family.rows_of(results, "drawn", "MS-Former", with_baselines=True)
    lines = family.table(rows).splitlines()
    assert lines[1] == "drawn:"
    assert [line.split(" | ")[0] for line in lines[5:]] == ["| MS-Former", "| 2-means"]
    assert "| 0.700 ± 0.071 |" in lines[5]
    family.draw(rows).savefig(tmp_path / "family.png")
    assert (tmp_path / "family.png").stat().st_size > 1000


def test_the_overview_has_a_line_for_each_set(results):
    rows = family.rows_of(results, "drawn", "MS-Former", with_baselines=True)
    assert family.overview(rows).splitlines() == [
        "| set | images | MS-Former | best of the baselines |",
        "|---|---|---|---|",
        "| drawn | 2 | 0.700 ± 0.071 | 0.600 (2-means) |",
        "| seconds an image | | 4 | |",
    ]
