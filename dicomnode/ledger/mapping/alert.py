"""Rows of table ``alert``."""

from __future__ import annotations

from dicomnode.ledger.statements import AnyRow
from dicomnode.ledger.states import AlertState
from dicomnode.ledger.transaction import LedgerTransaction
from dicomnode.ledger.values import Alert, Condition


def new_alert(transaction: LedgerTransaction, destination: str, condition: Condition) -> dict[str, object]:
    """An alert of which a destination is to be told."""
    return {
        **transaction.born(AlertState.RAISED, "raise"),
        "destination": destination,
        "name": condition.name,
        "sentence": condition.sentence,
        "is_error": condition.is_error,
        "number": condition.number,
        "first_at": transaction.now,
        "last_at": transaction.now,
        "sent_number": 0,
        "failure": "",
    }


def alert_of(row: AnyRow) -> Alert:
    """An alert as its sender reads it."""
    return Alert(
        id=row.id,
        name=row.name,
        state=AlertState(row.state),
        state_at=row.state_at,
        sentence=row.sentence,
        is_error=row.is_error,
        number=row.number,
        first_at=row.first_at,
        last_at=row.last_at,
        sent_at=row.sent_at,
        sent_number=row.sent_number,
    )
