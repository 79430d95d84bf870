"""The figures in docs/family.md are those that the benchmarks have left."""

import pytest
from bundle_tools import ROOT

from monai_fusenet import networks

PAGE = ROOT / "docs" / "family.md"
TEXT = PAGE.read_text(encoding="utf-8")


def rows_under(heading):
    section = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("|")]


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
