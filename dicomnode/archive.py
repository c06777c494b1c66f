"""Keep instances on disk: the bytes that came over the wire in, the same bytes out.

    <data>/archive/<series id>/<instance id>.dcm     Part 10 file around the dataset bytes as received
    <data>/archive/<series id>.tmp/                  a job's output before it is published
    <data>/quarantine/<id>.dcm                       files set aside, never read by the node itself

Every name is made of our own ids: nothing that a peer sent ever becomes part of a path. The dataset is neither
decoded nor changed. A file whose name ends in ``.tmp`` was never promised to anyone. Nothing else is ever deleted here,
except a file that the ledger has just found to be a duplicate (``discard``), and one whose row says already that it is
removed (``remove``).

The files that an earlier process left in the folder of a series are checked before this process first writes into it
(``before_first_write``). A file that lies there afterwards without a row was written by this process, which is about to
give it one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

from dicomnode.durable import TEMPORARY_SUFFIX, Part, lock_folder, make_folder, rename_folder, sync_folder, write_file
from dicomnode.errors import StorageError
from dicomnode.ids import IMPLEMENTATION_CLASS_UID, InstanceId, SeriesId, file_stem, new_instance_id
from dicomnode.part10 import file_meta, read_meta
from dicomnode.seams import checkpoint

FILE_SUFFIX = ".dcm"

RESTORING = f"restoring{TEMPORARY_SUFFIX}"  # in the data folder while a restore writes into it

_STALE_SUFFIX = f".stale{TEMPORARY_SUFFIX}"


class FileState(StrEnum):
    """The result of a check of an archived file."""

    WHOLE = "whole"
    ALTERED = "altered"
    MISSING = "missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The id, sender and arrival of a file, kept in its private file meta, so that the file alone shows its origin."""

    id: InstanceId
    peer: str
    received_at: datetime


