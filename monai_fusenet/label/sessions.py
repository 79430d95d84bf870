"""Images that clients send for a while, out of whose place no archive and no name leads."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monailabel.utils.sessions import Sessions

from monai_fusenet.label.datastores import is_plain

__all__ = ["ConfinedSessions"]

MOST_UNPACKED = 2**32  # bytes that an archive may hold
ALL_OF_IT = "an archive must be a whole .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz"


class ConfinedSessions(Sessions):
    """MONAI Label's sessions, which unpack archives into their own folder alone."""

    def get_session(self, session_id: str, update_ts: bool = True, fetch_cache: bool = True) -> Any:
        """The session of an id; `None` where there is none."""
        return super().get_session(session_id, update_ts, fetch_cache) if is_plain(session_id) else None

    def add_session(
        self, data_file: str, expiry: int = 0, uncompress: bool = False, session_id: str | None = None
    ) -> tuple[str, Any]:
        """Keeps a file or a folder, or what an archive holds; HTTP 400 for an archive that is damaged or harmful."""
        if uncompress and Path(data_file).is_file():
            data_file = str(_unpacked(Path(data_file)))
        return super().add_session(data_file, expiry, session_id=session_id)


def _unpacked(archive: Path) -> Path:
    """The folder, beside the archive, into which it is unpacked."""
    folder = archive.with_name(f"{archive.name}_unpacked")
    folder.mkdir()
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as members:
                _check_size(sum(member.file_size for member in members.infolist()))
                members.extractall(folder)  # which takes roots and dots out of names
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as packed:
                _check_size(sum(member.size for member in packed))
                packed.extractall(folder, filter="data")
        else:
            raise HTTPException(400, f"{ALL_OF_IT}, got {archive.name!r:.100}")
    except HTTPException:
        shutil.rmtree(folder)
        raise
    except Exception as error:  # a damaged archive makes the libraries raise anything
        shutil.rmtree(folder)
        raise HTTPException(400, f"{ALL_OF_IT}: {str(error).splitlines()[0]:.200}") from error
    return folder


def _check_size(size: int) -> None:
    if size > MOST_UNPACKED:
        raise HTTPException(400, f"an archive may hold {MOST_UNPACKED // 2**20} MiB at most, got {size // 2**20}")
