"""Files that are either complete or absent."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SUMMARY_COLUMNS = (
    *("file", "status", "clusters", "steps", "seconds", "peak_mib", "mask_fraction", "choice", "message"),
)


def holds_results(folder: str | Path) -> bool:
    """Whether a folder is one that this package's workflows have written to: its pictures are no images to work on."""
    if all(os.path.isfile(os.path.join(folder, name)) for name in ("checkpoint.pt", "panel.png")):
        return True
    try:
        with open(os.path.join(folder, "summary.csv"), encoding="utf-8") as file:
            return file.readline().startswith(",".join(SUMMARY_COLUMNS[:5]))  # what all versions have
    except (OSError, UnicodeDecodeError):
        return False


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path to write to, which becomes ``path`` when the block ends without an error.

    The temporary file lies in the same folder (a rename within one file system is atomic) and has the same suffixes
    (writers such as nibabel and Pillow choose their format by them). An error in the block removes it and leaves a
    ``path`` from earlier as it was; what a killed process leaves, the next attempt overwrites.

    Args:
        path: the file to write; its folder must exist.

    Yields:
        the temporary path, which does not exist yet.
    """
    path = Path(path)
    temporary = _temporary(path, "".join(path.suffixes[-2:]))
    try:
        temporary.unlink(missing_ok=True)  # a link that somebody laid there would lead out of the folder
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yields a new folder to write into, which becomes ``path`` when the block ends without an error.

    As `atomic_path`, but that a folder cannot take the place of another in one step: a process that is killed just
    then leaves none.

    Args:
        path: the folder to write; the one above it must exist.
    """
    path = Path(path)
    temporary = _temporary(path)
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed process
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary(path: Path, suffix: str = "") -> Path:
    """A hidden neighbour, short, so that it fits wherever the name itself does, and the same for the same path."""
    digest = hashlib.sha256(path.name.encode(errors="surrogateescape")).hexdigest()[:12]
    return path.with_name(f".{digest}{suffix}")
