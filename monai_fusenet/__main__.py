"""`python -m monai_fusenet [FOLDER]`: lays the bundle and the overlays that the package brings into a folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from monai_fusenet.shipped import copy_bundle


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m monai_fusenet", description=__doc__)
    parser.add_argument("folder", nargs="?", default=".", help="where to (default: the current folder)")
    folder = Path(parser.parse_args(arguments).folder)
    try:
        copies = copy_bundle(folder)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    config = copies[0] / "fusenet_segmentation" / "configs" / "inference.json"
    print(f"wrote {copies[0]} and {copies[1]}; for example:")
    print(f"python -m monai.bundle run inference --config_file {config} --dataset_dir YOUR_IMAGES")


if __name__ == "__main__":
    main()
