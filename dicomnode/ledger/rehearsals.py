"""Requests for commitment that no delivery stands behind: `dicomnode check --rehearse` asked for them.

The running service takes every report of a peer, those of a rehearsal too. The rehearsal writes down its Transaction
UID before it asks, so the service recognises the report, answers it with success, and records that it came. All of it
is events of the node: no series, no delivery and no request of a delivery changes.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, select

from dicomnode.ledger.schema import events, node
from dicomnode.ledger.transaction import LedgerTransaction

ASKED: Final = "rehearsal_asked"  # its detail is the Transaction UID
REPORTED: Final = "rehearsal_reported"  # its detail begins with the Transaction UID; the actor is the peer

_NODE_ROW: Final = 1  # table ``node`` has one row
_OF_NODE = (events.c.table_name == node.name, events.c.row_id == _NODE_ROW)


@dataclass(frozen=True, slots=True, kw_only=True)
class RehearsalReport:
    """A report that the running service got: the peer, and the numbers of instances committed and denied."""

    peer: str
    committed: int
    denied: int


def ask(transaction: LedgerTransaction, transaction_uid: str) -> None:
    """Record the Transaction UID of a request that a rehearsal is about to send."""
    transaction.note(ASKED, table=node.name, row=_NODE_ROW, detail=transaction_uid)


def take_report(
    transaction: LedgerTransaction, transaction_uid: str, committed: Collection[str], failed: Collection[str]
) -> bool:
    """Record that a report came. False: no rehearsal asked under this Transaction UID."""
    asked = select(events.c.id).where(*_OF_NODE, events.c.kind == ASKED, events.c.detail == transaction_uid).limit(1)
    if transaction.connection.execute(asked).first() is None:
        return False
    detail = f"{transaction_uid} {len(committed)} {len(failed)}"
    transaction.note(REPORTED, table=node.name, row=_NODE_ROW, detail=detail)
    return True


def reported(connection: Connection, transaction_uid: str) -> RehearsalReport | None:
    """Return the first report on a request of a rehearsal; None: none came yet."""
    question = (
        select(events.c.actor, events.c.detail)
        .where(*_OF_NODE, events.c.kind == REPORTED, events.c.detail.startswith(f"{transaction_uid} "))
        .order_by(events.c.id)
        .limit(1)
    )
    row = connection.execute(question).one_or_none()
    if row is None:
        return None
    _, committed, denied = row.detail.split(" ")
    return RehearsalReport(peer=row.actor, committed=int(committed), denied=int(denied))
