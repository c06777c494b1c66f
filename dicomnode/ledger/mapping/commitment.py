"""Rows of table ``commitment``: requests to a peer to commit to what it acknowledged."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from dicomnode.ids import DeliveryId
from dicomnode.ledger.statements import AnyRow
from dicomnode.ledger.states import CommitmentState
from dicomnode.ledger.transaction import LedgerTransaction
from dicomnode.ledger.values import Commitment, CommitmentId, ProvenItem
from dicomnode.ledger.views import CommitmentLine


def new_commitment(
    transaction: LedgerTransaction, delivery_id: DeliveryId, peer: str, *, cause: str
) -> dict[str, object]:
    """A request to be asked at once, under a Transaction UID that no other has."""
    return {
        "delivery_id": delivery_id,
        "peer": peer,
        "transaction_uid": f"2.25.{uuid.uuid4().int}",
        **transaction.born(CommitmentState.WANTED, cause),
        "created_at": transaction.now,
        "next_at": transaction.now,
        "failures": 0,
    }


def commitment_of(row: AnyRow, items: Iterable[AnyRow]) -> Commitment:
    """A request, with the columns of the instances that are to be proven."""
    return Commitment(
        id=CommitmentId(row.id),
        delivery=DeliveryId(row.delivery_id),
        transaction_uid=row.transaction_uid,
        is_asked=row.state == CommitmentState.ASKED,
        created_at=row.created_at,
        failures=row.failures,
        items=tuple(
            ProvenItem(file=one.file, sop_class_uid=one.sop_class_uid, sop_instance_uid=one.sop_instance_uid)
            for one in items
        ),
    )


def commitment_line(row: AnyRow, *, identify: bool) -> CommitmentLine:
    """A request as a person reads it."""
    return CommitmentLine(
        delivery=row.delivery_id,
        peer=row.peer,
        state=row.state,
        transaction_uid=row.transaction_uid if identify else None,
        created_at=row.created_at,
        asked_at=row.asked_at,
        changed_at=row.state_at,
    )
