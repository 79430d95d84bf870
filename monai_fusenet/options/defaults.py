"""The defaults of options, as the configs of the bundle have them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_fusenet.options.table import WORKFLOWS, Option
from monai_fusenet.shipped import config_files

__all__ = ["CONFIGS", "default_of", "shipped_configs"]

# The file of each workflow, without its ending.
CONFIGS = dict(zip(WORKFLOWS, ("train", "inference", "evaluate", "distill"), strict=True))


def shipped_configs() -> dict[str, dict[str, Any]]:
    """The config of each workflow, as it is written."""
    return {
        workflow: json.loads(Path(config_files(name)[0]).read_text(encoding="utf-8"))
        for workflow, name in CONFIGS.items()
    }


def default_of(option: Option, configs: Mapping[str, Mapping[str, Any]]) -> str:
    """The default of an option as a table shows it, for each workflow where they differ.

    Args:
        option: of the table.
        configs: by the names of their workflows; workflows that are not among them are left out.
    """
    if option.overlays:
        return f"of {' and '.join(f'`{name}`' for name in option.overlays)}"
    texts = {name: _shown(configs[name][option.name]) for name in option.workflows if name in configs}
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return ", ".join(f"{text} ({name})" for name, text in texts.items())


def _shown(value: Any) -> str:
    if str(value).startswith("$"):
        return "computed"
    return f"that of `--{value[1:]}`" if str(value).startswith("@") else f"`{json.dumps(value)}`"
