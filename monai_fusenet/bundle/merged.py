"""The bundle with overlays merged into it, as one folder that stands alone: `python -m monai_fusenet.bundle.merged`.

For programs that run bundles but do not support overlays, such as MONAI Deploy and MONAI Label's own app for bundles.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from monai_fusenet.bundle.context import KEY, Context, FuseNetWorkflow
from monai_fusenet.bundle.student_bundle import write_bundle
from monai_fusenet.engines.contract import named_output
from monai_fusenet.shipped import config_files, shipped

__all__ = ["write_merged"]

README = """# Label-free segmentation, with {overlays}

`configs/inference.json` is that of monai-fusenet's bundle with these overlays in it. Each image is fitted anew, from
fresh weights: those in `models/model.pt` are seeded and untrained. Research software, not a medical device.

```bash
python -m monai.bundle run --config_file configs/inference.json --dataset_dir FOLDER --output_dir RESULTS
```
"""


def write_merged(folder: str | Path, overlays: Sequence[str] = (), options: Mapping[str, Any] | None = None) -> None:
    """Writes the bundle with overlays and options in its `inference.json`.

    Args:
        folder: folder of the new bundle; files of an earlier one are replaced.
        overlays: names of overlays of this package, or paths of files `.yaml`; later ones override earlier ones.
        options: options of the workflow `inference`, by name.

    Raises:
        ValueError: when an overlay does not exist, or an option is unknown or wrong; nothing is written then.
    """
    files = config_files("inference", *overlays)
    for file in files:
        if not Path(file).is_file():
            known = ", ".join(sorted(path.stem for path in shipped("configs").glob("*.yaml")))
            raise ValueError(f"there is no overlay {file}; those of this package are {known}")
    workflow = FuseNetWorkflow(files, workflow_type="infer", logging_file=False, **(options or {}))
    context = Context.of(workflow)
    config = {"imports": context.config["imports"], KEY: "$fusenet.current_workflow()", **context.config}
    workflow.initialize()
    network = context.content("network_def")
    bundle = shipped("bundles") / "fusenet_segmentation"
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text("utf-8"))
    image = metadata["network_data_format"]["inputs"]["image"]
    channels = context.content("network_channels")
    image |= {"num_channels": channels, "spatial_shape": list(context.content("working_size"))}
    image["channel_def"] = {str(channel): "image" for channel in range(channels)}
    with torch.no_grad():
        scores = named_output(network.eval()(torch.zeros(1, channels, *image["spatial_shape"])))[0]
    pred = metadata["network_data_format"]["outputs"]["pred"]
    pred |= {"num_channels": scores.shape[1], "spatial_shape": image["spatial_shape"]}
    pred["channel_def"] = {str(cluster): "a cluster" for cluster in range(scores.shape[1])}
    metadata["eval_metrics"] = {}  # those of the bundle are of other overlays
    readme = README.format(overlays=", ".join(overlays) or "no overlay")
    write_bundle(folder, network, config, metadata, bundle, readme)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m monai_fusenet.bundle.merged", description=__doc__)
    parser.add_argument("folder", help="of the bundle that is written")
    parser.add_argument("overlays", nargs="*", help="names, as volume ct, or files .yaml")
    given = parser.parse_args(arguments)
    try:
        write_merged(given.folder, given.overlays)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"wrote {given.folder}")


if __name__ == "__main__":
    main()
