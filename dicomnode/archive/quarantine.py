"""The folder of the files that were set aside; the node itself never reads them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from dicomnode.archive.data_folder import DataFolder
from dicomnode.archive.disk import scan
from dicomnode.archive.origin import FILE_SUFFIX, Origin, meta_with_origin
from dicomnode.durable import Part, sync_folder, write_file
from dicomnode.ids import file_stem, new_instance_id
from dicomnode.seams import checkpoint


class Quarantine:
    """The quarantine folder of an archive."""

    def __init__(self, folder: Path, data_folder: DataFolder) -> None:
        self.folder = folder
        self._data_folder = data_folder

    def put(
        self,
        dataset: Part,
        *,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
        peer: str,
        received_at: datetime,
    ) -> str:
        """Set aside bytes that never were in the archive; return the file's name below this folder.

        The UIDs may be anything that a peer sent: text too long for the file meta is cut. Raises OSError as it comes.
        """
        self._data_folder.ensure(self.folder)
        instance_id = new_instance_id()
        name = file_stem(instance_id) + FILE_SUFFIX
        meta = meta_with_origin(
            sop_class_uid,
            sop_instance_uid,
            transfer_syntax_uid,
            Origin(id=instance_id, peer=peer, received_at=received_at),
        )
        write_file(self.folder / name, [meta, dataset])
        sync_folder(self.folder)
        return name

    def move_in(self, source: Path) -> str:
        """Move a file here, under another name where its own is taken; the caller flushes both folders."""
        self._data_folder.ensure(self.folder)
        name = source.name
        if (self.folder / name).exists():
            name = file_stem(new_instance_id()) + FILE_SUFFIX
        source.rename(self.folder / name)
        checkpoint("archive.quarantined")
        return name

    def remove(self, names: Iterable[str]) -> None:
        """Remove files whose rows say already that they are removed. Raises OSError as it comes."""
        for name in names:
            self.path(name).unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            sync_folder(self.folder)

    def path(self, name: str) -> Path:
        """Return the path of a file, from the name that the ledger keeps."""
        assert "/" not in name, "not a name that the archive handed out"
        return self.folder / name

    def names(self) -> list[str]:
        """Return the names of all files, in no order."""
        return [entry.name for entry in scan(self.folder)]

    def size_bytes(self) -> int:
        """Return the bytes of all files together. Raises OSError."""
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            return sum(entry.stat().st_size for entry in entries)
        return 0
