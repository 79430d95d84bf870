"""`python -m monai_fusenet [FOLDER]`: lays the bundle and the overlays that the package brings into a folder."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent


def shipped(name: str) -> Path:
    """Where `bundles` or `configs` lies: in the installed package, or beside it in a checkout."""
    installed = PACKAGE / "share" / name
    return installed if installed.is_dir() else PACKAGE.parent / name


def copy_bundle(folder: str | Path) -> list[Path]:
    """Copies `bundles/` and `configs/` into a folder, which is made if need be; each is complete or absent.

    Args:
        folder: where to.

    Returns:
        the two copies.

    Raises:
        ValueError: when one of them is there already; nothing is written then.
    """
    targets = [Path(folder) / name for name in ("bundles", "configs")]
    for target in targets:
        if target.exists():
            raise ValueError(f"{target} is there already; choose another folder, or remove it first")
    scratch = Path(folder) / ".monai_fusenet_copy"  # what a killed copy left there goes
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        for target in targets:
            litter = shutil.ignore_patterns("__pycache__")
            shutil.copytree(shipped(target.name), scratch / target.name, ignore=litter)
        for target in targets:
            (scratch / target.name).rename(target)
    except shutil.Error as error:  # a list of all files, without errno
        _, target, reason = error.args[0][0]
        raise OSError(f"cannot write {target}: {reason}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return targets


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
