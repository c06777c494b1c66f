"""Find and clear up the files that an earlier process left in the archive, one folder at a time.

In: an archive, the name of a folder, and the files that the ledger lists for it. Out: the files that were found, and
where they are now. Only two kinds of files are deleted: those ending in ``.tmp``, which were never promised to anyone,
and those whose rows say that they are removed. A whole file without a row goes to quarantine. The sweep decides when
each folder is checked, and writes the rows.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from dicomnode.archive.digests import digest_of_anything
from dicomnode.archive.disk import remove_temporary, scan, unreadable
from dicomnode.archive.origin import read_origin
from dicomnode.archive.store import Archive
from dicomnode.durable import TEMPORARY_SUFFIX, sync_folder
from dicomnode.errors import StorageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphan:
    """A whole file that has no row in the ledger: it was never acknowledged."""

    file: str  # its name below the quarantine folder, where the sweep moved or found it
    sha256: str
    peer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderReport:
    """The differences between the files of one folder and their rows in the ledger."""

    swept: int  # files removed: temporary ones, and those that an earlier process had begun to remove
    orphans: tuple[Orphan, ...]
    missing: tuple[str, ...]  # rows without a file, as the archive-relative paths of the ledger
    failures: tuple[str, ...]  # a sentence for each file that had to be left where it is


def remove_unpublished(archive: Archive) -> int:
    """Remove jobs' folders that were never published and half-written files in quarantine; return how many.

    To be called only before this process writes anything itself. Raises OSError as it comes.
    """
    return sum(
        remove_temporary(folder / entry.name)
        for folder in (archive.root, archive.quarantine.folder)
        for entry in scan(folder)
        if entry.name.endswith(TEMPORARY_SUFFIX)
    )


def has_changed_since(archive: Archive, name: str, moment: datetime | None) -> bool:
    """Tell whether a file came into a series' folder or left it since then, by the file system's clock."""
    if moment is None:
        return True
    try:
        return (archive.root / name).stat().st_mtime >= moment.timestamp()
    except FileNotFoundError:
        return False
    except OSError:  # in doubt it did; the check of the folder says what is wrong
        return True


def sweep_folder(
    archive: Archive,
    name: str,
    known_files: Set[str],
    known_aside: Set[str] = frozenset(),
    removed_files: Set[str] = frozenset(),
) -> FolderReport:
    """Bring the files and the rows of one folder together, while nobody else writes into it.

    Temporary files are removed. A whole file without a row was never acknowledged: it is moved to quarantine, and the
    caller owes it a row there. A file that has its row in quarantine already (``known_aside``: names below the
    quarantine folder) is moved there. A file whose row says that it is removed (``removed_files``) is removed now. A
    row without a file is only reported.
    """
    folder = archive.root / name
    swept = 0
    orphans: list[Orphan] = []
    present: set[str] = set()
    failures: list[str] = []
    is_moved = False
    for entry in scan(folder):
        file = f"{name}/{entry.name}"
        try:
            if entry.name.endswith(TEMPORARY_SUFFIX):
                swept += remove_temporary(folder / entry.name)
            elif file in known_files:
                present.add(file)
            elif file in removed_files:
                archive.remove([file])
                swept += 1
            elif entry.name in known_aside:
                archive.quarantine.move_in(folder / entry.name)
                is_moved = True
            elif not entry.is_dir(follow_symlinks=False):  # this node makes no folder in here
                orphans.append(_set_aside(archive, folder / entry.name))
        except OSError as exc:
            failures.append(f"{folder / entry.name} could not be moved or removed: {exc.strerror}.")
        except StorageError as exc:
            failures.append(exc.sentence)
    if orphans or is_moved:
        sync_folder(archive.quarantine.folder)
        sync_folder(folder)
    return FolderReport(
        swept=swept,
        orphans=tuple(orphans),
        missing=tuple(sorted(known_files - present)),
        failures=tuple(failures),
    )


def finish_removal(archive: Archive, name: str, removed_files: Set[str]) -> None:
    """Remove the files of one folder whose rows say already that they are removed. Raises StorageError."""
    folder = archive.root / name
    try:
        if left := removed_files & {f"{name}/{entry.name}" for entry in scan(folder)}:
            archive.remove(left)
    except OSError as exc:
        raise unreadable(folder, exc) from exc


def missing_files(archive: Archive, name: str, known_files: Set[str]) -> list[str]:
    """Find the rows of one folder whose file is not there. Raises StorageError.

    Others may write into the folder meanwhile: a file that the listing lacks is looked for once more by its name.
    """
    folder = archive.root / name
    try:
        present = {f"{name}/{entry.name}" for entry in scan(folder)}
    except OSError as exc:
        raise unreadable(folder, exc) from exc
    return [file for file in sorted(known_files - present) if not archive.has(file)]


def quarantined_orphan(archive: Archive, name: str) -> Orphan:
    """Read digest and sender of a file that lies in quarantine without a row. Raises OSError and StorageError."""
    return _described(archive.quarantine.path(name), name)


def _set_aside(archive: Archive, path: Path) -> Orphan:
    """Move a file to quarantine. It is read first: a file that cannot be read stays where it is."""
    found = _described(path, path.name)
    moved = archive.quarantine.move_in(path)
    return Orphan(file=moved, sha256=found.sha256, peer=found.peer)


def _described(path: Path, name: str) -> Orphan:
    sha256 = digest_of_anything(path)
    origin = read_origin(path)
    return Orphan(file=name, sha256=sha256, peer=origin.peer if origin else "")
