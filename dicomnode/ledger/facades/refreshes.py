"""The part of the ledger for series that are derived anew under the patient of their peer.

Each method is one transaction, or one read.
"""

from __future__ import annotations

from dicomnode.ids import DeliveryId, JobId, SeriesId
from dicomnode.ledger import refreshes
from dicomnode.ledger.access import Access
from dicomnode.ledger.refreshes import Refreshable
from dicomnode.ledger.values import QuarantinedFile


class Refreshes:
    """Reads and changes the rows of a result that is derived anew under another patient."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def wanted(self, delivery: DeliveryId) -> Refreshable:
        """Return the peer to ask, and a file of the study. Raises InputError where the delivery does not allow it."""
        with self._access.reading() as connection:
            return refreshes.wanted(connection, delivery)

    def begin(self, delivery: DeliveryId, answer: QuarantinedFile, by: str, note: str) -> JobId:
        """Plan the job, and give up unbegun deliveries of the old result. Raises InputError as ``wanted`` does."""
        with self._access.writing("refresh", by) as transaction:
            return refreshes.begin(transaction, delivery, answer, note)

    def file_of(self, series: SeriesId, sha256: str) -> str | None:
        """Return the name, below the quarantine folder, of the file that a job of the series pins."""
        with self._access.reading() as connection:
            return refreshes.file_of(connection, series, sha256)
