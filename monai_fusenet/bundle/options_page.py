"""Makes `docs/options.md` from the table of options and the defaults in the configs.

`python -m monai_fusenet.bundle.options_page > docs/options.md` writes it again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from monai_fusenet.options import OPTIONS, WORKFLOWS, Option, shipped_configs

HEAD = """# Options

Give an option as `--name value` at the end of the command or of the `python -m monai.bundle run ...` line, or as
`name: value` in an overlay. The command `masks` is the workflow `inference`, `train` is `training`, `distill` is
`distillation`, and `evaluate` is `evaluation`. Values in a block are reached with `#`, as `--foreground#objects 2`. A
misspelt name ends the run in one line with the nearest known one (a misspelt block on MONAI's line: by a `KeyError`).

The defaults are those without a preset. A preset changes some of them: its file in `configs/` names which. "Results"
says whether results depend on the option. A folder with results of another value is not continued.
"""
FOOT = """
*This page is made from the table in `monai_fusenet/options/table.py` and the configs of the bundle:
`python -m monai_fusenet.bundle.options_page > docs/options.md`.*
"""


def default_of(option: Option, configs: Mapping[str, Mapping[str, Any]]) -> str:
    """The default of an option as the table shows it, for each workflow if they differ."""
    if option.overlays:
        return f"of {' and '.join(f'`{name}`' for name in option.overlays)}"
    texts = {name: _shown(configs[name][option.name]) for name in option.workflows}
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return ", ".join(f"{text} ({name})" for name, text in texts.items())


def _shown(value: Any) -> str:
    if str(value).startswith("$"):
        return "computed"
    return f"that of `--{value[1:]}`" if str(value).startswith("@") else f"`{json.dumps(value)}`"


def _as_code(text: str) -> str:
    """A text whose names of files and whose lists Markdown would take for tags and quotes, as code."""
    return re.sub(r"<\w+>[\w*]*(?:\.[\w*]+)?|\[['\d][^\]]*\]", lambda found: f"`{found.group()}`", text)


def options_page() -> str:
    """The page as Markdown."""
    configs = shipped_configs()
    lines = [HEAD, "| option | value | default | workflows | results | what it does |", "|---|---|---|---|---|---|"]
    for option in OPTIONS:
        workflows = "all" if option.workflows == WORKFLOWS else ", ".join(option.workflows)
        depends = "yes" if option.shapes_results else "no"
        cells = (
            f"`--{option.name}`",
            option.kind.text,
            default_of(option, configs),
            workflows,
            depends,
            _as_code(option.help),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, FOOT])


if __name__ == "__main__":
    print(options_page(), end="")
