"""The output of a job: one folder, which is published as the folder of a series in one step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dicomnode.archive.data_folder import DataFolder
from dicomnode.archive.disk import remove_temporary
from dicomnode.durable import TEMPORARY_SUFFIX, make_folder, rename_folder
from dicomnode.errors import StorageError
from dicomnode.ids import SeriesId
from dicomnode.seams import checkpoint

_STALE_SUFFIX = f".stale{TEMPORARY_SUFFIX}"


class Outputs:
    """The folders of the jobs below the archive folder, and the derived series that they become."""

    def __init__(self, root: Path, data_folder: DataFolder, *, before: Callable[[str], None]) -> None:
        """``before``: called with a folder's name before this process first writes into it."""
        self._root = root
        self._data_folder = data_folder
        self._before = before
        self._published: set[SeriesId] = set()  # series whose output this process published

    def folder(self, series: SeriesId) -> Path:
        """Return the folder into which a job writes its files before they are published."""
        return self._root / f"{series}{TEMPORARY_SUFFIX}"

    def begin(self, series: SeriesId) -> Path:
        """Make an empty folder for a job's files. The files of an earlier attempt are removed. Raises StorageError."""
        folder = self.folder(series)
        try:
            self._before(self._target(series).name)
            remove_temporary(folder)
            self._data_folder.ensure(self._root)
            make_folder(folder)
        except OSError as exc:
            raise StorageError(
                f"The output folder {folder} could not be made: {exc.strerror}; the job waits.",
                hint="Check free space and write permission of the data folder.",
            ) from exc
        return folder

    def publish(self, series: SeriesId) -> Path:
        """Give a job's folder, whose files are all flushed, its final name, flush that too, and return the folder.

        A folder that this process published, but whose commit was lost, is replaced: no row names its files. Whole
        files of an earlier process are never removed, since a ledger put back from an older copy may lack their rows:
        the folder must be empty. Call it only for a series that the ledger does not yet hold as derived.
        """
        folder, target, stale = self.folder(series), self._target(series), self._stale(series)
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
        folder = self.folder(series)
        try:
            remove_temporary(folder)
        except OSError as exc:
            raise StorageError(
                f"The output folder {folder} of a failed attempt could not be removed: {exc.strerror}.",
                hint="Check write permission of the data folder; the next attempt tries again.",
            ) from exc

    def discard(self, series: SeriesId) -> None:
        """Remove the files of a cancelled job, published or not: no row names them, and no other attempt follows."""
        target, stale = self._target(series), self._stale(series)
        try:
            remove_temporary(stale)
            if target.exists():
                target.rename(stale)
            for folder in (stale, self.folder(series)):
                remove_temporary(folder)
        except OSError as exc:
            raise StorageError(
                f"What a cancelled job wrote for series {series} could not be removed: {exc.strerror}.",
                hint="Nothing needs it; the next start of the service moves it to quarantine.",
            ) from exc

    def _target(self, series: SeriesId) -> Path:
        return self._root / str(series)

    def _stale(self, series: SeriesId) -> Path:
        return self._root / f"{series}{_STALE_SUFFIX}"
