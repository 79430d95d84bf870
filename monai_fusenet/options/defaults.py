"""The defaults of options, as the configs of the bundle have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from monai_fusenet.shipped import config_files

__all__ = ["CONFIGS", "shipped_configs"]

# The file of each workflow, without its ending.
CONFIGS = {"training": "train", "inference": "inference", "evaluation": "evaluate", "distillation": "distill"}


def shipped_configs() -> dict[str, dict[str, Any]]:
    """The config of each workflow, as it is written."""
    return {
        workflow: json.loads(Path(config_files(name)[0]).read_text(encoding="utf-8"))
        for workflow, name in CONFIGS.items()
    }
