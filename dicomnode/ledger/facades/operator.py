"""The part of the ledger that an operator uses: commands on a series, a delivery, or files that were set aside."""

from __future__ import annotations

from collections.abc import Collection

from dicomnode.ids import DeliveryId, JobId, SeriesId
from dicomnode.ledger import delivery_commands, quarantine, verdicts
from dicomnode.ledger.access import Access


class Operator:
    """A person changes rows by these commands. A command that the state of the row does not allow raises InputError."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def retry_series(self, series: SeriesId, by: str) -> None:
        """Let the current revision be judged again. Raises InputError where its state does not allow that."""
        with self._access.writing("retry_series", by) as transaction:
            verdicts.retry(transaction, series)

    def release_series(self, series: SeriesId, by: str) -> None:
        """Let the series go on as it is. Raises InputError where nothing holds it."""
        with self._access.writing("release_series", by) as transaction:
            verdicts.release(transaction, series)

    def cancel_series(self, series: SeriesId, by: str) -> tuple[JobId, ...]:
        """Cancel the jobs of a series, the running one too; return their numbers. InputError where it has none."""
        with self._access.writing("cancel_series", by) as transaction:
            return verdicts.cancel(transaction, series)

    def retry_delivery(self, delivery: DeliveryId, by: str) -> None:
        """Make a delivery due now, its refused items pending. Raises InputError where its state does not allow that."""
        with self._access.writing("retry_delivery", by) as transaction:
            delivery_commands.retry(transaction, delivery)

    def send_delivery_to(self, delivery: DeliveryId, peer: str, by: str) -> DeliveryId:
        """Send the images of a delivery to another peer, and cancel it where it is not sent; return the new delivery.

        Raises InputError where the peer has them already, or is about to get them.
        """
        with self._access.writing("send_delivery_to", by) as transaction:
            return delivery_commands.send_to(transaction, delivery, peer)

    def cancel_delivery(self, delivery: DeliveryId, by: str, *, note: str = "") -> None:
        """Cancel a delivery: no more of it is sent. Raises InputError where it has ended, or its rejection has no note.

        ``note``: why, in the words of a person.
        """
        with self._access.writing("cancel_delivery", by) as transaction:
            delivery_commands.cancel(transaction, delivery, note)

    def release_delivery(self, delivery: DeliveryId, by: str, *, note: str = "") -> None:
        """Make a held delivery due. Raises InputError where it is not held. ``note``: why, in the words of a person."""
        with self._access.writing("release_delivery", by) as transaction:
            delivery_commands.release(transaction, delivery, note)

    def peer_of_delivery(self, delivery: DeliveryId) -> str:
        """Return the peer of a delivery. Raises InputError where there is no such delivery."""
        with self._access.reading() as connection:
            return delivery_commands.peer_of(connection, delivery)

    def see_quarantine(self, rows: Collection[int] | None, by: str) -> int:
        """Record that a person saw these rows, or all; return how many were new. Raises InputError for no such row."""
        with self._access.writing("see_quarantine", by) as transaction:
            return quarantine.see(transaction, rows)
