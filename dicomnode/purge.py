"""Erase a patient: find every file of the patient by its header, then remove files and rows' words, beside the service.

In: a Patient ID (0010,0020) and a data folder. Out: what was found and removed, and what is left. The ledger holds no
patient, so every header of archive and quarantine is read. A series whose images came under several Patient IDs loses
those of this patient only; the series derived from it are removed whole. The rows of the instances stay without their
files: own ids, UIDs, digests, counts. The Patient ID itself is written nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from dicomnode.archive.disk import scan
from dicomnode.archive.store import Archive
from dicomnode.durable import TEMPORARY_SUFFIX
from dicomnode.errors import InputError, StorageError
from dicomnode.ids import SeriesId
from dicomnode.imaging.dicom_file import read_dataset
from dicomnode.imaging.representation import MALFORMED
from dicomnode.imaging.texts import texts
from dicomnode.ledger.erasure import ERASED
from dicomnode.ledger.store import Ledger
from dicomnode.seams import checkpoint


@dataclass(slots=True, kw_only=True)
class Found:
    """The files of one patient."""

    series: dict[SeriesId, set[str]] = field(default_factory=dict)  # paths below the archive folder, by its folders
    aside: set[str] = field(default_factory=set)  # names below the quarantine folder
    read: int = 0
    unreadable: list[str] = field(default_factory=list)  # paths below the data folder: their patient is unknown

    @property
    def instances(self) -> int:
        """The number of these files that lie in the archive."""
        return sum(map(len, self.series.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """The result of an erasure: what was removed, and which files of the patient are still there."""

    series: tuple[SeriesId, ...]  # received ones
    instances: int
    set_aside: int
    left: tuple[str, ...]  # files without a row, as paths below the data folder


def find_patient(archive: Archive, patient_id: str, *, read: Callable[[int], None] = lambda _files: None) -> Found:
    """Read the header of every file. Raises StorageError where the disk refuses one. ``read`` gets the count so far."""
    found = Found()
    for path in _files(archive):
        file = str(path.relative_to(archive.data))
        try:
            told = texts(read_dataset(path, pixels=False), "PatientID")
        except MALFORMED:
            found.unreadable.append(file)
        except StorageError:
            if path.exists():
                raise
            continue  # it was moved or removed since the folder was listed
        else:
            if patient_id in told:
                if path.parent == archive.quarantine.folder:
                    found.aside.add(path.name)
                else:
                    found.series.setdefault(SeriesId(int(path.parent.name)), set()).add(file.removeprefix("archive/"))
        found.read += 1
        read(found.read)
    return found


def erase(archive: Archive, ledger: Ledger, found: Found, by: str) -> Erased:
    """Remove the files that were found and those derived from them. Raises InputError, and removes none, while in use.

    Raises StorageError where a file could not be removed: its row says that it is, and the node tries again.
    """
    files = by_source(ledger, found)
    refuse_in_use(ledger, files)
    instances = 0
    left = set()
    for series in sorted(files):
        removed = ledger.removals.erase(series, files[series], by)
        checkpoint("purge.marked")
        _remove(partial(archive.remove, removed.files))
        instances += removed.instances
        left |= {f"archive/{file}" for file in files[series].difference(removed.files)}
    aside = ledger.removals.erase_set_aside(found.aside, by)
    checkpoint("purge.marked")
    _remove(partial(archive.quarantine.remove, aside))
    left |= {f"quarantine/{name}" for name in found.aside.difference(aside)}
    detail = f"a patient: {instances} images of {len(files)} received series, {len(aside)} files that were set aside"
    ledger.note(ERASED, table="node", row=1, detail=detail, by=by)
    return Erased(series=tuple(sorted(files)), instances=instances, set_aside=len(aside), left=tuple(sorted(left)))


def by_source(ledger: Ledger, found: Found) -> dict[SeriesId, set[str]]:
    """Group the files by the received series that they belong to or were derived from."""
    files: dict[SeriesId, set[str]] = {}
    for number, names in found.series.items():
        files.setdefault(ledger.removals.source_of(number), set()).update(names)
    return files


def refuse_in_use(ledger: Ledger, files: dict[SeriesId, set[str]]) -> None:
    """Raise InputError where one of these series is being received, judged or sent."""
    for series in sorted(files):
        if (why := ledger.removals.refusal_to_erase(series)) is not None:
            raise InputError(
                f"{why}; nothing was erased.", hint="Wait until that has ended, and run the command again."
            )


def _files(archive: Archive) -> Iterator[Path]:
    """Find every whole file of archive and quarantine, series by series."""
    for name in sorted((name for name in archive.folder_names() if name.isdecimal()), key=int):
        yield from _whole_files(archive.root / name)
    yield from _whole_files(archive.quarantine.folder)


def _whole_files(folder: Path) -> Iterator[Path]:
    for entry in scan(folder):
        if not entry.name.endswith(TEMPORARY_SUFFIX) and entry.is_file(follow_symlinks=False):
            yield Path(entry.path)


def _remove(act: Callable[[], None]) -> None:
    try:
        act()
    except OSError as exc:
        raise StorageError(
            f"A file could not be removed: {exc.strerror}; its row says that it is.",
            hint="See that this user owns the archive and that its disk is sound, and run the command again.",
        ) from exc
