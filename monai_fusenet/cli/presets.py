"""Presets: the overlays of the package, by name, and the user's own files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from itertools import takewhile
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from monai_fusenet.options import CONFIGS
from monai_fusenet.shipped import shipped

__all__ = ["Preset", "nearest", "preset_names"]

SUFFIXES = (".yaml", ".yml", ".json")


def nearest(name: str, known: Iterable[str], otherwise: str, form: str = "{}") -> str:
    """The end of a message on an unknown name: the nearest known name in a form, or another text if none is near."""
    close = get_close_matches(name, list(known), n=1)
    return f"did you mean {form.format(close[0])}?" if close else otherwise


def preset_names() -> dict[str, str]:
    """The overlays of the package with the purpose of each: the first sentence of its file."""
    return {path.stem: _first_sentence(path) for path in sorted(shipped("configs").glob("*.yaml"))}


def _first_sentence(path: Path) -> str:
    lines = takewhile(lambda line: line.startswith("# ") and not line.startswith("#   "), path.open(encoding="utf-8"))
    text = " ".join(line.strip("# \n") for line in lines)
    return re.split(r"(?<! al)\. |; |[:.]$", text)[0]


def _in_bundle() -> set[str]:
    """Overlays in the bundle, for several processes and for federations."""
    configs = shipped("bundles") / "fusenet_segmentation" / "configs"
    return {path.stem for path in configs.glob("*.json")} - {*CONFIGS.values(), "metadata"}


class Preset(click.ParamType):
    """The name of an overlay, or a file."""

    name = "preset"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Returns the name or file as given; raises `click.UsageError` if it is neither."""
        names = preset_names()
        if value.endswith(SUFFIXES):
            if not Path(value).expanduser().is_file():
                raise click.UsageError(f"--preset: there is no file {value}", ctx)
            return str(Path(value).expanduser())
        if value not in names and value not in _in_bundle():
            all_names = f"known are {', '.join(names)}"
            raise click.UsageError(f"unknown preset {value}; {nearest(value, names, all_names)}", ctx)
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Names with their purpose, and files."""
        found = [
            CompletionItem(name, help=help) for name, help in preset_names().items() if name.startswith(incomplete)
        ]
        return found or [CompletionItem(incomplete, type="file")]
