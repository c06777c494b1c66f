"""Deliveries and their items: opened when a job is done, and what holds them back before anything is sent.

How they are sent is in ``sending``, the commands of an operator on a delivery in ``delivery_commands``.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, and_, exists, func, insert, select

from dicomnode.ids import DeliveryId, InstanceId, JobId, SeriesId
from dicomnode.ledger.mapping.delivery import new_delivery, new_items
from dicomnode.ledger.schema import delivery, delivery_item, job, quarantine
from dicomnode.ledger.statements import bind_values, bound, moving, stands
from dicomnode.ledger.states import NOT_ACCEPTED, DeliveryState, Event, ItemState
from dicomnode.ledger.transaction import LedgerTransaction
from dicomnode.ledger.values import (
    SET_ASIDE,
    Cargo,
    Finding,
    Job,
    Late,
    QuarantineReason,
    Release,
)

EARLIER_REVISION: Final = "earlier_revision"  # reason: another revision of the series began its way already
GATE: Final = "gate"  # reason: the result gate objects to the derived series
IDENTITY: Final = "identity"  # reason: the peer has the study under another patient
REFRESHED: Final = "refreshed"  # reason: the series is derived anew under the patient of the peer
IDENTITY_ACCEPTED: Final = "identity_accepted"  # event: a person sends it all the same
REVIEW: Final = "review"  # reason: the rule asks for a person's word on each result

PART_IS_THERE = exists().where(
    delivery_item.c.delivery_id == delivery.c.id, stands(delivery_item, ItemState.ACKNOWLEDGED)
)

# COMPARED: files of these reasons are compared with what was kept, because their series may lack something. Every
# finding but SAME is harm. A series is in doubt while such a file is harm, or not compared yet, and no person saw it.
COMPARED: Final = quarantine.c.reason.in_(
    [QuarantineReason.CONFLICT, QuarantineReason.OTHER_ENCODING, QuarantineReason.ORPHAN]
)
IS_HARM: Final = and_(COMPARED, quarantine.c.finding != Finding.SAME)
_IS_IN_DOUBT = exists().where(
    quarantine.c.series_id == bound("series"),
    quarantine.c.seen_at.is_(None),
    COMPARED,
    func.coalesce(quarantine.c.finding, "") != Finding.SAME,
)
_HOLD_DOUBTFUL = (
    moving(delivery, Event.SET_ASIDE)
    .where(delivery.c.series_id == bound("series"), ~PART_IS_THERE)
    .values(reason=SET_ASIDE, sentence=bound("sentence"))
)

_SUPERSEDE = moving(delivery, Event.SUPERSEDE).where(
    delivery.c.series_id == bound("series"),
    delivery.c.job_id != bound("but_job"),  # never true of the originals, which no derivation replaces
    ~PART_IS_THERE,
)
_BEGUN_REVISION = select(func.max(delivery.c.revision)).where(
    delivery.c.series_id == bound("series"), delivery.c.job_id.is_not(None), delivery.c.attempts > 0
)

_NOT_ACCEPTED = (
    select(delivery.c.id, delivery.c.peer)
    .where(
        delivery.c.series_id == bound("series"),
        delivery.c.revision == bound("revision"),
        stands(delivery, DeliveryState.CANCELLED),
        delivery.c.reason == NOT_ACCEPTED,
    )
    .order_by(delivery.c.id)
)
_GIVE_UP = moving(delivery, Event.CANCEL).where(delivery.c.id == bound("delivery"))
_OPEN = insert(delivery).returning(delivery.c.id)

DUE_NOW = {"next_at": bound("now"), "failures": 0, "resends": 0, "reason": None, "sentence": ""}
_RELEASE_DOUBTFUL = (
    moving(delivery, Event.RELEASE)
    .where(
        delivery.c.series_id == bound("series"),
        delivery.c.reason == SET_ASIDE,
    )
    .values(**DUE_NOW)
)


def supersede_unsent(
    transaction: LedgerTransaction, series_id: SeriesId, *, but_job: JobId | None, detail: str
) -> None:
    """Cancel the deliveries of results of which nothing has reached a peer, except those of one job."""
    transaction.move(_SUPERSEDE, detail, series=series_id, but_job=-1 if but_job is None else but_job)


def is_in_doubt(connection: Connection, series_id: SeriesId) -> bool:
    """Was a file of the series set aside that may matter, and that no person has seen?"""
    return bool(connection.execute(select(_IS_IN_DOUBT), bind_values(series=series_id)).scalar_one())


def hold_doubtful(transaction: LedgerTransaction, series_id: SeriesId) -> None:
    """Hold the deliveries of which nothing has reached a peer: a file of the series was set aside."""
    transaction.move(_HOLD_DOUBTFUL, series=series_id, sentence=doubt(series_id))


def release_doubtful(transaction: LedgerTransaction, series_id: SeriesId, detail: str) -> int:
    """Make the deliveries due that ``hold_doubtful`` held; return how many there were."""
    return transaction.move(_RELEASE_DOUBTFUL, detail, series=series_id)


def open_deliveries(
    transaction: LedgerTransaction, done: Job, *, instances: Sequence[InstanceId], objections: Sequence[str] = ()
) -> None:
    """Open a delivery to each peer of a done job, or none where its rule never sends what it derives.

    It is held if the result gate objects, if the rule asks for a review, if a delivery of an older revision has begun,
    or if a file of the series that was set aside is unseen. The first of these that applies is its reason; its sentence
    names all of them. It is cancelled at once if a person has rejected an earlier result of this revision for the peer.
    """
    supersede_unsent(transaction, done.series, but_job=done.id, detail=f"job {done.id} derived the series anew")
    if done.planned.release is Release.SHADOW:
        transaction.note("not_delivered", table=job.name, row=done.id, detail="its rule says shadow")
        return
    held = _hindrances(transaction, done, objections)
    reason = held[0][0] if held else None
    sentence = " ".join(words for _, words in held)
    rejections = {
        row.peer: row.id
        for row in transaction.connection.execute(
            _NOT_ACCEPTED, bind_values(series=done.series, revision=done.revision)
        )
    }
    cargo = Cargo(series=done.series, revision=done.revision, job=done.id, priority=done.planned.priority)
    for peer in dict.fromkeys(done.planned.deliver_to):
        if (rejected := rejections.get(peer)) is None:
            open_one(transaction, cargo, peer, instances, cause="job_done", reason=reason, sentence=sentence)
            continue
        said = f"A person rejected an earlier result of this revision: delivery {rejected}."
        made = open_one(transaction, cargo, peer, instances, cause="job_done", reason=NOT_ACCEPTED, sentence=said)
        transaction.move(_GIVE_UP, f"delivery {rejected} was rejected", delivery=made)


def _hindrances(transaction: LedgerTransaction, done: Job, objections: Sequence[str]) -> list[tuple[str, str]]:
    """List why the deliveries of a done job are to be held: reason and sentence, the most important one first."""
    begun_revision = transaction.connection.execute(_BEGUN_REVISION, bind_values(series=done.series)).scalar_one()
    held: list[tuple[str, str]] = []
    if objections:
        held.append((GATE, f"{objection(objections)} This delivery waits for `dicomnode deliveries release`."))
    if done.planned.release is Release.REVIEW:
        held.append((REVIEW, _review(transaction.now)))
    if done.planned.late is Late.HOLD and begun_revision is not None and begun_revision < done.revision:
        sentence = (
            f"A delivery of revision {begun_revision} of this series had begun before revision {done.revision} "
            "arrived; this one waits for `dicomnode deliveries release`."
        )
        held.append((EARLIER_REVISION, sentence))
    elif is_in_doubt(transaction.connection, done.series):
        held.append((SET_ASIDE, doubt(done.series)))
    return held


def objection(objections: Sequence[str]) -> str:
    """Say in one sentence what the result gate found."""
    return f"The result gate found that {'; and that '.join(objections)}."


def open_one(
    transaction: LedgerTransaction,
    cargo: Cargo,
    peer: str,
    instances: Sequence[InstanceId],
    *,
    cause: str,
    reason: str | None = None,
    sentence: str = "",
) -> DeliveryId:
    """Make a delivery with all its items. With a reason it is held, else it is due."""
    new = new_delivery(transaction, cargo, peer, cause=cause, reason=reason, sentence=sentence)
    made = DeliveryId(transaction.connection.execute(_OPEN, new).scalar_one())
    transaction.connection.execute(insert(delivery_item), new_items(transaction, made, instances, cause=cause))
    return made


def _review(since: datetime) -> str:
    return (
        f"It waits for a person's review since {since:%Y-%m-%d %H:%M} UTC: `dicomnode deliveries release` accepts the "
        "result, `dicomnode deliveries cancel --note` rejects it."
    )


def doubt(series_id: SeriesId) -> str:
    """Explain why a delivery waits: objects of its series were set aside."""
    return (
        f"Objects of series {series_id} were set aside (`dicomnode series explain {series_id}`) before this delivery "
        "had begun; it waits for `dicomnode deliveries release`."
    )
