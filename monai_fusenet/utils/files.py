"""Files that are either complete or absent."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class CannotWriteError(OSError):
    """A folder cannot be written any more; the message says which one, why, and what to do."""

    def __str__(self) -> str:
        return str(self.strerror)  # without a number in brackets


REMEDIES = {
    errno.ENOSPC: "free space there",
    errno.EDQUOT: "free space there",
    errno.EFBIG: "raise the limit on the size of files",
    errno.EROFS: "make the folder writable",
    errno.EACCES: "make the folder writable",
    errno.EPERM: "make the folder writable",
}


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Gives one clear line for errors in the block from a full disk or a folder that may not be written.

    Such an error does not belong to the current image: the next one would fail, too.

    Args:
        path: the file that is being written.

    Raises:
        CannotWriteError: instead of such an error; all others pass.
    """
    try:
        yield
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0)
        if remedy is None or isinstance(error, CannotWriteError):
            raise
        path = Path(path)
        message = f"cannot write {path.name} into {path.parent}: {error.strerror}; {remedy}, or choose another folder"
        raise CannotWriteError(error.errno, message) from error


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path to write to, which becomes ``path`` when the block ends without an error.

    The temporary file lies in the same folder (a rename within one file system is atomic) and has the same suffixes
    (writers such as nibabel and Pillow choose their format by them). An error in the block removes it and leaves an
    earlier ``path`` unchanged. The next attempt overwrites the rest of a killed process. This does not protect against
    a power cut: nothing waits for the disk, because that would take more time per small file than writing it.

    Args:
        path: the file to write; its folder is made if need be.

    Yields:
        the temporary path, which does not exist yet.

    Raises:
        CannotWriteError: when the disk is full, or the folder may not be written.
    """
    path = Path(path)
    temporary = _temporary(path, "".join(path.suffixes[-2:]))
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.unlink(missing_ok=True)  # a link that somebody laid there would lead out of the folder
            yield temporary
            os.replace(temporary, path)
        finally:
            with suppress(OSError):  # in a folder that may not be written, the first error is the one to see
                temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yields a new folder to write into, which becomes ``path`` when the block ends without an error.

    As `atomic_path`, but a folder cannot replace another in one step: a process that is killed in that moment leaves
    none.

    Args:
        path: the folder to write; the one above it is made if need be.

    Raises:
        CannotWriteError: when the disk is full, or the folder may not be written.
    """
    path = Path(path)
    temporary = _temporary(path)
    with writing(path):
        shutil.rmtree(temporary, ignore_errors=True)  # of a killed process
        temporary.mkdir(parents=True)
        try:
            yield temporary
            if path.exists():
                shutil.rmtree(path)
            os.replace(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def alone_in(folder: str | Path) -> Iterator[None]:
    """Keeps other processes that do the same out of a folder of results while the block runs.

    It is a lock of the system on the folder itself: a killed process leaves nothing behind. On Windows, and on file
    systems without locks, it has no effect.

    Args:
        folder: made if need be.

    Raises:
        ValueError: when another process is in there.
    """
    with writing(folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"another run is writing into {folder}: wait for its end, or choose another --output_dir"
                ) from None
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)  # workers that still end hold the folder open, too
        os.close(handle)


def _temporary(path: Path, suffix: str = "") -> Path:
    """A hidden neighbour, short, so that it fits wherever the name itself does, and the same for the same path."""
    digest = hashlib.sha256(path.name.encode(errors="surrogateescape")).hexdigest()[:12]
    return path.with_name(f".{digest}{suffix}")


def content_digest(paths: str | Path | Sequence[str | Path]) -> str:
    """SHA-256 of a file, of all files of a folder (a DICOM series), or of several of them, as hexadecimal digits.

    Raises:
        OSError: when there is none, or it cannot be read.
    """
    digest = hashlib.sha256()
    for path in map(Path, [paths] if isinstance(paths, str | Path) else paths):
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            if file.exists() and not file.is_file():  # a pipe or a device may have no end
                continue
            with file.open("rb") as content:
                while block := content.read(2**20):
                    digest.update(block)
    return digest.hexdigest()
