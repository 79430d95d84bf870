"""`python docs/draw_architecture.py` draws docs/architecture.svg: the rooms of the package and who imports whom.

The layers come from the import contract in pyproject.toml, rooms, modules and imports from the code.
"""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import grimp
from importlinter.api import read_configuration
from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

ROOT = Path(__file__).parents[1]
PACKAGE = "monai_fusenet"
PICTURE = ROOT / "docs" / "architecture.svg"

WIDTH, BOX, GAP, LINE = 10.0, 1.86, 0.32, 0.14  # inches: picture, box, between layers, line of text
# Centres of the rooms that have a layer, or nearly, to themselves, chosen so that few arrows cross.
CENTRES = {
    "__main__": 3.0,
    "cli": 3.0,
    "label": 3.0,
    "bundle": 7.0,
    "distillation": 5.0,
    "evaluation": 9.0,
    "options": 9.0,
    "handlers": 7.0,
    "results": 1.0,
    "clicks": 3.0,
    "inferers": 5.0,
    "engines": 7.0,
}


def architecture() -> dict[str, Any]:
    """What the picture shows, as it can be read from the contract and the code.

    Returns:
        `layers`: names of rooms, from the highest layer to the lowest; `rooms`: for each its number of `files` and its
        `modules`, packages with a slash; `imports`: for each "importer -> imported" of two rooms the number of modules
        that import.
    """
    contracts = read_configuration(str(ROOT / "pyproject.toml"))["contracts_options"]
    (layers,) = (contract["layers"] for contract in contracts if contract["id"] == "layers")
    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    rooms = {
        room.removeprefix(f"{PACKAGE}."): {
            "files": 1 + len(graph.find_descendants(room)),
            "modules": [
                child.rpartition(".")[2] + "/" * bool(graph.find_children(child))
                for child in sorted(graph.find_children(room))
            ],
        }
        for room in sorted(graph.find_children(PACKAGE))
    }
    importers: dict[str, set[str]] = {}
    for module in graph.modules - {PACKAGE}:
        for imported in graph.find_modules_directly_imported_by(module) - {PACKAGE}:
            room, other = module.split(".")[1], imported.split(".")[1]
            if room != other:
                importers.setdefault(f"{room} -> {other}", set()).add(module)
    return {
        "layers": [[room.strip() for room in layer.split("|")] for layer in layers],
        "rooms": rooms,
        "imports": {pair: len(modules) for pair, modules in sorted(importers.items())},
    }


def drawn_architecture(picture: Path) -> dict[str, Any]:
    """What a picture shows, as it was when it was drawn: the picture carries it as its description."""
    description = ElementTree.parse(picture).find(".//{http://purl.org/dc/elements/1.1/}description")
    return json.loads(description.text)


def arrows(house: dict[str, Any]) -> list[tuple[str, str, int]]:
    """Imports that follow from no others: A -> C is left out where A -> B -> C is, and so is the lowest layer."""
    below: dict[str, list[str]] = {room: [] for room in house["rooms"]}
    for pair in house["imports"]:
        importer, imported = pair.split(" -> ")
        if imported not in house["layers"][-1]:
            below[importer].append(imported)

    def reached(room: str) -> set[str]:
        return {room}.union(*(reached(other) for other in below[room]))

    return [
        (importer, imported, house["imports"][f"{importer} -> {imported}"])
        for importer in below
        for imported in below[importer]
        if not any(imported in reached(other) for other in below[importer] if other != imported)
    ]


def draw(house: dict[str, Any], picture: Path) -> None:
    """Draws the rooms as boxes in their layers, and imports as arrows, wider where more modules import."""
    rooms, layers = house["rooms"], house["layers"]
    width = {room: WIDTH / len(layers[-1]) - (WIDTH / 5 - BOX) if room in layers[-1] else BOX for room in rooms}
    text = {room: textwrap.wrap(", ".join(rooms[room]["modules"]), int(width[room] * 13)) for room in rooms}
    lines = [max(len(text[room]) for room in layer) for layer in layers]
    tall = {room: 0.36 + LINE * lines[row] for row, layer in enumerate(layers) for room in layer}
    heights = [GAP + tall[layer[0]] for layer in layers]

    figure = Figure(figsize=(WIDTH, sum(heights)))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(0, sum(heights)))
    axes.set_axis_off()
    centres = {}
    for row, layer in enumerate(layers):
        bottom = sum(heights[row + 1 :])
        axes.axhspan(bottom, bottom + heights[row], color="#eef1f6" if row % 2 == 0 else "white", linewidth=0)
        for index, room in enumerate(layer):
            x = CENTRES.get(room, WIDTH * (index + 0.5) / len(layer))
            centres[room] = x, bottom + heights[row] / 2
    for room, (x, y) in centres.items():
        left, top = x - width[room] / 2, y + tall[room] / 2
        style = "round,pad=0,rounding_size=0.08"
        box = FancyBboxPatch((left, y - tall[room] / 2), width[room], tall[room], boxstyle=style)
        box.set(facecolor="white", edgecolor="#33507a")
        axes.add_patch(box)
        files = rooms[room]["files"]
        axes.text(left + 0.08, top - 0.19, room, va="center", weight="bold", fontsize=11)
        count = f"{files} files" if files > 1 else "1 file"
        axes.text(left + width[room] - 0.08, top - 0.19, count, ha="right", va="center", fontsize=8, color="#5a6a80")
        for index, line in enumerate(text[room]):
            axes.text(left + 0.08, top - 0.38 - LINE * index, line, va="center", fontsize=8)
    for importer, imported, modules in arrows(house):
        (x, y), (to_x, to_y) = centres[importer], centres[imported]
        line = {"arrowstyle": "-|>", "color": "#c25a1b", "linewidth": 0.8 + 0.3 * modules, "shrinkA": 0, "shrinkB": 0}
        start, end = (x, y - tall[importer] / 2), (to_x, to_y + tall[imported] / 2)
        axes.annotate("", xy=end, xytext=start, arrowprops=line)

    metadata = {"Title": f"The rooms of {PACKAGE}", "Description": json.dumps(house), "Date": None, "Creator": None}
    with rc_context({"svg.hashsalt": PACKAGE}):
        FigureCanvasSVG(figure).print_svg(picture, metadata=metadata)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # this checkout, whatever is installed
    draw(architecture(), PICTURE)
    print(f"drawn: {PICTURE}")
