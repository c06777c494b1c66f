"""The part of the ledger for files that were set aside."""

from __future__ import annotations

from collections.abc import Sequence

from dicomnode.ids import InstanceId, QuarantineId, SeriesId
from dicomnode.ledger import quarantine
from dicomnode.ledger.access import Access
from dicomnode.ledger.transaction import NODE
from dicomnode.ledger.values import Examined, Finding, QuarantinedFile, QuarantineReason, Unexamined


class Quarantine:
    """The parts of the node that set a file aside, or compare one, record that here."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def record(self, file: QuarantinedFile, finding: Finding | None = None) -> QuarantineId:
        """Record a file that lies in the quarantine folder; ``finding``: where it is known at once."""
        with self._access.writing("quarantine", file.peer or NODE) as transaction:
            return quarantine.record(transaction, file, finding)

    def record_orphans(self, files: Sequence[QuarantinedFile]) -> None:
        """Record files without a row, which the sweep moved to the quarantine folder."""
        with self._access.writing("orphans") as transaction:
            for file in files:
                quarantine.record(transaction, file)

    def file_of(self, kept: InstanceId, sha256: str) -> str | None:
        """Return the name in quarantine of the file with these bytes and the UID of the instance ``kept``."""
        with self._access.reading() as connection:
            return quarantine.file_of(connection, kept, sha256)

    def files(self) -> set[str]:
        """Return the names of the files below the quarantine folder that have a row."""
        with self._access.reading() as connection:
            return quarantine.files(connection)

    def files_in(self, folder: str) -> set[str]:
        """Return the names of the files set aside of a series, which may still lie in the folder of the series."""
        with self._access.reading() as connection:
            return quarantine.files_of(connection, SeriesId(int(folder))) if folder.isdecimal() else set()

    def without_series(self) -> list[tuple[QuarantineId, str, QuarantineReason]]:
        """List the files set aside whose series is not known yet: number, file, reason."""
        with self._access.reading() as connection:
            return quarantine.without_series(connection)

    def belong(self, row: QuarantineId, series: SeriesId | None, otherwise: Examined) -> None:
        """Record the series that a file set aside names, or the finding ``otherwise`` where the ledger knows none."""
        with self._access.writing("quarantine_belongs") as transaction:
            quarantine.belong(transaction, row, series, otherwise)

    def waiting_series(self) -> list[SeriesId]:
        """List the judged series of which a file was set aside that is not compared yet."""
        with self._access.reading() as connection:
            return quarantine.waiting_series(connection)

    def unexamined(self, series: SeriesId) -> list[Unexamined]:
        """List the files that were set aside of a series and are to be compared."""
        with self._access.reading() as connection:
            return quarantine.unexamined(connection, series)

    def examined(self, series: SeriesId, found: Sequence[Examined]) -> None:
        """Record the findings on files that were set aside of a series."""
        with self._access.writing("examined") as transaction:
            quarantine.examined(transaction, series, found)

    def objections(self, series: SeriesId) -> tuple[str, ...]:
        """Return why a series is not derived as it is: sentences on its unseen files that were set aside."""
        with self._access.reading() as connection:
            return quarantine.objections(connection, series)
