"""Requests to peers to commit to what they acknowledged, and the effect of the answers on a delivery.

    wanted → asked → committed, or failed: sent again
                   → no report in time → a C-FIND: queried, or sent again
                   → nothing to be had: unproven

A request is on the instances of its delivery to which no peer has committed yet. A report is taken in every state but
``wanted``, since peers report days later and also on requests that a newer one has replaced. An instance that the peer
denies is sent again only on the word of the newest request, and not more often than ``RESEND_AFTER_S`` has times; then
the delivery is held. Nothing here reaches a peer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, func, insert, select, update

from dicomnode.ids import DeliveryId
from dicomnode.ledger.mapping.commitment import commitment_line, commitment_of, new_commitment
from dicomnode.ledger.schema import commitment, delivery, delivery_item, instance
from dicomnode.ledger.statements import AnyRow, bind_values, bound, moving, stands
from dicomnode.ledger.states import CommitmentState, DeliveryState, Event, ItemState
from dicomnode.ledger.transaction import LedgerTransaction
from dicomnode.ledger.values import Commitment
from dicomnode.ledger.views import CommitmentLine

NOT_COMMITTED: Final = "not_committed"  # reason: the peer does not have what it acknowledged
ACKNOWLEDGED: Final = "acknowledged"  # the proofs of a delivery, from the weakest on
QUERIED: Final = "queried"
COMMITTED: Final = "committed"

RESEND_AFTER_S: Final = (0.0, 60.0, 600.0)  # the wait before each time that a delivery is sent again for want of proof
LISTENING: Final = timedelta(days=7)  # so long a restart asks anew

# Failure Reason (PS3.3 section C.14.1.1): what it means, and whether to send the instance again can change anything.
FAILURE_REASONS: Final[dict[int, tuple[str, bool]]] = {
    0x0110: ("processing failure", True),
    0x0112: ("no such instance", True),
    0x0119: ("conflict of class and instance", False),
    0x0122: ("SOP class not supported", False),
    0x0131: ("duplicate transaction UID", False),
    0x0213: ("short of resources", True),
}

_WAITING = stands(commitment, CommitmentState.WANTED, CommitmentState.ASKED)
_OF_SENT = stands(delivery, DeliveryState.SENT)
_BY_ID = commitment.c.id == bound("commitment")
_NEXT = (
    select(commitment)
    .join_from(commitment, delivery)
    .where(_WAITING, _OF_SENT, delivery.c.peer == bound("peer"), commitment.c.next_at <= bound("now"))
    .order_by(commitment.c.next_at, commitment.c.id)
    .limit(1)
)
_UNASKED = (
    select(commitment)
    .join_from(commitment, delivery)
    .where(
        stands(commitment, CommitmentState.WANTED), _OF_SENT, delivery.c.peer == bound("peer"),
        commitment.c.next_at <= bound("now"),
    )
    .order_by(commitment.c.next_at, commitment.c.id)
    .limit(bound("limit"))
)  # fmt: skip
_NEXT_AT = (
    select(func.min(commitment.c.next_at))
    .join_from(commitment, delivery)
    .where(_WAITING, _OF_SENT, delivery.c.peer == bound("peer"))
)
_ITEMS = (
    select(
        delivery_item.c.id,
        delivery_item.c.state,
        delivery_item.c.committed_at,
        instance.c.file,
        instance.c.sop_class_uid,
        instance.c.sop_instance_uid,
        instance.c.removed_at,
    )
    .join_from(delivery_item, instance)
    .where(delivery_item.c.delivery_id == bound("delivery"))
    .order_by(delivery_item.c.id)
)
_ASK = (
    moving(commitment, Event.ASK)
    .where(_BY_ID, commitment.c.delivery_id.in_(select(delivery.c.id).where(_OF_SENT)))
    .values(peer=bound("committer"), asked_at=bound("now"), next_at=bound("next_at"), failures=0)
)
_POSTPONE = (
    update(commitment).where(_BY_ID, _WAITING).values(next_at=bound("next_at"), failures=commitment.c.failures + 1)
)
_FIND = moving(commitment, Event.FIND).where(_BY_ID)
_GIVE_UP = moving(commitment, Event.GIVE_UP).where(_BY_ID)
_GIVE_UP_ALL = moving(commitment, Event.GIVE_UP).where(
    commitment.c.delivery_id.in_(select(delivery.c.id).where(delivery.c.peer.not_in(bound("peers", is_list=True))))
)
_COMMIT = moving(commitment, Event.COMMIT).where(_BY_ID)
_DENY = moving(commitment, Event.DENY).where(_BY_ID)
_REPLACE = moving(commitment, Event.SUPERSEDE).where(_BY_ID)
_REPLACE_OTHERS = moving(commitment, Event.SUPERSEDE).where(
    commitment.c.delivery_id == bound("delivery"), commitment.c.id != bound("commitment")
)
_PROVE = update(delivery).where(delivery.c.id == bound("delivery"), _OF_SENT).values(proof=bound("proof"))
_COMMIT_ITEMS = (
    update(delivery_item).where(delivery_item.c.id.in_(bound("items", is_list=True))).values(committed_at=bound("now"))
)
_MISS_ITEMS = (
    moving(delivery_item, Event.MISS)
    .where(delivery_item.c.id.in_(bound("items", is_list=True)))
    .values(attempt=None, tries=0)
)
_UNSENT = {"sent_at": None, "proof": None, "reason": NOT_COMMITTED, "sentence": bound("sentence")}
_SEND_AGAIN = (
    moving(delivery, Event.MISS)
    .where(delivery.c.id == bound("delivery"))
    .values(next_at=bound("next_at"), resends=delivery.c.resends + 1, **_UNSENT)
)
_HOLD = moving(delivery, Event.DENY).where(delivery.c.id == bound("delivery")).values(**_UNSENT)
_UNANSWERED = (
    select(commitment)
    .join_from(commitment, delivery)
    .where(
        stands(commitment, CommitmentState.ASKED, CommitmentState.QUERIED, CommitmentState.UNPROVEN),
        _OF_SENT,
        commitment.c.asked_at > bound("since"),
    )
    .order_by(commitment.c.id)
)
_LATE = _UNANSWERED.where(~stands(commitment, CommitmentState.ASKED), delivery.c.peer == bound("peer"))
_OF_DELIVERY = select(commitment).where(commitment.c.delivery_id == bound("delivery")).order_by(commitment.c.id)


def want(transaction: LedgerTransaction, delivery_id: DeliveryId, peer: str, *, cause: str = Event.FINISH) -> None:
    """Record that a peer is to commit to the instances of a delivery that was sent."""
    transaction.connection.execute(insert(commitment), new_commitment(transaction, delivery_id, peer, cause=cause))


def next_one(connection: Connection, stored_at: str, now: datetime) -> Commitment | None:
    """Return the request on a delivery to this peer that waits longest, where one may go on."""
    row = connection.execute(_NEXT, bind_values(peer=stored_at, now=now)).one_or_none()
    return None if row is None else _with_items(connection, row)


def unasked(connection: Connection, stored_at: str, now: datetime, limit: int) -> tuple[Commitment, ...]:
    """Return the requests on deliveries to this peer that wait to be asked, the one that waits longest first."""
    rows = connection.execute(_UNASKED, bind_values(peer=stored_at, now=now, limit=limit)).all()
    return tuple(_with_items(connection, row) for row in rows)


def next_at(connection: Connection, stored_at: str) -> datetime | None:
    """Return when the first request on a delivery to this peer may go on. None: none waits."""
    moment: datetime | None = connection.execute(_NEXT_AT, bind_values(peer=stored_at)).scalar_one()
    return moment


def late(connection: Connection, stored_at: str, now: datetime) -> tuple[Commitment, ...]:
    """Return the requests on deliveries to this peer whose result did not come in time, and may come yet."""
    rows = connection.execute(_LATE, bind_values(peer=stored_at, since=now - LISTENING)).all()
    return tuple(commitment_of(row, ()) for row in rows)


def lines(connection: Connection, delivery_id: int, *, identify: bool) -> tuple[CommitmentLine, ...]:
    """List the requests to commit to a delivery, the oldest first."""
    rows = connection.execute(_OF_DELIVERY, bind_values(delivery=delivery_id))
    return tuple(commitment_line(row, identify=identify) for row in rows)


def ask(transaction: LedgerTransaction, one: Commitment, committer: str, look_at: datetime) -> bool:
    """Record that the request goes out, before it does. False: it is not to be asked any more."""
    return transaction.move(_ASK, f"of {committer}", commitment=one.id, committer=committer, next_at=look_at) == 1


def postpone(transaction: LedgerTransaction, one: Commitment, at: datetime) -> None:
    """Let the request go on at a later moment, because a peer could not be reached."""
    transaction.connection.execute(_POSTPONE, bind_values(commitment=one.id, next_at=at))


def queried(transaction: LedgerTransaction, one: Commitment, found: Collection[str]) -> int:
    """Record the result of a C-FIND; instances that it did not show are to be sent again. Return how many these are."""
    items = _items(transaction.connection, one.delivery)
    absent = [item for item in items if item.committed_at is None and item.sop_instance_uid not in found]
    if not absent:
        if transaction.move(_FIND, f"{len(items)} of {len(items)} found", commitment=one.id):
            _prove(transaction, one.delivery, QUERIED)
        return 0
    if not transaction.move(_REPLACE, f"{len(absent)} of {len(items)} not found", commitment=one.id):
        return 0
    _send_again(transaction, one.delivery, absent, f"{len(absent)} of {len(items)} images are not found there", {})
    return len(absent)


def give_up(transaction: LedgerTransaction, one: Commitment, why: str) -> None:
    """Record that nothing more than the acknowledgements can be had."""
    transaction.move(_GIVE_UP, why, commitment=one.id)


def give_up_all(transaction: LedgerTransaction, but: Collection[str]) -> int:
    """Record that nobody asks for proof of deliveries to any peer but these."""
    return transaction.move(_GIVE_UP_ALL, "the settings ask for none", peers=sorted(but))


def ask_anew(transaction: LedgerTransaction) -> int:
    """Replace every request whose report may have come while nobody listened; return how many there were."""
    since = transaction.now - LISTENING
    rows = transaction.connection.execute(_UNANSWERED, bind_values(since=since)).all()
    for row in rows:
        transaction.move(_REPLACE, "the service started anew", commitment=row.id)
        want(transaction, DeliveryId(row.delivery_id), row.peer, cause="restart")
    return len(rows)


def take_report(
    transaction: LedgerTransaction,
    transaction_uid: str,
    peer: str,
    committed: Collection[str],
    failed: Mapping[str, int],
) -> bool:
    """Record the report of a peer on a request. False: no request that was asked has this Transaction UID."""
    question = select(commitment).where(commitment.c.transaction_uid == transaction_uid)
    row = transaction.connection.execute(question).one_or_none()
    if row is None or row.state == CommitmentState.WANTED:
        return False
    if peer != row.peer:
        transaction.note("report_of_other", table=commitment.name, row=row.id, detail=f"of {peer}, not {row.peer}")
    if row.state == CommitmentState.COMMITTED:
        transaction.note("report_repeated", table=commitment.name, row=row.id)
        return True
    delivery_id = DeliveryId(row.delivery_id)
    before = _items(transaction.connection, delivery_id)
    kept = [
        one.id
        for one in before
        if one.state == ItemState.ACKNOWLEDGED and one.committed_at is None and one.sop_instance_uid in committed
    ]
    if kept:
        transaction.connection.execute(_COMMIT_ITEMS, bind_values(items=kept, now=transaction.now))
    items = _items(transaction.connection, delivery_id)
    open_ones = [one for one in items if one.committed_at is None or one.state != ItemState.ACKNOWLEDGED]
    denied = {one.sop_instance_uid: one for one in open_ones if one.sop_instance_uid in failed}
    if not open_ones:
        transaction.move(_COMMIT, f"{len(items)} of {len(items)}", commitment=row.id)
        transaction.move(_REPLACE_OTHERS, f"answered by request {row.id}", delivery=delivery_id, commitment=row.id)
        _prove(transaction, delivery_id, COMMITTED)
    elif denied and transaction.move(_DENY, _reasons(denied, failed), commitment=row.id):
        what = f"it does not commit to {len(denied)} of {len(items)} images ({_reasons(denied, failed)})"
        reasons = {uid: failed[uid] for uid in denied}
        _send_again(transaction, delivery_id, list(denied.values()), what, reasons)
    else:
        detail = f"{len(kept)} committed, {len(denied)} denied, {len(open_ones)} of {len(items)} open"
        transaction.note("report_taken", table=commitment.name, row=row.id, detail=detail)
    return True


def _with_items(connection: Connection, row: AnyRow) -> Commitment:
    return commitment_of(row, [one for one in _items(connection, row.delivery_id) if one.committed_at is None])


def _items(connection: Connection, delivery_id: DeliveryId) -> list[AnyRow]:
    return list(connection.execute(_ITEMS, bind_values(delivery=delivery_id)))


def _prove(transaction: LedgerTransaction, delivery_id: DeliveryId, proof: str) -> None:
    transaction.connection.execute(_PROVE, bind_values(delivery=delivery_id, proof=proof))


def _send_again(
    transaction: LedgerTransaction,
    delivery_id: DeliveryId,
    absent: list[AnyRow],
    what: str,
    reasons: Mapping[str, int],
) -> None:
    """Make the delivery due with these items pending, or hold it where that would change nothing."""
    row = transaction.connection.execute(select(delivery).where(delivery.c.id == delivery_id)).one()
    if row.state != DeliveryState.SENT:
        return
    transaction.move(_MISS_ITEMS, items=[one.id for one in absent])
    times = row.resends
    is_hopeless = any(not FAILURE_REASONS.get(reason, ("", True))[1] for reason in reasons.values())
    if any(one.removed_at is not None for one in absent):
        sentence = f"{row.peer} acknowledged every image, but {what}. They were removed here and cannot be sent again."
        transaction.move(_HOLD, what, delivery=delivery_id, sentence=sentence)
        return
    if is_hopeless or times >= len(RESEND_AFTER_S):
        again = f" They were sent again {times} times." if times else ""
        sentence = f"{row.peer} acknowledged every image, but {what}.{again} Ask its administrator what its log says."
        transaction.move(_HOLD, what, delivery=delivery_id, sentence=sentence)
        return
    sentence = f"{row.peer} acknowledged every image, but {what}; they are sent again."
    at = transaction.now + timedelta(seconds=RESEND_AFTER_S[times])
    transaction.move(_SEND_AGAIN, what, delivery=delivery_id, sentence=sentence, next_at=at)


def _reasons(denied: Collection[str], failed: Mapping[str, int]) -> str:
    """Name the reasons, each with its number of images."""
    counts: dict[int, int] = {}
    for uid in denied:
        counts[failed[uid]] = counts.get(failed[uid], 0) + 1
    return ", ".join(
        f"{number} x {reason & 0xFFFF:04X}, {FAILURE_REASONS.get(reason, ('a reason of its own', True))[0]}"
        for reason, number in sorted(counts.items())
    )
