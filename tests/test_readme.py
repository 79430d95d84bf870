"""What README shows, works."""

import re
import shlex

import pytest
from bundle_tools import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.replace("\\\n", "").splitlines()
]


def test_there_are_examples_and_commands():
    assert EXAMPLES
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_runs(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})


@pytest.mark.parametrize("command", COMMANDS)
def test_files_in_commands_exist(command):
    for word in re.findall(r"[\w./-]+\.(?:json|yaml)", command):
        if word.startswith("output/"):  # what an earlier command leaves
            continue
        assert (ROOT / word).is_file(), word
    shlex.split(command)


def test_links_and_pictures_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target:
            assert (ROOT / target).is_file(), target


def test_tests_that_are_named_as_evidence_exist():
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")))
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > 40
    assert [name for name in sorted(named) if f"def {name}(" not in tests] == []
