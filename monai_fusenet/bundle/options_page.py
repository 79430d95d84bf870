"""`docs/options.md`, made of the table of options and the defaults in the configs.

`python -m monai_fusenet.bundle.options_page > docs/options.md` writes it anew.
"""

from __future__ import annotations

from monai_fusenet.options import OPTIONS, WORKFLOWS, default_of, shipped_configs

HEAD = """# Options

Made by `python -m monai_fusenet.bundle.options_page > docs/options.md` from the table in
`monai_fusenet/options/table.py` and the defaults in `bundles/fusenet_segmentation/configs/`.

Every option is given as `--name value` after `python -m monai.bundle run ...`, or as `name: value` in an overlay.
A misspelt one ends the run in one line that names the nearest known one. Arguments of a block are reached with `#`, as
`--foreground#objects 2`.

"Results" says whether results depend on the option: a folder that holds results of another value is not continued.
"""


def options_page() -> str:
    """The page as Markdown."""
    configs = shipped_configs()
    lines = [HEAD, "| option | value | default | workflows | results | what it does |", "|---|---|---|---|---|---|"]
    for option in OPTIONS:
        workflows = "all" if option.workflows == WORKFLOWS else ", ".join(option.workflows)
        depends = "yes" if option.shapes_results else "no"
        cells = (f"`--{option.name}`", option.kind.text, default_of(option, configs), workflows, depends, option.help)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(options_page(), end="")
