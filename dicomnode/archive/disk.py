"""Look at a disk: list a folder, remove what is temporary, and say in words what could not be read."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from dicomnode.durable import TEMPORARY_SUFFIX
from dicomnode.errors import StorageError


def scan(folder: Path) -> list[os.DirEntry[str]]:
    """List a folder, in no order; a folder that does not exist counts as empty."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def remove_temporary(folder: Path) -> int:
    """Remove a temporary folder with all in it, or a temporary file; 1 if there was one."""
    assert folder.name.endswith(TEMPORARY_SUFFIX), "only what ends in .tmp is ever removed"
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return 0
    except OSError as exc:
        if exc.errno != errno.ENOTDIR:
            raise
        folder.unlink()
    return 1


def unreadable(path: Path, exc: OSError) -> StorageError:
    """Return the error for a path of which the disk does not say what is there."""
    return StorageError(
        f"{path} could not be read: {exc.strerror}.",
        hint="Check that the disk is mounted and sound, and that the node's user may read it.",
    )
