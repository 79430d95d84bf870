"""A user who has only the wheel gets the bundle and the overlays with one command, and runs them."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from bundle_tools import ROOT, SMALL, draw_folder, read_summary, same_files

from monai_fusenet.cli.main import main
from monai_fusenet.shipped import copy_bundle


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the unpacked wheel, built from a copy: a build leaves files behind."""
    base = tmp_path_factory.mktemp("wheel")
    litter = shutil.ignore_patterns(".*", "build", "output", "*.egg-info", "__pycache__", "tests")
    shutil.copytree(ROOT, base / "source", ignore=litter)
    build = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", base, base / "source"]
    subprocess.run([sys.executable, *map(str, build)], check=True, timeout=300)
    (wheel,) = base.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(base / "installed")
    return base / "installed"


def test_from_the_wheel_alone_to_masks(installed, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}

    def python(*arguments):
        return subprocess.run(
            [sys.executable, "-m", *map(str, arguments)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            timeout=300,
        )

    copied = python("monai_fusenet", "bundle")
    assert copied.returncode == 0, copied.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"bundles", "configs"}
    for name in ("bundles", "configs"):
        shipped = sorted(path.relative_to(ROOT / name) for path in (ROOT / name).rglob("*") if path.is_file())
        assert (
            sorted(path.relative_to(tmp_path / name) for path in (tmp_path / name).rglob("*") if path.is_file())
            == shipped
        )

    draw_folder(tmp_path / "data", masks=False)
    options = [f"--{key}={value}" for key, value in {**SMALL, "working_size": "[24,24]"}.items()]
    configs = "['bundles/fusenet_segmentation/configs/inference.json','configs/skin.yaml']"
    result = python("monai.bundle", "run", "inference", "--config_file", configs, "--dataset_dir", "data", *options)
    assert result.returncode == 0, result.stderr
    assert [row["status"] for row in read_summary(tmp_path / "output" / "inference")] == ["ok"] * 3

    result = python("monai_fusenet", "masks", "data", "--preset", "skin", "--output", "masks", *options)
    assert result.returncode == 0, result.stderr
    assert f"{installed}/monai_fusenet/share/configs/skin.yaml" in result.stderr
    assert same_files(tmp_path / "masks", tmp_path / "output" / "inference")


def test_copying_overwrites_nothing(tmp_path):
    (tmp_path / "configs").mkdir()
    with pytest.raises(ValueError, match="configs is there already"):
        copy_bundle(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["configs"]
    with pytest.raises(SystemExit, match=r"^error: .*configs is there already; choose another folder"):
        main(["bundle", str(tmp_path)])


def test_copies_say_what_to_do_next(tmp_path, capsys):
    main(["bundle", str(tmp_path / "new")])
    assert "python -m monai.bundle run inference --config_file" in capsys.readouterr().out
    assert Path(tmp_path / "new" / "configs" / "skin.yaml").is_file()


def test_a_copy_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(source, target, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil.copytree, "__defaults__", (False, None, full, False, False))
    with pytest.raises(SystemExit, match=r"^error: cannot write .*: \[Errno 28\] No space left on device$"):
        main(["bundle", str(tmp_path / "new")])
    assert list((tmp_path / "new").iterdir()) == []
    monkeypatch.undo()
    (tmp_path / "new" / ".monai_fusenet_copy" / "bundles").mkdir(parents=True)  # left by a killed copy
    main(["bundle", str(tmp_path / "new")])
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["bundles", "configs"]
