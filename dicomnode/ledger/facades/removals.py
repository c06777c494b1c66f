"""The part of the ledger for the removal of files: each method is one transaction, or one read.

The code that removes files asks here first; the rules are in ``old_images`` and ``erasure``. A service and an
operator's command may do it at the same time, since each series is looked at once more in the transaction that marks
it.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from dicomnode.ids import InstanceId, SeriesId
from dicomnode.ledger import erasure, old_images, removed
from dicomnode.ledger.access import Access
from dicomnode.ledger.old_images import OldSeries
from dicomnode.ledger.removed import Removed
from dicomnode.ledger.transaction import NODE


class Removals:
    """Finds the files that may leave the disk, and marks their rows."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def old_series(self, before: datetime, after: int) -> tuple[list[OldSeries], int | None]:
        """List the series of the piece behind ``after`` that are old enough, and the last of them. None: the end."""
        with self._access.reading() as connection:
            return old_images.old_series(connection, before, after)

    def remove_old(self, series: SeriesId, before: datetime, by: str = NODE) -> Removed | None:
        """Mark the images of a series and of the series derived from it. None: it may not go, or not any more."""
        with self._access.writing("remove", by) as transaction:
            return old_images.remove_old(transaction, series, before)

    def remove_old_set_aside(self, before: datetime, by: str = NODE) -> list[str]:
        """Mark the next files that were set aside and may go; return their names. None of them: there is no other."""
        with self._access.writing("remove_set_aside", by) as transaction:
            return old_images.remove_old_set_aside(transaction, before)

    def source_of(self, number: SeriesId) -> SeriesId:
        """Return the received series from which a series was derived; a received one itself."""
        with self._access.reading() as connection:
            return erasure.source_of(connection, number)

    def refusal_to_erase(self, series: SeriesId) -> str | None:
        """Say why the images of a series cannot be erased now; None: they can."""
        with self._access.reading() as connection:
            return erasure.refusal_to_erase(connection, series)

    def receivers(self, series: Collection[SeriesId]) -> tuple[str, ...]:
        """Name the peers that acknowledged an image of one of these series, or an image derived from it."""
        with self._access.reading() as connection:
            return erasure.receivers(connection, series)

    def erase(self, series: SeriesId, files: Collection[str], by: str) -> Removed:
        """Mark these files of a series and all images derived from it. Raises InputError where that cannot be now."""
        with self._access.writing("erase", by) as transaction:
            return erasure.erase(transaction, series, files)

    def erase_set_aside(self, files: Collection[str], by: str) -> list[str]:
        """Mark these files of the quarantine as seen and removed; return those that have a row."""
        with self._access.writing("erase_set_aside", by) as transaction:
            return erasure.erase_set_aside(transaction, files)

    def put_back(self, instance: InstanceId, file: str, detail: str, by: str) -> None:
        """Give an instance whose file was lost or altered another file with its bytes."""
        with self._access.writing("put_back", by) as transaction:
            removed.put_back(transaction, instance, file, detail)

    def files_in(self, folder: str) -> set[str]:
        """Return the paths of the files of one folder that were removed, or are about to be."""
        with self._access.reading() as connection:
            return removed.removed_in(connection, folder)

    def files_aside(self) -> set[str]:
        """Return the names of the files of the quarantine that were removed, or are about to be."""
        with self._access.reading() as connection:
            return removed.removed_aside(connection)
