"""The bundle and the overlays that the package brings: where they lie, and copies of them.

It imports nothing of this package, nor torch, so that the command `monai-fusenet` answers at once.
"""

from __future__ import annotations

import shutil
from pathlib import Path

__all__ = ["config_files", "copy_bundle", "shipped"]

PACKAGE = Path(__file__).parent


def shipped(name: str) -> Path:
    """Where `bundles` or `configs` lies: in the installed package, or beside it in a checkout."""
    installed = PACKAGE / "share" / name
    return installed if installed.is_dir() else PACKAGE.parent / name


def config_files(name: str, *overlays: str) -> list[str]:
    """The files of a workflow of the bundle, in the order in which later ones overrule earlier ones.

    Args:
        name: `train`, `inference`, `evaluate` or `distill`.
        overlays: names of overlays of this package, those in the bundle included, or paths of files `.yaml`, `.yml`
            or `.json`.
    """
    bundle, configs = shipped("bundles") / "fusenet_segmentation" / "configs", shipped("configs")
    in_bundle = [path.stem for path in bundle.glob("*.json")]

    def file_of(overlay: str) -> str:
        if overlay.endswith((".yaml", ".yml", ".json")):
            return overlay
        return str(bundle / f"{overlay}.json" if overlay in in_bundle else configs / f"{overlay}.yaml")

    return [str(bundle / f"{name}.json"), *map(file_of, overlays)]


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
