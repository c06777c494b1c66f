"""The part of the ledger that the receiver uses: series that arrive, and their instances."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dicomnode.ids import SeriesId
from dicomnode.ledger import intake
from dicomnode.ledger.access import Access
from dicomnode.ledger.values import KnownInstance, StoredInstance, StoreOutcome


class Intake:
    """The receiver looks up series and instances here, and records the instances that it stored."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def series_for(self, series_uid: str, study_uid: str | None = None) -> SeriesId:
        """Return the number of a series, or give it one before its first file is written. ``study_uid``: its study."""
        with self._access.reading() as connection:
            number = intake.series_number(connection, series_uid)
        if number is not None:
            return number
        with self._access.writing("series") as transaction:
            return intake.make_series(transaction, series_uid, study_uid)

    def find_series(self, series_uid: str) -> SeriesId | None:
        """Return the number of a series. None: it has none, and gets none here."""
        with self._access.reading() as connection:
            return intake.series_number(connection, series_uid)

    def find_instance(self, sop_instance_uid: str) -> KnownInstance | None:
        """Return the instance under a SOP Instance UID, without a lock."""
        with self._access.reading() as connection:
            return intake.known_instance(connection, sop_instance_uid)

    def accept(self, instances: Sequence[StoredInstance]) -> list[StoreOutcome]:
        """Give files that are flushed and renamed their rows, all in one transaction; outcomes in the order given."""
        with self._access.writing("accept") as transaction:
            return intake.accept(transaction, instances)

    def mark_aborted(self, series_ids: Iterable[SeriesId]) -> None:
        """Record that the association that stored into these series ended without a release."""
        with self._access.writing("abort") as transaction:
            for series_id in series_ids:
                intake.mark_aborted(transaction, series_id)
