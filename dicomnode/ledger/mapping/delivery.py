"""Rows of tables ``delivery`` and ``delivery_item``."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Final

from dicomnode.ids import DeliveryId, InstanceId, ItemId, JobId, SeriesId
from dicomnode.ledger.schema import DERIVED
from dicomnode.ledger.statements import AnyRow
from dicomnode.ledger.states import DeliveryState, ItemState
from dicomnode.ledger.transaction import LedgerTransaction
from dicomnode.ledger.values import Cargo, Delivery, DeliveryItem, Priority
from dicomnode.ledger.views import AnswerLine, DeliveryLine

ORIGINALS: Final = "originals"  # content of a delivery: instances as they were received; else ``DERIVED``


def new_delivery(
    transaction: LedgerTransaction, cargo: Cargo, peer: str, *, cause: str, reason: str | None, sentence: str
) -> dict[str, object]:
    """A delivery that is due, or held where there is a reason."""
    return {
        "job_id": cargo.job,
        "series_id": cargo.series,
        "revision": cargo.revision,
        "priority": cargo.priority,
        "peer": peer,
        **transaction.born(DeliveryState.HELD if reason else DeliveryState.DUE, cause),
        "created_at": transaction.now,
        "next_at": transaction.now,
        "attempts": 0,
        "failures": 0,
        "lease_token": 0,
        "reason": reason,
        "sentence": sentence,
    }


def new_items(
    transaction: LedgerTransaction, delivery_id: DeliveryId, instances: Sequence[InstanceId], *, cause: str
) -> list[dict[str, object]]:
    """An item for each instance of a delivery, in their order."""
    item = {"delivery_id": delivery_id, "tries": 0, **transaction.born(ItemState.PENDING, cause)}
    return [{**item, "instance_id": one} for one in instances]


def cargo_of(row: AnyRow) -> Cargo:
    """Map a row to the cargo of its delivery."""
    return Cargo(
        series=SeriesId(row.series_id),
        revision=row.revision,
        job=None if row.job_id is None else JobId(row.job_id),
        priority=Priority(row.priority),
    )


def claimed_delivery(row: AnyRow) -> Delivery:
    """The row as the claim left it."""
    return Delivery(
        id=DeliveryId(row.id),
        job=None if row.job_id is None else JobId(row.job_id),
        peer=row.peer,
        attempts=row.attempts,
        failures=row.failures,
        lease_token=row.lease_token,
    )


def pending_item(row: AnyRow, refusals: Collection[int]) -> DeliveryItem:
    """Map the columns of an item and its instance; ``refusals``: statuses with which it was refused before."""
    return DeliveryItem(
        id=ItemId(row.id),
        instance=InstanceId(row.instance_id),
        file=row.file,
        sop_class_uid=row.sop_class_uid,
        sop_instance_uid=row.sop_instance_uid,
        transfer_syntax_uid=row.transfer_syntax_uid,
        size_bytes=row.size_bytes,
        sha256=row.sha256,
        tries=row.tries,
        status=row.status,
        refusals=frozenset(refusals),
    )


def delivery_line(
    row: AnyRow, tally: Sequence[AnyRow], *, next_at: datetime | None, reason: str | None, sentence: str
) -> DeliveryLine:
    """Map a row that has ``commitment`` beside the columns.

    ``tally``: how many of its items have which state and status. ``next_at``, ``reason`` and ``sentence``: as they are
    with the peers of the settings.
    """
    return DeliveryLine(
        id=row.id,
        state=row.state,
        peer=row.peer,
        content=ORIGINALS if row.job_id is None else DERIVED,
        items=_items(tally, ItemState),
        acknowledged=_items(tally, (ItemState.ACKNOWLEDGED,)),
        refused=_items(tally, (ItemState.REFUSED,)),
        next_at=next_at,
        reason=reason,
        sentence=sentence,
        series=row.series_id,
        revision=row.revision,
        job=row.job_id,
        attempts=row.attempts,
        failures=row.failures,
        proof=row.proof,
        commitment=row.commitment,
        resends=row.resends,
        sent_at=row.sent_at,
        answers=tuple(
            AnswerLine(status=f"{part.status:04X}", state=part.state, items=part.items)
            for part in tally
            if part.status is not None
        ),
        created_at=row.created_at,
        changed_at=row.state_at,
    )


def _items(tally: Iterable[AnyRow], states: Iterable[ItemState]) -> int:
    wanted = set(states)
    return sum(part.items for part in tally if part.state in wanted)
