"""A distilled network as a MONAI bundle that stands alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from monai_fusenet.handlers.checkpoint import save_tensors
from monai_fusenet.utils.files import atomic_path

__all__ = ["write_bundle"]


def write_bundle(
    folder: str | Path, network: nn.Module, config: Mapping[str, Any], metadata: Mapping[str, Any], parent: str | Path
) -> None:
    """Writes a network as a MONAI bundle that stands alone; each file is complete or absent.

    Args:
        folder: of the bundle: `configs/`, `models/model.pt`, `docs/`, `LICENSE`.
        network: whose weights go into it.
        config: what becomes `configs/inference.json`.
        metadata: what becomes `configs/metadata.json`.
        parent: the bundle that this one comes from, whose licence and `logging.conf` it takes over.
    """
    folder = Path(folder)
    weights = {name: value.cpu() for name, value in network.state_dict().items()}
    save_tensors(weights, folder / "models" / "model.pt")
    for name, content in (("metadata", metadata), ("inference", config)):
        with atomic_path(folder / "configs" / f"{name}.json") as temporary:
            temporary.write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
    for source, target in (("LICENSE", "LICENSE"), ("configs/logging.conf", "configs/logging.conf")):
        if (Path(parent) / source).is_file():
            with atomic_path(folder / target) as temporary:
                shutil.copyfile(Path(parent) / source, temporary)
    with atomic_path(folder / "docs" / "README.md") as temporary:
        temporary.write_text(BUNDLE_README, encoding="utf-8")


BUNDLE_README = """# A segmentation network distilled without labels

Trained by the workflow `distillation` of monai-fusenet on one folder of images, on masks that were made and chosen
without any ground truth. It knows that kind of image and no other. Research software, not a medical device.

From the folder of this bundle:

```bash
python -m monai.bundle run --config_file configs/inference.json --dataset_dir FOLDER --output_dir RESULTS
```

writes `<name>_mask.png` (`.nii.gz` for everything with a geometry) of each image on its own grid. Reading files and
writing masks on their grid needs the package monai-fusenet; the network itself is MONAI's, and `models/model.pt` its
plain state dict. Input: intensities scaled to [0, 1] between percentiles, resized to `student_size`; output: one
channel, the logit of the foreground.
"""
