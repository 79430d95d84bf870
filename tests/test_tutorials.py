"""The notebooks of the tutorials are executed from top to bottom, and hold nothing of the machine they ran on.

The site's build executes them; here they are only read.
"""

import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "tutorials"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MOST_BYTES = 600_000
OF_A_MACHINE = re.compile(
    r"/(?:work|tmp|home|root|Users|var|opt|usr|mnt)/|\b[A-Z]:\\|site-packages|warning", re.IGNORECASE
)


def cells_of(path, kind):
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def outputs_of(path):
    return [output for cell in cells_of(path, "code") for output in cell["outputs"]]


def texts_of(path):
    for output in outputs_of(path):
        yield "".join(output.get("text", []))
        for kind, data in output.get("data", {}).items():
            if kind.startswith("text/"):
                yield "".join(data)


def test_there_are_three_notebooks():
    names = ["folder_with_five_masks", "losses_in_monai_training", "paper_demonstration"]
    assert [path.stem for path in NOTEBOOKS] == names


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebook:
    def test_it_is_of_format_4_for_python(self, path):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        assert notebook["nbformat"] == 4
        assert notebook["metadata"]["kernelspec"]["name"] == "python3"
        ids = [cell["id"] for cell in notebook["cells"]]
        assert len(set(ids)) == len(ids)
        assert {cell["cell_type"] for cell in notebook["cells"]} == {"code", "markdown"}

    def test_it_is_valid_where_nbformat_is_installed(self, path):
        nbformat = pytest.importorskip("nbformat")
        nbformat.validate(nbformat.read(path, as_version=4))

    def test_it_begins_with_one_title(self, path):
        first, *rest = ("".join(cell["source"]) for cell in cells_of(path, "markdown"))
        assert re.match(r"# \S", first)
        assert not [text for text in rest if re.search(r"^# ", text, re.MULTILINE)]

    def test_all_its_cells_were_executed_in_order(self, path):
        counts = [cell["execution_count"] for cell in cells_of(path, "code")]
        assert counts == list(range(1, len(counts) + 1))

    def test_nothing_failed_or_was_written_to_stderr(self, path):
        outputs = outputs_of(path)
        assert [output for output in outputs if output["output_type"] == "error"] == []
        assert [output for output in outputs if output.get("name") == "stderr"] == []

    def test_its_pictures_are_inside(self, path):
        assert sum("image/png" in output.get("data", {}) for output in outputs_of(path)) >= 3

    def test_its_outputs_show_no_path_and_no_warning(self, path):
        assert [found.group() for text in texts_of(path) for found in OF_A_MACHINE.finditer(text)] == []

    def test_its_code_is_python_and_no_command_of_a_shell(self, path):
        for cell in cells_of(path, "code"):
            compile("".join(cell["source"]), path.name, "exec")

    def test_it_is_small(self, path):
        assert path.stat().st_size <= MOST_BYTES
