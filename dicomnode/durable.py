"""The one way to write a file that must survive a crash.

Order: bytes to a temporary file in the target folder → fdatasync → rename → fsync of the folder. Until the
folder is flushed the name can vanish with the power, so nothing may be promised before. The last step is a
call of its own because one flush serves all files that came into a folder meanwhile (NODE 3.3).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from dicomnode.seams import checkpoint

TEMPORARY_SUFFIX = ".tmp"

Part = bytes | bytearray | memoryview


def write_file(path: Path, parts: Sequence[Part]) -> int:
    """Write the parts, one after the other, flushed and under their final name; bytes written.

    The caller still owes ``sync_folder(path.parent)``. Raises OSError as it comes: full disk, read-only and lost
    permission are told apart by whoever answers the peer. The temporary file is gone whenever this raises.
    """
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
    try:
        try:
            written = _write_all(descriptor, parts)
            checkpoint("durable.written")
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        checkpoint("durable.flushed")
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    checkpoint("durable.renamed")
    return written


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Create a folder, and flush its name, before the first file comes into it."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        sync_folder(folder.parent)


def rename_folder(folder: Path, target: Path) -> None:
    """Publish a folder whose files are all flushed, in one step."""
    sync_folder(folder)
    folder.rename(target)
    sync_folder(target.parent)


def _write_all(descriptor: int, parts: Sequence[Part]) -> int:
    """``writev`` may take less than it was given, as on a disk that fills up: write on until all is out."""
    views = [memoryview(part).cast("B") for part in parts if len(part)]
    total = 0
    while views:
        count = os.writev(descriptor, views)
        total += count
        while views and count >= len(views[0]):
            count -= len(views[0])
            views.pop(0)
        if count:
            views[0] = views[0][count:]
    return total
