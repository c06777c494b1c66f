"""The one way to write a file that must survive a crash.

Order: bytes to a temporary file in the target folder → fdatasync → rename → fsync of the folder. Until the folder is
flushed the name can vanish with the power, so nothing may be promised before. The last step is a call of its own
because one flush serves all files that came into a folder meanwhile (docs/protocol.md#order-of-receiving).

A file or folder that is being written has a temporary name that nothing else has. Nothing that was there before is
written over or removed, except a file or folder of the very name that was asked for.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from dicomnode.seams import checkpoint

TEMPORARY_SUFFIX = ".tmp"
FLUSHED_AT_ONCE = 8

Part = bytes | bytearray | memoryview


def write_file(path: Path, parts: Sequence[Part]) -> int:
    """Write the parts, one after the other, flushed and under their final name; return the number of bytes.

    The caller still owes ``sync_folder(path.parent)``. Raises OSError as it comes: the caller that answers the peer
    tells full disk, read-only and lost permission apart. The temporary file is gone whenever this raises.
    """
    temporary = beside(path)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
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


def write_unflushed(path: Path, parts: Sequence[Part]) -> None:
    """Write the parts into a new file of a growing folder, which nobody sees before ``flush_files`` of all of them.

    Raises OSError as it comes.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
    try:
        _write_all(descriptor, parts)
    finally:
        os.close(descriptor)
    checkpoint("durable.written")


def flush_files(folder: Path) -> None:
    """Flush every file below a folder, several at a time: the filesystem then flushes them together.

    Twenty files of 1.5 kB took 10 to 35 ms so, and 120 to 240 ms one after the other as they were written (ext4, a
    loaded disk). Raises OSError as it comes.
    """
    files = [path for path in folder.rglob("*") if path.is_file()]
    with ThreadPoolExecutor(FLUSHED_AT_ONCE, thread_name_prefix="flush") as pool:
        for _ in pool.map(_flush, files):
            pass
    checkpoint("durable.flushed")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def beside(path: Path) -> Path:
    """Return a temporary name for ``path``: in its folder, hidden, and like no other (2⁻⁶⁴)."""
    return path.with_name(f".dicomnode-{secrets.token_hex(8)}{TEMPORARY_SUFFIX}")


def is_left_over(path: Path) -> bool:
    """Tell whether a write that was killed left this file. Nothing uses its name, so it may stay beside other files."""
    return path.name.startswith(".dicomnode-") and path.suffix == TEMPORARY_SUFFIX and path.is_file()


@contextmanager
def growing_file(path: Path) -> Iterator[Path]:
    """Yield a name to write to, for writers that need one; after the block it is flushed and has become ``path``.

    Raises OSError as it comes; where the block or this raises, ``path`` is as it was and nothing is left beside it.
    """
    temporary = beside(path)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.rename(path)
        sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def growing_folder(target: Path, *, replaces: bool = False) -> Iterator[Path]:
    """Yield a new folder for files that the writer flushes; after the block it has become ``target``.

    ``target`` must not exist, or be an empty folder, or (``replaces``) one that the caller made and that is removed.
    Raises OSError as it comes; where the block or this raises, nothing is left. A kill leaves a hidden folder beside
    ``target`` that disturbs nothing.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = beside(target)
    folder.mkdir()
    try:
        yield folder
        aside = beside(target)
        if replaces and target.exists():
            target.rename(aside)
        rename_folder(folder, target)
        shutil.rmtree(aside, ignore_errors=True)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def lock_folder(folder: Path) -> int:
    """Hold a folder for this process until the descriptor is closed, which the system does when the process ends.

    Raises BlockingIOError where another process holds the folder, and OSError where it cannot be used.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


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
    """Write all parts. ``writev`` may take less than it was given, as on a disk that fills up, so it is repeated."""
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
