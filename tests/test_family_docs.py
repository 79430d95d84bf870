"""What docs/family.md shows, works, and its figures are those that the benchmarks have left."""

import re
import shlex

import pytest
from bundle_tools import ROOT

from monai_fusenet import networks

PAGE = ROOT / "docs" / "family.md"
TEXT = PAGE.read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = "\n".join(re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)).splitlines()


def rows_under(heading):
    section = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("|")]


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_runs(example):
    exec(compile(example, "family.md", "exec"), {})


@pytest.mark.parametrize("command", COMMANDS)
def test_files_and_modules_in_commands_exist(command):
    words = shlex.split(command)
    for word in re.findall(r"[\w./-]+\.(?:json|yaml|py)\b", command):
        assert (ROOT / word).is_file(), word
    if "benchmarks." in command:
        assert (ROOT / f"{words[2].replace('.', '/')}.py").is_file()


def test_links_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        if "://" not in target:
            assert (PAGE.parent / target).is_file(), target
    headings = {
        re.sub(r"[^\w -]", "", line[3:]).lower().replace(" ", "-") for line in re.findall(r"^## .*", TEXT, re.M)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= headings


@pytest.mark.parametrize(
    ("heading", "results"),
    [
        ("What the terms teach", ("gradients.md",)),
        ("Parity, and the cost of a step", ("steps.md",)),
        ("Which one to use", ("family.md", "family_votes.md")),
    ],
)
def test_figures_are_those_of_the_benchmarks(heading, results):
    texts = [(ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8") for name in results]
    measured = "\n".join(texts).splitlines()
    rows = rows_under(heading)
    assert len(rows) > 4
    assert [row for row in rows if row not in measured] == []


@pytest.mark.parametrize(
    "network",
    [
        networks.FuseNet(img_size=256),
        networks.MSFormer(img_size=257),
        networks.S3Net(img_size=256, offsets="free"),
        *(networks.FeatureClusteringNet(), networks.FuseNet(), networks.MSFormer(), networks.S3Net()),
    ],
    ids=lambda network: type(network).__name__,
)
def test_numbers_of_parameters(network):
    assert f"{sum(parameter.numel() for parameter in network.parameters()):,}" in TEXT
