"""Keep instances on disk: the bytes that came over the wire in, the same bytes out.

    <data>/archive/<series id>/<instance id>.dcm     Part 10 file around the dataset bytes as received
    <data>/archive/<series id>.tmp/                  a job's output before it is published (``outputs``)
    <data>/quarantine/<id>.dcm                       files set aside, never read by the node itself (``quarantine``)

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
from collections.abc import Callable, Iterable
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from dicomnode.archive.data_folder import DataFolder
from dicomnode.archive.digests import NotAFileOfOursError, dataset_digest
from dicomnode.archive.disk import scan, unreadable
from dicomnode.archive.origin import FILE_SUFFIX, Origin, meta_with_origin
from dicomnode.archive.outputs import Outputs
from dicomnode.archive.quarantine import Quarantine
from dicomnode.durable import TEMPORARY_SUFFIX, Part, sync_folder, write_file
from dicomnode.ids import InstanceId, SeriesId, file_stem
from dicomnode.seams import checkpoint


class FileState(StrEnum):
    """The result of a check of an archived file."""

    WHOLE = "whole"
    ALTERED = "altered"
    MISSING = "missing"


class Archive:
    """The files of one data folder. Safe to use from many threads; one service at a time (``data_folder.lock``)."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.root = data / "archive"
        self.before_first_write: Callable[[str], None] = _no_look  # the sweep sets it; takes a folder's name
        self.data_folder = DataFolder(data)
        self.quarantine = Quarantine(data / "quarantine", self.data_folder)
        self.outputs = Outputs(self.root, self.data_folder, before=lambda name: self.before_first_write(name))

    # Writing and removing, for the room ``receive`` and what brings files and rows together.

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
        self.data_folder.ensure(folder)
        name = file_stem(instance_id) + FILE_SUFFIX
        meta = meta_with_origin(
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

    def set_aside(self, file: str) -> str:
        """Move an archived file to quarantine; return its name there. Raises OSError as it comes."""
        source = self.path(file)
        self.before_first_write(source.parent.name)
        name = self.quarantine.move_in(source)
        sync_folder(self.quarantine.folder)
        sync_folder(source.parent)
        return name

    def replace_aside(self, file: str, name: str) -> None:
        """Move an archived file to quarantine under a name whose bytes are the same. Raises OSError as it comes.

        If a person had removed the file of that name, it is there again; if it was still there, only its file meta
        changes.
        """
        source = self.path(file)
        self.data_folder.ensure(self.quarantine.folder)
        source.replace(self.quarantine.path(name))
        sync_folder(self.quarantine.folder)
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

    # Reading, for everyone.

    def folder_of(self, series: SeriesId) -> Path:
        """Return the folder of a series, derived or received."""
        return self.root / str(series)

    def folder_names(self) -> list[str]:
        """Return the names of the series' folders, in no order, from one listing. An unpublished output is left out."""
        return [entry.name for entry in scan(self.root) if not entry.name.endswith(TEMPORARY_SUFFIX)]

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

    def verify(self, file: str, sha256: str) -> FileState:
        """Compare the dataset bytes with the digest that the ledger holds.

        Raises StorageError where the disk cannot be read: that is no verdict on the file.
        """
        if not self.has(file):
            return FileState.MISSING
        try:
            found = dataset_digest(self.path(file))
        except NotAFileOfOursError:
            return FileState.ALTERED
        return FileState.WHOLE if found == sha256 else FileState.ALTERED


def _no_look(name: str) -> None:
    """Do nothing: the default for an archive that no sweep checks, such as one that a command or a bench opens."""
    del name
