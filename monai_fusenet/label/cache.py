"""Clusters of images on disk, shared by the processes of a server."""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock

from monai_fusenet.clicks import ClickSelector
from monai_fusenet.utils.files import atomic_path

__all__ = ["ClusterCache", "Clusters"]

logger = logging.getLogger(__name__)

IN_MEMORY = 8  # images whose clusters stay in memory
LOCKS = 64  # files; of two images that share one, the second waits for the first


class Clusters(NamedTuple):
    """The cached data of an image.

    Attributes:
        clusters: (*spatial) of the loaded image, integers 1..K by decreasing size, and 0 outside the field of view.
        uncertainty: how undecided the pixels are between clusters, in [0, 1].
        original_affine: the affine of the file's grid, 4 x 4.
        grid_shape: spatial shape in the file, axes of length 1 included.
        has_geometry: False for pictures, whose first axis is the row.
        nifti_header: where a NIfTI file says that its grid lies, as `load_image` has it.
        selector: turns clicks into masks.
    """

    clusters: np.ndarray
    uncertainty: float
    original_affine: np.ndarray
    grid_shape: tuple[int, ...]
    has_geometry: bool
    nifti_header: bytes
    selector: ClickSelector

    def place(self) -> dict[str, Any]:
        """What `load_image` says about the image's grid, in the `meta` of a label map."""
        names = ("original_affine", "grid_shape", "has_geometry", "nifti_header")
        return {name: getattr(self, name) for name in names}


class ClusterCache:
    """Clusters by key, as one file each; the most recently used ones also in memory.

    Any number of processes may share the folder: files are complete or absent, and the others wait for clusters that
    one process is making. When the files exceed the bound, the least recently used ones are removed. If the disk cannot
    be written, clusters are not saved, but all else works.

    Args:
        folder: folder of the files; made if needed.
        max_bytes: bound on their sum.
    """

    def __init__(self, folder: str | Path, max_bytes: int = 2 * 2**30) -> None:
        self.folder = Path(folder)
        self.max_bytes = max_bytes
        self._memory: OrderedDict[str, Clusters] = OrderedDict()
        self._lock = threading.Lock()  # requests are answered at the same time

    def __contains__(self, key: str) -> bool:
        return key in self._memory or self._path(key).is_file()

    def get(self, key: str, make: Callable[[], Clusters]) -> Clusters:
        """The data under a key; if there is none, `make` makes it, once for all processes."""
        found = self._memory.get(key) or self._read(key)
        if found is None:
            with self._alone(key):
                found = self._read(key) or self._write(key, make())
        with self._lock:
            self._memory[key] = found
            self._memory.move_to_end(key)
            while len(self._memory) > IN_MEMORY:
                self._memory.popitem(last=False)
        return found

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.npz"

    @contextmanager
    def _alone(self, key: str) -> Iterator[None]:
        """Keeps other processes from making the same, where the disk lets it."""
        lock = FileLock(self.folder / "locks" / f"{int(key[:8], 16) % LOCKS}.lock")
        with ExitStack() as stack:
            try:
                (self.folder / "locks").mkdir(parents=True, exist_ok=True)
                stack.enter_context(lock)
            except OSError as error:
                logger.warning("other processes may make the same clusters at the same time: %s", error)
            yield

    def _read(self, key: str) -> Clusters | None:
        path = self._path(key)
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
            found = Clusters(
                clusters=arrays["clusters"],
                uncertainty=float(arrays["uncertainty"]),
                original_affine=arrays["original_affine"],
                grid_shape=tuple(int(side) for side in arrays["grid_shape"]),
                has_geometry=bool(arrays["has_geometry"]),
                nifti_header=arrays["nifti_header"].tobytes(),
                selector=ClickSelector.from_state(arrays),
            )
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Exception as error:  # a damaged file makes numpy raise anything, and one of others may lack a field
            logger.warning("%s is damaged (%s) and made anew", path, error)
            return None
        with suppress(OSError):  # a folder that may only be read
            os.utime(path)  # used just now
        return found

    def _write(self, key: str, made: Clusters) -> Clusters:
        arrays: dict[str, Any] = {name: value for name, value in made._asdict().items() if name != "selector"}
        arrays["nifti_header"] = np.frombuffer(made.nifti_header, dtype=np.uint8)
        arrays |= made.selector.state()
        try:
            with atomic_path(self._path(key)) as temporary:
                np.savez_compressed(temporary, **arrays)
            self._shrink()
        except OSError as error:
            logger.warning("clusters are not kept, they will be made again: cannot write %s (%s)", self.folder, error)
        return made

    def _shrink(self) -> None:
        """Removes the files that were not used for longest, until the rest is within the bound."""
        files = []
        for path in self.folder.glob("*.npz"):
            try:
                state = path.stat()
            except FileNotFoundError:  # another process was faster
                continue
            files.append((state.st_mtime, state.st_size, path))
        excess = sum(size for _, size, _ in files) - self.max_bytes
        for _, size, path in sorted(files)[:-1]:  # the newest one stays, however large
            if excess <= 0:
                break
            path.unlink(missing_ok=True)
            excess -= size
