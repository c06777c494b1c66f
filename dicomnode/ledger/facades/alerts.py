"""The part of the ledger that the alert watch uses: the alerts of each destination, and the weekly letter."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from dicomnode.ledger import alerts
from dicomnode.ledger.access import Access
from dicomnode.ledger.values import Alert, Condition


class Alerts:
    """The alert watch reads here which alerts a destination is to get, and records which were sent."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def observe(
        self, destination: str, holding: Sequence[Condition], ended: Collection[str], *, again_s: float
    ) -> None:
        """Raise the alerts whose conditions began to hold, and end those whose conditions are over, at one destination.

        An alert of which there is more is raised again ``again_s`` after it was sent.
        """
        with self._access.writing("observe_alerts") as transaction:
            again_before = transaction.now - timedelta(seconds=again_s)
            alerts.observe(transaction, destination, holding, ended, again_before=again_before)

    def holding_names(self, destination: str) -> list[str]:
        """List the names of the conditions that held when they were observed last."""
        with self._access.reading() as connection:
            return alerts.holding_names(connection, destination)

    def to_send(self, destination: str) -> list[Alert]:
        """List what the destination is to be told, the oldest first."""
        with self._access.reading() as connection:
            return alerts.to_send(connection, destination)

    def sent(self, told: Sequence[Alert]) -> None:
        """Record that a destination took a message with these alerts."""
        with self._access.writing("alerts_sent") as transaction:
            alerts.sent(transaction, told)

    def not_sent(self, untold: Sequence[Alert], failure: str) -> None:
        """Record that a try to send these alerts failed, and why."""
        with self._access.writing("alerts_not_sent") as transaction:
            alerts.not_sent(transaction, untold, failure)

    def write_letter(self, destination: str, *, due_at: datetime | None = None) -> None:
        """Let the weekly letter be sent; with ``due_at`` only where the last one was written before that moment."""
        with self._access.writing("write_letter") as transaction:
            alerts.write_letter(transaction, destination, due_at=due_at)
