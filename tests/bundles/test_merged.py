"""The bundle with overlays in it, which runs where nobody knows overlays."""

import json
import subprocess
import sys

import numpy as np
import pytest
from bundle_tools import CONFIGS, OVERLAYS, SMALL, call, draw_folder
from monai.bundle import create_workflow, verify_net_in_out
from PIL import Image

from monai_fusenet.bundle.merged import main, write_merged


def test_it_does_what_the_bundle_does_with_these_overlays(tmp_path):
    folder, bundle = draw_folder(tmp_path / "data", count=1), tmp_path / "bundle"
    write_merged(bundle, ["skin"], SMALL)
    process = subprocess.run(
        [
            *(sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json"),
            *("--dataset_dir", str(folder), "--output_dir", str(tmp_path / "merged")),
        ],
        cwd=bundle,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    assert call("inference", "skin.yaml", dataset_dir=folder, output_dir=tmp_path / "out", **SMALL) == 0
    merged, own = (np.asarray(Image.open(tmp_path / name / "scan0_mask.png")) for name in ("merged", "out"))
    assert np.array_equal(merged, own)


def test_it_is_a_bundle_as_monai_wants_it(tmp_path):
    main([str(tmp_path), "volume", "ct"])
    files = {"config_file": str(tmp_path / "configs" / "inference.json")}
    workflow = create_workflow(**files, workflow_type="infer", logging_file=False)
    assert workflow.check_properties() == []
    verify_net_in_out("network_def", meta_file=str(tmp_path / "configs" / "metadata.json"), device="cpu", **files)
    metadata = json.loads((tmp_path / "configs" / "metadata.json").read_text("utf-8"))
    image = metadata["network_data_format"]["inputs"]["image"]
    assert (image["num_channels"], image["spatial_shape"]) == (1, [32, 32, 32])
    assert metadata["eval_metrics"] == {}
    assert "with volume, ct" in (tmp_path / "docs" / "README.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("overlays", "options", "message"),
    [
        (["livr"], {}, "there is no overlay "),
        ([], {"fit_stepz": 3}, "unknown option fit_stepz; did you mean fit_steps?"),
        ([str(OVERLAYS / "skin.yaml")], {"fit_steps": -1}, "fit_steps must be "),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_written(tmp_path, overlays, options, message):
    with pytest.raises(ValueError) as told:  # noqa: PT011
        write_merged(tmp_path / "bundle", overlays, options)
    assert str(told.value).startswith(message)
    assert not (tmp_path / "bundle").exists()


def test_the_command_tells_it_in_one_line(tmp_path):
    with pytest.raises(SystemExit) as told:
        main([str(tmp_path / "bundle"), "livr"])
    assert str(told.value).startswith("error: there is no overlay ")
    assert "skin" in str(told.value)
    assert CONFIGS.is_dir()