class Archive:
    """The files of one data folder. Safe to use from many threads; one service at a time (``lock``)."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.root = data / "archive"
        self.quarantine_folder = data / "quarantine"
        self.before_first_write: Callable[[str], None] = _no_look  # the sweep sets it; takes a folder's name
        self._published: set[SeriesId] = set()  # series whose output this process published
        self._folders_lock = threading.Lock()
        self._folders_made: set[Path] = set()
        self._lock_descriptor: int | None = None

    # Methods for the room ``receive``.

    def put(
        self,
        series: SeriesId,
        instance_id: InstanceId,
        *,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
        dataset: Part,
        peer: str,
        received_at: datetime,
    ) -> str:
        """Write one received dataset, flushed and under its final name; return its path below the archive folder.

        The caller still owes ``sync([series])``. Raises OSError as it comes, since the answer to the peer depends
        on the errno.
        """
        folder = self.folder_of(series)
        self.before_first_write(folder.name)
        self._ensure_folder(folder)
        name = file_stem(instance_id) + FILE_SUFFIX
        meta = _file_meta(
            sop_class_uid,
            sop_instance_uid,
            transfer_syntax_uid,
            Origin(id=instance_id, peer=peer, received_at=received_at),
        )
        write_file(folder / name, [meta, dataset])
        return f"{series}/{name}"

    def sync(self, series: Iterable[SeriesId]) -> None:
        """Make the names in these series' folders survive a power cut: one flush for each folder."""
        for one in set(series):
            sync_folder(self.folder_of(one))

    def discard(self, file: str) -> None:
        """Remove a file just written, whose bytes the ledger already holds under another id."""
        self.path(file).unlink(missing_ok=True)

    def quarantine_bytes(
        self,
        dataset: Part,
        *,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
        peer: str,
        received_at: datetime,
    ) -> str:
        """Set aside bytes that never were in the archive; return the file's name below the quarantine folder.

        The UIDs may be anything that a peer sent: text too long for the file meta is cut. Raises OSError as it comes.
        """
        self._ensure_folder(self.quarantine_folder)
        instance_id = new_instance_id()
        name = file_stem(instance_id) + FILE_SUFFIX
        meta = _file_meta(
            sop_class_uid,
            sop_instance_uid,
            transfer_syntax_uid,
            Origin(id=instance_id, peer=peer, received_at=received_at),
        )
        write_file(self.quarantine_folder / name, [meta, dataset])
        sync_folder(self.quarantine_folder)
        return name

    def aside(self, name: str) -> Path:
        """Return the path of a file of the quarantine, from the name that the ledger keeps."""
        assert "/" not in name, "not a name that the archive handed out"
        return self.quarantine_folder / name

    def aside_bytes(self) -> int:
        """Return the bytes of all files in quarantine together. Raises OSError."""
        with contextlib.suppress(FileNotFoundError), os.scandir(self.quarantine_folder) as entries:
            return sum(entry.stat().st_size for entry in entries)
        return 0

    def quarantine_file(self, file: str) -> str:
        """Move an archived file to quarantine; return its name there. Raises OSError as it comes."""
        source = self.path(file)
        self.before_first_write(source.parent.name)
        name = self.move_aside(source)
        sync_folder(self.quarantine_folder)
        sync_folder(source.parent)
        return name

    def replace_aside(self, file: str, name: str) -> None:
        """Move an archived file to quarantine under a name whose bytes are the same. Raises OSError as it comes.

        If a person had removed the file of that name, it is there again; if it was still there, only its file meta
        changes.
        """
        source = self.path(file)
        self._ensure_folder(self.quarantine_folder)
        source.replace(self.aside(name))
        sync_folder(self.quarantine_folder)
        sync_folder(source.parent)

    def remove(self, files: Iterable[str]) -> None:
        """Remove files whose rows say already that they are removed; a file that is gone is no error.

        Raises OSError as it comes: the files that are left then are removed when the sweep checks their folder.
        """
        folders = set()
        for file in files:
            path = self.path(file)
            path.unlink(missing_ok=True)
            folders.add(path.parent)
        checkpoint("archive.removed")
        for folder in folders:
            with contextlib.suppress(FileNotFoundError):
                sync_folder(folder)

    def remove_aside(self, names: Iterable[str]) -> None:
        """Remove files of the quarantine whose rows say already that they are removed. Raises OSError as it comes."""
        for name in names:
            self.aside(name).unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            sync_folder(self.quarantine_folder)

    # Methods for the rooms ``work`` and ``push``.

    def folder_of(self, series: SeriesId) -> Path:
        """Return the folder of a series, derived or received."""
        return self.root / str(series)

    def path(self, file: str) -> Path:
        """Return the path of a file, from the archive-relative path that the ledger keeps."""
        assert file.count("/") == 1, "not a path that the archive handed out"
        assert not file.startswith(("/", ".")), "not a path that the archive handed out"
        return self.root / file

    def has(self, file: str) -> bool:
        """Tell whether the file exists. Raises StorageError where the disk does not say, which proves nothing of it."""
        path = self.path(file)
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as exc:
            raise unreadable(path, exc) from exc
        return True

    def digest(self, file: str) -> str:
        """Return the SHA-256 of the dataset bytes of an archived file, read in pieces."""
        return _dataset_digest(self.path(file))

    def digest_of_altered(self, file: str) -> str:
        """Return the SHA-256 of the dataset of a file, or of the whole file if it no longer begins as one of ours."""
        return digest_of_anything(self.path(file))

    def verify(self, file: str, sha256: str) -> FileState:
        """Compare the dataset bytes with the digest that the ledger holds.

        Raises StorageError where the disk cannot be read: that is no verdict on the file.
        """
        if not self.has(file):
            return FileState.MISSING
        try:
            found = _dataset_digest(self.path(file))
        except _NotAFileOfOurs:
            return FileState.ALTERED
        return FileState.WHOLE if found == sha256 else FileState.ALTERED

    # Methods for the output of a job: one folder, published in one step.

    def output_folder(self, series: SeriesId) -> Path:
        """Return the folder into which a job writes its files before they are published."""
        return self.root / f"{series}{TEMPORARY_SUFFIX}"

    def begin_output(self, series: SeriesId) -> Path:
        """Make an empty folder for a job's files. The files of an earlier attempt are removed. Raises StorageError."""
        folder = self.output_folder(series)
        try:
            self.before_first_write(self.folder_of(series).name)
            remove_temporary(folder)
            self._ensure_folder(self.root)
            make_folder(folder)
        except OSError as exc:
            raise StorageError(
                f"The output folder {folder} could not be made: {exc.strerror}; the job waits.",
                hint="Check free space and write permission of the data folder.",
            ) from exc
        return folder

    def publish_output(self, series: SeriesId) -> Path:
        """Give a job's folder, whose files are all flushed, its final name, flush that too, and return the folder.

        A folder that this process published, but whose commit was lost, is replaced: no row names its files. Whole
        files of an earlier process are never removed, since a ledger put back from an older copy may lack their rows:
        the folder must be empty. Call it only for a series that the ledger does not yet hold as derived.
        """
        folder, target = self.output_folder(series), self.folder_of(series)
        stale = self.root / f"{series}{_STALE_SUFFIX}"
        try:
            remove_temporary(stale)
            if series in self._published and target.exists():
                target.rename(stale)
            checkpoint("archive.cleared")
            rename_folder(folder, target)  # onto an empty folder, or onto none (rename(2))
            self._published.add(series)
            checkpoint("archive.published")
            remove_temporary(stale)
        except OSError as exc:
            raise StorageError(
                f"The output folder {folder} could not be published: {exc.strerror}; the job waits.",
                hint="Check free space and write permission of the data folder.",
            ) from exc
        return target

    def discard_attempt(self, series: SeriesId) -> None:
        """Remove the unpublished files of a failed attempt: the disk may be full, and the next attempt far off."""
        folder = self.output_folder(series)
        try:
            remove_temporary(folder)
        except OSError as exc:
            raise StorageError(
                f"The output folder {folder} of a failed attempt could not be removed: {exc.strerror}.",
                hint="Check write permission of the data folder; the next attempt tries again.",
            ) from exc

    def discard_output(self, series: SeriesId) -> None:
        """Remove the files of a cancelled job, published or not: no row names them, and no other attempt follows."""
        stale = self.root / f"{series}{_STALE_SUFFIX}"
        try:
            remove_temporary(stale)
            if self.folder_of(series).exists():
                self.folder_of(series).rename(stale)
            for folder in (stale, self.output_folder(series)):
                remove_temporary(folder)
        except OSError as exc:
            raise StorageError(
                f"What a cancelled job wrote for series {series} could not be removed: {exc.strerror}.",
                hint="Nothing needs it; the next start of the service moves it to quarantine.",
            ) from exc

    # Methods for the start of the service, and for the disk.

    def lock(self) -> None:
        """Claim the data folder for this process until it ends or calls ``unlock``: one service a folder."""
        assert self._lock_descriptor is None, "locked already"
        try:
            self._ensure_folder(self.data)
            descriptor = lock_folder(self.data)
        except BlockingIOError as exc:
            raise StorageError(
                f"Another dicomnode service uses the data folder {self.data}; nothing was done.",
                hint="Stop the other one, or give this one a folder of its own (`node.data`).",
            ) from exc
        except OSError as exc:
            raise StorageError(
                f"The data folder {self.data} cannot be used: {exc.strerror}; the node did not start.",
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
        if (self.data / RESTORING).is_dir():
            raise StorageError(
                f"A restore into the data folder {self.data} was broken off; nothing was done.",
                hint="Run `dicomnode db restore` again: it begins anew.",
            )

    def folder_names(self) -> list[str]:
        """Return the names of the series' folders, in no order, from one listing. An unpublished output is left out."""
        return [entry.name for entry in scan(self.root) if not entry.name.endswith(TEMPORARY_SUFFIX)]

    def quarantined_names(self) -> list[str]:
        """Return the names of the files in quarantine, in no order."""
        return [entry.name for entry in scan(self.quarantine_folder)]

    def free_percent(self) -> float:
        """Return the free space of the archive's disk in percent of its size."""
        total, free = self._usage()
        return 100.0 * free / total if total else 0.0

    def size_bytes(self) -> int:
        """Return the size of the archive's disk."""
        total, _ = self._usage()
        return total

    def free_bytes(self) -> int:
        """Return the free space of the archive's disk."""
        _, free = self._usage()
        return free

    def _usage(self) -> tuple[int, int]:
        try:
            usage = shutil.disk_usage(self.data)
        except OSError as exc:
            raise unreadable(self.data, exc) from exc
        return usage.total, usage.free

    def _ensure_folder(self, folder: Path) -> None:
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
            if folder != self.data and folder not in self._folders_made:
                # A process that was killed in between may have left the folder there, not flushed.
                sync_folder(folder.parent)
            self._folders_made.add(folder)

    def move_aside(self, source: Path) -> str:
        """Move a file to quarantine, under another name where its own is taken; the caller flushes both folders."""
        self._ensure_folder(self.quarantine_folder)
        name = source.name
        if (self.quarantine_folder / name).exists():
            name = file_stem(new_instance_id()) + FILE_SUFFIX
        source.rename(self.quarantine_folder / name)
        checkpoint("archive.quarantined")
        return name


def read_origin(path: Path) -> Origin | None:
    """Return the sender and arrival of a file from its private file meta; None where this node did not write it."""
    with path.open("rb") as stream:
        meta = read_meta(stream)
    if meta is None or meta.private_creator_uid != IMPLEMENTATION_CLASS_UID:
        return None
    try:
        told = json.loads(meta.private.rstrip(b"\0"))
        return Origin(
            id=InstanceId(int(told["id"], 16)),
            peer=str(told["peer"]),
            received_at=datetime.fromisoformat(told["received_at"]),
        )
    except (ValueError, KeyError, TypeError):
        return None


def _file_meta(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, origin: Origin) -> bytes:
    """Return the file meta of an instance, with its origin as private information."""
    told = {"id": file_stem(origin.id), "peer": origin.peer, "received_at": origin.received_at.isoformat()}
    return file_meta(
        sop_class_uid=sop_class_uid,
        sop_instance_uid=sop_instance_uid,
        transfer_syntax_uid=transfer_syntax_uid,
        private=json.dumps(told).encode(),
    )


class _NotAFileOfOurs(StorageError):
    """The file does not begin as a Part 10 file with a group length does."""


def _seek_dataset(stream: BinaryIO, path: Path) -> None:
    """Go to the data set, which begins where the group length says, in our files and in those of any proper writer."""
    meta = read_meta(stream)
    if meta is None or not meta.is_length_right:
        raise _NotAFileOfOurs(
            f"The archived file {path} does not begin as a DICOM file of this node; it was not used.",
            hint="It was altered after it was stored: restore it from a backup, or have the series sent again.",
        )


def digest_in(content: bytes) -> str | None:
    """Return the SHA-256 of the data set in the content of a file; None where it does not begin as one of ours."""
    meta = read_meta(io.BytesIO(content))
    if meta is None or not meta.is_length_right:
        return None
    return hashlib.sha256(memoryview(content)[meta.start :]).hexdigest()


def _dataset_digest(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            _seek_dataset(stream, path)
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as exc:
        raise unreadable(path, exc) from exc


def digest_of_anything(path: Path) -> str:
    try:
        return _dataset_digest(path)
    except _NotAFileOfOurs:
        try:
            with path.open("rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as exc:
            raise unreadable(path, exc) from exc


def unreadable(path: Path, exc: OSError) -> StorageError:
    return StorageError(
        f"{path} could not be read: {exc.strerror}.",
        hint="Check that the disk is mounted and sound, and that the node's user may read it.",
    )


def scan(folder: Path) -> list[os.DirEntry[str]]:
    """List a folder, in no order; a folder that does not exist counts as empty."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _no_look(name: str) -> None:
    """Do nothing: the default for an archive that no sweep checks, such as one that a command or a bench opens."""
    del name


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
