"""A user who has only the wheel gets the bundle and the overlays with one command, and runs them.

The wheel is built from the source distribution, without the network.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
from bundle_tools import ROOT, SMALL, draw_folder, read_summary, same_files
from packaging.requirements import Requirement

import monai_fusenet
from monai_fusenet.cli.main import main
from monai_fusenet.shipped import copy_bundle


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the source distribution and the wheel built from it; of a copy, as a build leaves files behind."""
    base = tmp_path_factory.mktemp("wheel")
    litter = shutil.ignore_patterns(".*", "build", "dist", "output", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, base / "source", ignore=litter)
    (base / "source" / "bundles" / "fusenet_segmentation" / "output").mkdir()  # of a run from the bundle's folder
    (base / "source" / "bundles" / "fusenet_segmentation" / "output" / "model.pt").write_bytes(b"large")
    pack = f"from setuptools.build_meta import build_sdist; build_sdist({str(base)!r})"
    options = {"check": True, "timeout": 300, "stdout": subprocess.DEVNULL}
    subprocess.run([sys.executable, "-W", "ignore", "-c", pack], cwd=base / "source", **options)
    (archive,) = base.glob("*.tar.gz")
    build = ["wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", "-w", base, archive]
    subprocess.run([sys.executable, "-m", "pip", *map(str, build)], **options)
    return base


@pytest.fixture(scope="module")
def installed(built):
    """A folder with the unpacked wheel."""
    (wheel,) = built.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(built / "installed")
    return built / "installed"


@pytest.fixture(scope="module")
def metadata(installed):
    (file,) = installed.glob("*.dist-info/METADATA")
    return message_from_string(file.read_text(encoding="utf-8"))


def names(folder, *patterns):
    """Files below a folder, relative to it."""
    paths = [path for pattern in patterns for path in folder.rglob(pattern)]
    return sorted(str(path.relative_to(folder)) for path in paths if path.is_file() and "__pycache__" not in path.parts)


def test_the_wheel_holds_every_module_and_the_page(installed):
    package = installed / "monai_fusenet"
    own = [name for name in names(package, "*.py", "page/*", "py.typed") if not name.startswith("share/")]
    assert own == names(ROOT / "monai_fusenet", "*.py", "page/*", "py.typed")
    assert {"py.typed", "label/page/index.html", "label/page/annotate.js"} <= {*own}


def test_the_source_distribution_holds_what_it_is_tested_with(built):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        sizes = {member.name.split("/", 1)[-1]: member.size for member in file.getmembers() if member.isfile()}
    for folder in ("tests", "benchmarks", "docs", "configs", "federated", "deploy"):
        own = [f"{folder}/{name}" for name in names(ROOT / folder, "*.py", "*.md", "*.yaml", "*.npz", "*.json")]
        assert [name for name in own if name not in sizes and "/_build/" not in name] == []
    assert {"CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "pyproject.toml"} <= {*sizes}
    assert "bundles/fusenet_segmentation/output/model.pt" not in sizes
    assert max(sizes.values()) < 2 * 2**20, max(sizes, key=sizes.get)
    assert sum(sizes.values()) < 20 * 2**20


def test_the_wheel_says_what_it_is(metadata):
    assert metadata["Version"] == monai_fusenet.__version__
    assert metadata["License"] == "Apache-2.0"
    assert {"test", "dicom", "onnx", "label", "docs"} <= {*metadata.get_all("Provides-Extra")}


@pytest.mark.parametrize(
    ("extras", "versions"),
    [
        (("label", "onnx", "docs"), {"torch": "2.13.0", "numpy": "1.26.4", "pydicom": "2.4.5"}),
        (("dicom", "onnx", "docs", "test"), {"torch": "2.13.0", "numpy": "2.4.6", "pydicom": "3.0.2"}),
    ],
)
def test_extras_that_go_into_one_environment(metadata, extras, versions):
    asked = [Requirement(line) for line in metadata.get_all("Requires-Dist")]
    asked = [
        one for one in asked if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in extras)
    ]
    assert {*versions} <= {one.name for one in asked}
    assert [str(one) for one in asked if one.name in versions and versions[one.name] not in one.specifier] == []


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
