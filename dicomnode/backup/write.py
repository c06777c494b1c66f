"""Write a backup of a node into a folder, while its service receives.

In: the data folder, the ledger, a folder for the backup. Out: a whole backup in that folder, or the one before it, as
it was. The ledger is copied first and the files after it, so that the backup has the file of every row. Files that
came meanwhile are copied too: a restore gives them their rows (``restore``). A second backup into the same folder
copies only the files that the first one does not hold, because a file of the archive is never changed.

A file that the node has removed on purpose is left out, and the copy that an earlier backup made of it goes once the
backup is whole. A file whose bytes are no longer those that its row names is not copied; if an earlier backup of the
folder holds it whole, that copy stays.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from dicomnode import __version__
from dicomnode.archive.digests import digest_in
from dicomnode.archive.disk import scan, unreadable
from dicomnode.archive.store import Archive
from dicomnode.backup.manifest import (
    FOLDERS,
    FORMAT,
    NODE_FILE,
    Manifest,
    files_below,
    named,
    read_manifest,
    read_sums,
    sums_text,
    write_manifest,
)
from dicomnode.durable import is_left_over, lock_folder, sync_folder, write_file
from dicomnode.errors import InputError, StorageError
from dicomnode.ids import digest
from dicomnode.ledger.engine import copy_ledger, ledger_path
from dicomnode.ledger.queries import open_reader
from dicomnode.seams import SYSTEM_CLOCK, Clock, checkpoint

_COPYING: Final = "copying.sqlite"  # the ledger, until its digest is known
_KILLED: Final = ".dicomnode-"  # prefix of the files that a killed write leaves (``durable``), SQLite's journal too
_STEMS: Final = ("ledger-", "settings-", "SHA256SUMS-")  # prefixes of the files of which each backup has its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """The result of a backup: the files that it holds, and those that it could not take."""

    folder: str
    at: datetime
    files: int  # of archive, quarantine and models
    copied: int  # of them by this backup; the others were there
    copied_bytes: int
    missing: tuple[str, ...]  # rows whose file neither the archive nor the folder has
    altered: tuple[str, ...]  # rows whose file is not what was stored, and that the folder does not have either


def write_backup(
    archive: Archive, ledger_url: str, folder: Path, *, settings_file: Path | None, clock: Clock = SYSTEM_CLOCK
) -> Backup:
    """Write a backup of the node into the folder, which is new, empty, or holds earlier ones of the same node.

    Raises InputError where the folder is for something else, StorageError and LedgerError where nothing came of it.
    """
    target = folder.absolute()
    if target.resolve().is_relative_to(archive.data.resolve()):
        raise InputError(
            f"{folder} lies in the data folder, so the backup would be lost with it; nothing was written.",
            hint="Name a folder on another disk.",
        )
    try:
        target.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = lock_folder(target)
    except BlockingIOError as exc:
        raise StorageError(
            f"Another backup is being written into {folder}; nothing was written.", hint="Wait until it has ended."
        ) from exc
    except OSError as exc:
        raise _not_written(folder, exc) from exc
    try:
        return _Writer(archive, ledger_path(ledger_url), target, clock).write(settings_file)
    except OSError as exc:
        raise _not_written(folder, exc) from exc
    finally:
        os.close(lock)


class _Writer:
    """One backup under way."""

    def __init__(self, archive: Archive, ledger: Path, folder: Path, clock: Clock) -> None:
        self._archive = archive
        self._ledger = ledger
        self._folder = folder
        self._clock = clock
        self._before: dict[str, str] = {}  # the list of the backup before this one
        self._sums: dict[str, str] = {}
        self._touched: set[Path] = set()  # folders with new names in them
        self._altered: list[str] = []
        self._copied = self._copied_bytes = 0

    def write(self, settings_file: Path | None) -> Backup:
        """Copy everything, then declare it whole."""
        at = self._clock.now()
        with closing(open_reader(f"sqlite:///{self._ledger}")) as reader:
            node = reader.node_uuid()
        self._claim(node)
        copying = self._folder / _COPYING
        copy_ledger(self._ledger, copying)
        with closing(open_reader(f"sqlite:///{copying}")) as reader:
            version, known, removed = reader.version, reader.archived_digests(), reader.removed_files()
        before = read_manifest(self._folder)
        self._before = read_sums(self._folder, before) if before is not None else {}
        checkpoint("backup.ledger_copied")

        for name in FOLDERS:
            for file in files_below(self._archive.data / name):
                if f"{name}/{file}" not in removed:
                    self._take(f"{name}/{file}", known.get(file) if name == "archive" else None)
        missing = self._keep_earlier(known)
        files = len(self._sums)

        ledger = self._name_ledger(copying)
        settings = self._put_settings(settings_file)
        sums, sums_sha256 = self._put_sums()
        whole = Manifest(
            format=FORMAT,
            node=node,
            at=at.isoformat(),
            version=__version__,
            ledger=ledger,
            ledger_version=version,
            settings=settings,
            sums=sums,
            sums_sha256=sums_sha256,
        )
        write_manifest(self._folder, whole)
        checkpoint("backup.whole")
        self._remove_all_but({ledger, settings, sums})
        for file in removed:
            (self._folder / file).unlink(missing_ok=True)
        return Backup(
            folder=str(self._folder),
            at=at,
            files=files,
            copied=self._copied,
            copied_bytes=self._copied_bytes,
            missing=missing,
            altered=tuple(file for file in self._altered if f"archive/{file}" not in self._sums),
        )

    def _claim(self, node: str) -> None:
        """Record the node to which this folder belongs. A node that lost its ledger must not write over its backup."""
        path = self._folder / NODE_FILE
        if not path.exists():
            strange = [entry.name for entry in scan(self._folder) if not is_left_over(Path(entry.path))]
            if strange:
                raise InputError(
                    f"{self._folder} holds {sorted(strange)[0]} and is no backup folder; nothing was written.",
                    hint="Name a new folder, or one that holds backups of this node.",
                )
            write_file(path, [f"{node}\n".encode()])
            sync_folder(self._folder)
        elif path.read_text("utf-8").strip() != node:
            raise InputError(
                f"{self._folder} holds the backup of another node or of an earlier ledger; nothing was written.",
                hint="Name a new folder. If this node lost its data, `dicomnode db restore` puts that backup back.",
            )

    def _take(self, file: str, sha256: str | None) -> None:
        """Copy a file unless the folder has it; ``sha256``: of its data set, as its row says."""
        source, copy = self._archive.data / file, self._folder / file
        try:
            size = source.stat().st_size
            if file in self._before and copy.is_file() and copy.stat().st_size == size:
                self._sums[file] = self._before[file]
                return
            content = source.read_bytes()
        except FileNotFoundError:
            return  # it was moved to quarantine or removed since the folder was listed
        except OSError as exc:
            raise unreadable(source, exc) from exc
        if sha256 is not None and digest_in(content) != sha256:
            self._altered.append(file.removeprefix("archive/"))
            return
        self._touch(copy.parent)
        write_file(copy, [content])
        checkpoint("backup.file_copied")
        self._sums[file] = digest(content)
        self._copied += 1
        self._copied_bytes += len(content)

    def _touch(self, folder: Path) -> None:
        """Make a folder and those above it, to be flushed before the backup is whole; remove what a kill left there."""
        if folder in self._touched:
            return
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._touched.update(one for one in (folder, *folder.parents) if one.is_relative_to(self._folder))
        for entry in scan(folder):
            if is_left_over(Path(entry.path)):
                Path(entry.path).unlink()

    def _keep_earlier(self, known: Mapping[str, str]) -> tuple[str, ...]:
        """Keep the copies of files that the archive lost; return the rows whose file is nowhere."""
        missing = []
        for file in known:
            path = f"archive/{file}"
            if path in self._sums:
                continue
            if path in self._before and (self._folder / path).is_file():
                self._sums[path] = self._before[path]
            elif file not in self._altered:
                missing.append(file)
        return tuple(sorted(missing))

    def _name_ledger(self, copying: Path) -> str:
        with copying.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        name = named("ledger", sha256, ".sqlite")
        copying.rename(self._folder / name)
        self._sums[name] = sha256
        return name

    def _put_settings(self, file: Path | None) -> str:
        """Copy the settings file. The secrets that it names by their path are not copied."""
        if file is None:
            return ""
        content = file.read_bytes()
        name = named("settings", digest(content), ".toml")
        write_file(self._folder / name, [content])
        (self._folder / name).chmod(0o600)
        self._sums[name] = digest(content)
        return name

    def _put_sums(self) -> tuple[str, str]:
        """Flush the names of all files that were copied, and write the list of them; return its name and digest."""
        for folder in sorted(self._touched):
            sync_folder(folder)
        listed = sums_text(self._sums)
        sums = named("SHA256SUMS", digest(listed))
        write_file(self._folder / sums, [listed])
        sync_folder(self._folder)
        checkpoint("backup.listed")
        return sums, digest(listed)

    def _remove_all_but(self, kept: set[str]) -> None:
        """Remove the files that only earlier backups had, and those that killed ones left, from the folder itself."""
        for entry in scan(self._folder):
            is_earlier = entry.name.startswith(_STEMS) and entry.name not in kept
            if is_earlier or entry.name.startswith(_KILLED):
                Path(entry.path).unlink()


def _not_written(folder: Path, exc: OSError) -> StorageError:
    return StorageError(
        f"The backup in {folder} could not be written: {exc.strerror}; the one before it is as it was.",
        hint="See that the folder may be written to and that its disk has room, and run the command again.",
    )
