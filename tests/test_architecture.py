"""The walls between rooms hold, and the documents that describe the house are true."""

import ast
import graphlib
import os
import re
import runpy
import shutil
import subprocess
import sysconfig
from pathlib import Path

import grimp
import pytest
import yaml
from bundle_tools import ROOT

import monai_fusenet

PACKAGE = ROOT / "monai_fusenet"
MODULES = sorted(PACKAGE.rglob("*.py"))
ARCHITECTURE = ROOT / "docs" / "architecture.md"
ADDING = ROOT / "docs" / "adding.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"


def lint_imports(folder):
    """Checks the contracts of `folder/pyproject.toml` on the package that lies beside it."""
    return subprocess.run(
        [Path(sysconfig.get_path("scripts"), "lint-imports"), "--no-cache"],
        cwd=folder,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )


@pytest.fixture
def copied(tmp_path):
    """A copy of the package and of its contracts, to build a wrong import into."""
    litter = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, tmp_path / "monai_fusenet", ignore=litter)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def add_import(folder, module, line):
    path = folder / "monai_fusenet" / module
    path.write_text(f"{path.read_text(encoding='utf-8')}\n{line}\n", encoding="utf-8")


def test_imports_keep_the_contracts():
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("module", "line", "named"),
    [
        ("utils/checks.py", "import monai_fusenet.engines", "monai_fusenet.utils.checks -> monai_fusenet.engines"),
        ("losses/__init__.py", "import monai_fusenet.networks", "monai_fusenet.losses -> monai_fusenet.networks"),
        ("networks/blocks/__init__.py", "import monai_fusenet.networks.nets", "monai_fusenet.networks.blocks -> "),
        ("bundle/__init__.py", "import fastapi", "monai_fusenet.bundle -> fastapi"),
        ("engines/trainer.py", "def late():\n    import scipy", "monai_fusenet.engines.trainer -> scipy"),
        ("shipped.py", "import torch", "monai_fusenet.shipped -> torch"),
    ],
)
def test_a_wrong_import_breaks_a_contract(module, line, named, copied):
    add_import(copied, module, line)
    result = lint_imports(copied)
    assert result.returncode == 1, result.stderr
    assert named in result.stdout


def test_a_room_without_a_layer_breaks_the_contract(copied):
    (copied / "monai_fusenet" / "attic.py").write_text('"""A room that no layer names."""\n', encoding="utf-8")
    result = lint_imports(copied)
    assert result.returncode == 1, result.stderr
    assert "monai_fusenet.attic" in result.stdout


def test_no_modules_import_each_other_in_a_circle():
    graph = grimp.build_graph("monai_fusenet", cache_dir=None)  # counts imports inside functions
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    graphlib.TopologicalSorter(imports).prepare()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_module_says_its_one_job_in_its_first_line(path):
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring, "no docstring"
    first = docstring.splitlines()[0]
    assert len(first) <= 120
    assert first.endswith((".", ":"))
    assert not re.search(r"[.!?] +[A-Z]", first), f"more than one sentence: {first}"


def test_the_picture_is_that_of_the_code():
    script = runpy.run_path(str(ROOT / "docs" / "draw_architecture.py"))
    drawn = script["drawn_architecture"](script["PICTURE"])
    assert drawn == script["architecture"](), "out of date: run python docs/draw_architecture.py"


def test_the_picture_leaves_out_what_follows_from_other_arrows():
    script = runpy.run_path(str(ROOT / "docs" / "draw_architecture.py"))
    house = {
        "layers": [["top"], ["middle"], ["low"], ["utils"]],
        "rooms": {room: {} for room in ("top", "middle", "low", "utils")},
        "imports": {"top -> middle": 2, "top -> low": 1, "middle -> low": 3, "top -> utils": 4, "low -> utils": 5},
    }
    assert script["arrows"](house) == [("top", "middle", 2), ("middle", "low", 3)]


@pytest.mark.parametrize("document", [ARCHITECTURE, ADDING, CONTRIBUTING], ids=lambda path: path.name)
def test_files_that_a_document_names_exist(document):
    text = document.read_text(encoding="utf-8")
    links = [document.parent / link for link in re.findall(r"\]\(([^)#:]+)\)", text)]
    assert [link for link in links if not link.exists()] == []
    names = re.findall(r"`(\w[\w./]*/[\w./]*|\w+\.(?:py|md|toml|yaml))`", text)
    names += re.findall(r"\b(?:tests|docs)/[\w./]+", "".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL)))
    assert names
    assert [name for name in names if not (ROOT / name).exists() and not (PACKAGE / name).exists()] == []


def test_the_table_of_rooms_is_complete():
    text = ARCHITECTURE.read_text(encoding="utf-8")
    named = {name.removesuffix(".py") for name in re.findall(r"^\| `(\w+)(?:/|\.py)` \|", text, re.MULTILINE)}
    assert named == {
        child.stem for child in PACKAGE.iterdir() if not child.stem.startswith("__") and child.suffix in ("", ".py")
    }


def test_the_citation_names_software_and_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()  # what the format requires
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == monai_fusenet.__version__
    (paper,) = citation["references"]
    assert {"type", "title", "authors"} <= paper.keys()
    assert [author["family-names"] for author in paper["authors"]] == [
        "Kazerouni",
        "Karimijafarbigloo",
        "Azad",
        "Velichko",
        "Bagci",
        "Merhof",
    ]
