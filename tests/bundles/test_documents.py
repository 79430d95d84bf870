"""What README and the pages in docs/ show, works."""

import re

import pytest
from bundle_tools import ROOT
from document_tools import PAGES, World, blocks, documented_commands, enter, run, runs_elsewhere

COMMANDS = documented_commands()
# The examples of export.md need each other's files, and are tested with what they leave.
EXAMPLES = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, block in enumerate(blocks(page, "python"))
    if page.name != "export.md"
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("world"))
    with pytest.MonkeyPatch.context() as monkeypatch:
        world.prepare(monkeypatch)
    return world


def test_there_are_examples_and_commands():
    assert len(EXAMPLES) > 6
    assert len(COMMANDS) > 60


def test_readme_is_one_page_and_begins_with_the_run_on_samples():
    text = PAGES[0].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert "python -m monai.bundle run training --config_file bundles/" in blocks(PAGES[0], "bash")[0]


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_runs(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "example", "exec"), {})


@pytest.mark.parametrize(("line", "page"), COMMANDS, ids=[f"{page.stem}: {line}"[:90] for line, page in COMMANDS])
def test_command_runs(line, page, world, tmp_path, monkeypatch):
    if test := runs_elsewhere(line):
        assert re.search(rf'"{page.name}"|documented_commands', (ROOT / test).read_text(encoding="utf-8"))
        return
    if line.startswith("monai-fusenet bundle"):
        monkeypatch.chdir(tmp_path)  # where neither lies yet
    else:
        enter(tmp_path, monkeypatch)
    for name in re.findall(r"\b\w+\.yaml\b", line) if "configs/" not in line else ():
        (tmp_path / name).write_text("".join(blocks(page, "yaml")), encoding="utf-8")
    run(line, world)


def headings(page):
    """The anchors of a page, as GitHub and the site name them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return {re.sub(r"[^\w -]", "", line).lower().replace(" ", "-") for line in re.findall(r"^#+ (.*)", text, re.M)}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        assert not anchor or anchor in headings(linked), target


def test_each_page_is_linked_from_a_section_of_the_site():
    toctrees = "\n".join(block for page in PAGES for block in blocks(page, r"\{toctree\}"))
    for page in PAGES[1:]:
        name = page.relative_to(ROOT / "docs").with_suffix("").as_posix()
        assert name == "index" or re.search(rf"\b{name}\b", toctrees), name


def test_tests_that_are_named_as_evidence_exist():
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")))
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > 40
    assert [name for name in sorted(named) if f"def {name}(" not in tests] == []
