"""A distilled network as a self-contained MONAI bundle."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from monai_fusenet.bundle.checks import ENTRIES, PROPERTIES, references
from monai_fusenet.bundle.context import Context
from monai_fusenet.handlers.checkpoint import save_tensors
from monai_fusenet.options import OPTIONS
from monai_fusenet.utils.files import atomic_path

__all__ = ["student_config", "write_bundle", "write_student"]

STUDENT_PARTS = ("preprocessing", "inferer", "mask", "postprocessing")  # of the block `student`


def write_student(
    workflow: Context,
    network: nn.Module,
    weights: str,
    bundle_root: str | Path,
    folder: str | Path,
    learnt: Mapping[str, Any],
) -> None:
    """Writes a distilled network as a bundle, with the values of all options that its config uses.

    Args:
        workflow: runs the distillation.
        network: the network.
        weights: its fingerprint.
        bundle_root: the bundle that runs.
        folder: the output folder.
        learnt: options with a value that the training found.
    """
    shipped, metadata = (
        json.loads((Path(str(bundle_root)) / "configs" / f"{name}.json").read_text("utf-8"))
        for name in ("inference", "metadata")
    )
    used = references(student_config(workflow.config, shipped, {}, weights)) - {"checkpoint"}
    names = [option.name for option in OPTIONS if option.shapes_results and option.name in used]
    values = {name: learnt[name] if name in learnt else workflow.content(name) for name in names}
    config = student_config(workflow.config, shipped, values, weights)
    write_bundle(folder, network, config, student_metadata(metadata, values), bundle_root, BUNDLE_README)


def student_config(
    config: Mapping[str, Any], parent: Mapping[str, Any], values: Mapping[str, Any], weights: str
) -> dict[str, Any]:
    """The `inference.json` of a distilled network: the shipped one with its own network and transforms.

    Parts that are no longer used, such as the loss, are left out.

    Args:
        config: of the distillation, as it is written.
        parent: the shipped `inference.json`: names, order and what runs are taken from it.
        values: options whose values are known by now.
        weights: fingerprint of the weights, which distinguishes their results from those of other weights.
    """
    parts = {name: config["student"][name] for name in STUDENT_PARTS}
    own = json.loads(re.sub("@student(#|::)", "@", json.dumps(parts)))  # MONAI's parser turns one into the other
    own |= {
        "network_def": config["student_def"],
        "network": "$fusenet.initial_network(@network_def, @checkpoint, @device)",
        "checkpoint": "$@bundle_root + '/models/model.pt'",
        "scaling": config["scaling"],
        "writer": {**parent["writer"], "settings": f"$fusenet.settings(@workflow) | {{'weights': '{weights}'}}"},
    }
    first = ("imports", "workflow", "bundle_root", "dataset_dir", "output_dir", "checkpoint")
    merged = {**parent, **own}
    head = {key: merged[key] for key in first} | dict(values)
    whole = head | {key: value for key, value in merged.items() if key not in head}
    reached = _reached(whole)
    return {key: value for key, value in whole.items() if key in reached}


def _reached(config: Mapping[str, Any]) -> set[str]:
    """The keys that MONAI or a user asks for, and all that these refer to."""
    reached: set[str] = set()
    left = {*ENTRIES, *PROPERTIES}
    while left:
        key = left.pop()
        if key in config and key not in reached:
            reached.add(key)
            left |= references(config[key])
    return reached


def student_metadata(parent: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The `metadata.json` of a distilled network."""
    shape = list(values["student_size"])
    image = {**parent["network_data_format"]["inputs"]["image"], "num_channels": values["in_channels"]}
    image |= {
        "spatial_shape": shape,
        "channel_def": {str(channel): "image" for channel in range(values["in_channels"])},
    }
    classes = values["classes"]
    several = len(classes) > 1
    channels = ["background", *(f"class {value}" for value in classes)] if several else ["foreground"]
    pred = {**parent["network_data_format"]["outputs"]["pred"], "num_channels": len(channels)}
    pred |= {"format": "segmentation", "spatial_shape": shape}
    pred |= {"channel_def": {str(place): name for place, name in enumerate(channels)}}
    return {
        **parent,
        "changelog": {parent["version"]: "distilled from label-free masks"},
        "name": "Distilled segmentation",
        "task": "Segmentation of the kind of image that the folder held which it was distilled from",
        "description": "A feed-forward network trained on masks made and chosen without any label.",
        "data_source": "one folder of images, without their masks",
        "image_classes": f"{values['in_channels']} channels, intensities scaled to [0, 1] per image",
        "pred_classes": f"logits of {', '.join(channels)}" if several else "logit of the foreground",
        "eval_metrics": {},
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": pred}},
    }


def write_bundle(
    folder: str | Path,
    network: nn.Module,
    config: Mapping[str, Any],
    metadata: Mapping[str, Any],
    parent: str | Path,
    readme: str,
) -> None:
    """Writes a network as a self-contained MONAI bundle; each file is complete or absent.

    Args:
        folder: of the bundle: `configs/`, `models/model.pt`, `docs/`, `LICENSE`.
        network: the network with the weights.
        config: content of `configs/inference.json`.
        metadata: content of `configs/metadata.json`.
        parent: the bundle that this one comes from, whose licence and `logging.conf` are copied.
        readme: content of `docs/README.md`.
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
        temporary.write_text(readme, encoding="utf-8")


BUNDLE_README = """# A segmentation network distilled without labels

Trained by the workflow `distillation` of monai-fusenet on one folder of images, on masks that were made and chosen
without any ground truth. It knows that kind of image and no other. Research software, not a medical device.

From the folder of this bundle:

```bash
python -m monai.bundle run --config_file configs/inference.json --dataset_dir FOLDER --output_dir RESULTS
```

writes `<name>_mask.png` (`.nii.gz` for everything with a geometry) of each image on its own grid; of several classes,
a label map of the values that `configs/inference.json` lists under `classes`. Reading files and
writing masks on their grid needs the package monai-fusenet; the network itself is MONAI's, and `models/model.pt` its
plain state dict. Input: intensities scaled to [0, 1] as the block `scaling` says, resized to `student_size`; output:
one channel, the logit of the foreground, or, of several classes, the logits of the background and of each.
"""
