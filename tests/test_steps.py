"""What `python -m benchmarks.steps` measures is the same step twice, and its table says so."""

import csv

import numpy as np
import pytest

from benchmarks.shares import kind_of
from benchmarks.steps import FORMS, METHODS, build, main, table


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"FuseNet"}))  # FuseNet's dropout draws as it runs
def test_both_forms_take_the_same_steps(name):
    steps = [build(name, form, side=33) for form in FORMS]
    for _ in range(2):
        ours, transcribed = (step() for step in steps)
        np.testing.assert_allclose(ours[:3], transcribed[:3], rtol=2e-3, atol=2e-5)
        assert ours[-1] == transcribed[-1]


def test_fusenet_takes_a_step_of_each_form():
    ours, transcribed = (build("FuseNet", form, side=32)() for form in FORMS)
    np.testing.assert_allclose(ours[:3], np.array(transcribed)[[0, 2, 1]], rtol=0.2)


def test_a_measurement_becomes_a_row_with_ratios(tmp_path, capsys):
    main(["feature clustering", "--side", "33", "--steps", "2", "--results", str(tmp_path)])
    with (tmp_path / "steps.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert (row["method"], row["side"]) == ("feature clustering", "33")
    assert all(float(row[f"{form}_{what}"]) > 0 for form in FORMS for what in ("cpu_s", "wall_s", "mib"))
    text = (tmp_path / "steps.md").read_text(encoding="utf-8")
    assert "| feature clustering | 33 x 33 |" in text
    assert "`python -m benchmarks.steps --steps 2`" in text
    assert text in capsys.readouterr().out


def test_ratios_are_of_ours_to_the_transcription():
    row = {"method": "M", "side": 8, "ours_cpu_s": 1.0, "transcription_cpu_s": 4.0}
    row |= {"ours_wall_s": 2.0, "transcription_wall_s": 4.0, "ours_mib": 300, "transcription_mib": 400}
    expected = "| M | 8 x 8 | 1.00 | 4.00 | **0.25** | 2.00 | 4.00 | **0.50** | 300 | 400 | **0.75** |"
    assert table([row]).splitlines()[-1] == expected


def test_an_unknown_method_names_all(capsys):
    with pytest.raises(SystemExit):
        main(["UNet"])
    assert "unknown method UNet: choose from FuseNet, MS-Former, S3-Net, feature clustering" in capsys.readouterr().err


def test_operations_have_kinds():
    kinds = ["aten::addmm_", "aten::native_layer_norm_backward", "aten::_to_copy", "aten::argmax", "autograd::Function"]
    assert [kind_of(name) for name in kinds] == [
        "matrix products",
        "normalisation",
        "copies and casts",
        "sums and other arithmetic",
        "others",
    ]
