"""The part of the ledger that the sweep and the calendar use: files that ought to exist, and rows that are too old."""

from __future__ import annotations

from datetime import datetime

from dicomnode.ids import SeriesId
from dicomnode.ledger import ageing, intake
from dicomnode.ledger.access import Access


class Upkeep:
    """The sweep reads here which files ought to exist; the calendar removes old events and alerts."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def series_numbers(self) -> list[SeriesId]:
        """List the number of every series, the oldest first."""
        with self._access.reading() as connection:
            return intake.series_numbers(connection)

    def files_in(self, folder: str) -> set[str]:
        """Return the paths below the archive folder of the files that ought to lie in one folder."""
        with self._access.reading() as connection:
            return intake.files_in(connection, folder)

    def old_events(self, after: int, before: datetime) -> int | None:
        """Return the last event of the piece behind ``after``. None: nothing there is older than ``before``."""
        with self._access.reading() as connection:
            return ageing.window(connection, after, before)

    def forget_events(self, after: int, last: int, before: datetime) -> int:
        """Remove the events behind ``after`` up to ``last`` that are older than ``before``; return their number."""
        with self._access.writing("forget_events", is_relaxed=True) as transaction:
            return ageing.forget_events(transaction, after, last, before)

    def forget_alerts(self, before: datetime) -> int:
        """Remove the alerts whose all-clear was sent before that moment; return how many there were."""
        with self._access.writing("forget_alerts") as transaction:
            return ageing.forget_alerts(transaction, before)
