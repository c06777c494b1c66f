"""The data folder: one service at a time, folders that a power cut leaves in place, and the room on its disk."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

from dicomnode.archive.disk import unreadable
from dicomnode.durable import TEMPORARY_SUFFIX, lock_folder, make_folder, sync_folder
from dicomnode.errors import StorageError
from dicomnode.seams import checkpoint

RESTORING = f"restoring{TEMPORARY_SUFFIX}"  # in the data folder while a restore writes into it


class DataFolder:
    """One data folder. Safe to use from many threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._folders_lock = threading.Lock()
        self._folders_made: set[Path] = set()
        self._lock_descriptor: int | None = None

    def lock(self) -> None:
        """Claim the data folder for this process until it ends or calls ``unlock``: one service a folder."""
        assert self._lock_descriptor is None, "locked already"
        try:
            self.ensure(self.path)
            descriptor = lock_folder(self.path)
        except BlockingIOError as exc:
            raise StorageError(
                f"Another dicomnode service uses the data folder {self.path}; nothing was done.",
                hint="Stop the other one, or give this one a folder of its own (`node.data`).",
            ) from exc
        except OSError as exc:
            raise StorageError(
                f"The data folder {self.path} cannot be used: {exc.strerror}; the node did not start.",
                hint="Create it, or give the node's user write permission, or set `node.data`.",
            ) from exc
        self._lock_descriptor = descriptor

    def unlock(self) -> None:
        """Release the data folder."""
        if self._lock_descriptor is not None:
            os.close(self._lock_descriptor)
            self._lock_descriptor = None

    def require_restored(self) -> None:
        """Raise StorageError where a restore into the data folder has begun and has not ended."""
        if (self.path / RESTORING).is_dir():
            raise StorageError(
                f"A restore into the data folder {self.path} was broken off; nothing was done.",
                hint="Run `dicomnode db restore` again: it begins anew.",
            )

    def ensure(self, folder: Path) -> None:
        """Make a folder and those above it below the data folder, each flushed into its parent before it is used.

        Under a lock: a second thread must not find a folder whose name is not flushed yet.
        """
        if folder in self._folders_made and folder.is_dir():
            return
        with self._folders_lock:
            lineage = [folder, *folder.parents]
            known = next((depth for depth, one in enumerate(lineage) if one.is_dir()), len(lineage))
            for one in reversed(lineage[:known]):
                make_folder(one)
                checkpoint("archive.folder_made")
            if folder != self.path and folder not in self._folders_made:
                # A process that was killed in between may have left the folder there, not flushed.
                sync_folder(folder.parent)
            self._folders_made.add(folder)

    def free_percent(self) -> float:
        """Return the free space of the disk in percent of its size."""
        total, free = self._usage()
        return 100.0 * free / total if total else 0.0

    def size_bytes(self) -> int:
        """Return the size of the disk."""
        total, _ = self._usage()
        return total

    def free_bytes(self) -> int:
        """Return the free space of the disk."""
        _, free = self._usage()
        return free

    def _usage(self) -> tuple[int, int]:
        try:
            usage = shutil.disk_usage(self.path)
        except OSError as exc:
            raise unreadable(self.path, exc) from exc
        return usage.total, usage.free
