"""Whether configs and options of a line fit together: MONAI would end in a traceback where they do not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from monai_fusenet.cli.presets import nearest

__all__ = ["blocks_of", "merged", "misfit", "read_config"]

Config = dict[str, Any]


def read_config(file: str) -> Config:
    """The content of a config file.

    Raises:
        ValueError: when it cannot be read, or holds no names with values; OSError likewise.
    """
    with open(file, encoding="utf-8") as config:
        try:
            content = json.load(config) if file.endswith(".json") else yaml.safe_load(config)
        except yaml.YAMLError as error:
            raise ValueError(str(error)) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"it must hold lines `name: value`, got a {type(content).__name__}")
    return content


def merged(configs: Iterable[Config]) -> Config:
    """All names that configs hold, later ones over earlier ones; names of values in blocks are left out."""
    return {name.lstrip("+"): value for config in configs for name, value in config.items() if not _path(name)[1:]}


def blocks_of(config: Config) -> list[str]:
    """The names of all blocks."""
    return sorted(name for name, value in config.items() if isinstance(value, Mapping))


def misfit(config: Config, name: str) -> str | None:
    """Why a config has no place for a value in a block, such as `foreground#objects`; `None` if it has one."""
    key, *steps = _path(name)
    if not steps:
        return None
    if key not in config:
        blocks = blocks_of(config)
        near = nearest(key, blocks, f"blocks are {', '.join(blocks)}", f"{{}}#{'#'.join(steps)}")
        return f"there is no {key}; {near}"
    node, path = config[key], key
    for step in steps:
        if isinstance(node, list):
            if not step.isdecimal() or int(step) >= len(node):
                return f"{path} is a list of {len(node)}, from 0 on"
            node = node[int(step)]
        elif isinstance(node, Mapping):
            node = node.get(step)
        else:
            return f"{path} is no block"
        path = f"{path}#{step}"
    return None


def _path(name: str) -> list[str]:
    return re.split("#|::", name.lstrip("+"))
