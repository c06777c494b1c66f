"""The rows of files that were set aside: their series, the result of their comparison, whether a person saw them.

A file in quarantine was answered 0000 and is no instance, or was refused, or lay in the archive without a row. As long
as nobody has seen one that may matter, its series is not derived in silence and nothing of it begins its way.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import PurePath
from typing import Final

from sqlalchemy import Connection, and_, exists, func, insert, or_, select, update

from dicomnode.errors import InputError
from dicomnode.ids import InstanceId, QuarantineId, SeriesId
from dicomnode.ledger import deliveries
from dicomnode.ledger.deliveries import COMPARED, IS_HARM
from dicomnode.ledger.mapping.instance import KNOWN_INSTANCE
from dicomnode.ledger.mapping.quarantine import new_quarantine, quarantine_line, unexamined_of
from dicomnode.ledger.schema import RECEIVED, instance, quarantine, series
from dicomnode.ledger.sentences import beside, set_aside
from dicomnode.ledger.statements import bind_values, bound, stands
from dicomnode.ledger.states import SeriesState
from dicomnode.ledger.transaction import LedgerTransaction
from dicomnode.ledger.values import (
    Examined,
    Finding,
    KnownInstance,
    QuarantinedFile,
    QuarantineReason,
    SetAside,
    StoredInstance,
    StoreOutcome,
    Unexamined,
)
from dicomnode.ledger.views import AttentionLine, QuarantineLine, Waiting

SEEN: Final = "seen"  # event: a person has looked

_UNCERTAIN = (Finding.NOT_COMPARED, Finding.NOT_STORED)  # another look may find something else
_UNSEEN = quarantine.c.seen_at.is_(None)
# Unseen files that a person has to see: all but those found to be the same, and re-encodings not compared yet.
IS_ALERT = and_(
    _UNSEEN,
    func.coalesce(quarantine.c.finding, "") != Finding.SAME,
    or_(quarantine.c.reason != QuarantineReason.OTHER_ENCODING, quarantine.c.finding.is_not(None)),
)
_SAME_BYTES = select(quarantine.c.file).where(
    quarantine.c.instance_id == bound("kept"),
    quarantine.c.sha256 == bound("sha256"),
    quarantine.c.reason.in_([QuarantineReason.CONFLICT, QuarantineReason.OTHER_ENCODING]),
    quarantine.c.removed_at.is_(None),
)
_SERIES_OF = select(instance.c.series_id).where(instance.c.id == bound("kept"))
_stored = instance.alias("stored")
_beside = quarantine.alias("beside")
_IS_STORED = or_(
    exists().where(
        _stored.c.series_id == quarantine.c.series_id,
        _stored.c.sha256 == quarantine.c.sha256,
        _stored.c.origin == RECEIVED,
    ),
    exists().where(  # or they came again and were set aside for a reason that has its own row
        quarantine.c.reason == QuarantineReason.ORPHAN,
        _beside.c.series_id == quarantine.c.series_id,
        _beside.c.sha256 == quarantine.c.sha256,
        _beside.c.reason.in_([QuarantineReason.CONFLICT, QuarantineReason.OTHER_ENCODING]),
    ),
)
_UNEXAMINED = (
    select(
        quarantine.c.id,
        quarantine.c.reason,
        quarantine.c.file,
        quarantine.c.series_id,
        *KNOWN_INSTANCE,
        _IS_STORED.label("is_stored"),
    )
    .join_from(quarantine, instance, isouter=True)
    .where(
        quarantine.c.series_id == bound("series"),
        COMPARED,
        or_(quarantine.c.finding.is_(None), and_(_UNSEEN, quarantine.c.finding.in_(_UNCERTAIN))),
    )
    .order_by(quarantine.c.id)
)
_WAITING_SERIES = (
    select(quarantine.c.series_id)
    .distinct()
    .join_from(quarantine, series, series.c.id == quarantine.c.series_id)
    .where(
        quarantine.c.series_id.is_not(None),
        quarantine.c.finding.is_(None),
        COMPARED,
        stands(series, SeriesState.KEPT, SeriesState.PLANNED),
    )
)
_WITHOUT_SERIES = select(quarantine.c.id, quarantine.c.file, quarantine.c.reason).where(
    quarantine.c.series_id.is_(None), quarantine.c.finding.is_(None), COMPARED
)
_FIND = (
    update(quarantine)
    .where(quarantine.c.id == bound("row"), quarantine.c.finding.is_distinct_from(bound("finding")))
    .values(finding=bound("finding"), details=bound("details"))
)
_SEE = update(quarantine).where(quarantine.c.id == bound("row"))
_BELONG = update(quarantine).where(quarantine.c.id == bound("row")).values(series_id=bound("series"))
_GROUPS = (
    select(
        quarantine.c.finding,
        quarantine.c.details,
        instance.c.series_id.label("kept_series"),
        func.count().label("files"),
    )
    .join_from(quarantine, instance, isouter=True)
    .where(
        quarantine.c.series_id == bound("series"),
        COMPARED,
        func.coalesce(quarantine.c.finding, "") != Finding.SAME,
    )
    .group_by(quarantine.c.finding, quarantine.c.details, instance.c.series_id)
    .order_by(func.min(quarantine.c.id))
)
_BESIDE = (
    select(quarantine.c.series_id, func.count().label("files"))
    .join_from(quarantine, instance)
    .where(
        instance.c.series_id == bound("series"),
        quarantine.c.series_id != instance.c.series_id,
        quarantine.c.finding == Finding.OTHER_SERIES,
    )
    .group_by(quarantine.c.series_id)
    .order_by(quarantine.c.series_id)
)
_INSTANCES = select(func.count()).where(instance.c.series_id == bound("series"))
_LINES = (
    select(quarantine, instance.c.file.label("kept_file"), instance.c.series_id.label("kept_series"))
    .join_from(quarantine, instance, isouter=True)
    .order_by(quarantine.c.id.desc())
)
_ALERTS = (
    select(
        quarantine.c.reason,
        quarantine.c.peer,
        func.count().label("files"),
        func.max(quarantine.c.id).label("id"),
        func.min(quarantine.c.at).label("since"),
    )
    .where(IS_ALERT)
    .group_by(quarantine.c.reason, quarantine.c.peer)
    .order_by(func.max(quarantine.c.id).desc())
)

# The words for each reason that an operator reads.
CAUSES: Final = {
    QuarantineReason.CONFLICT: "other bytes came under a SOP Instance UID that is taken",
    QuarantineReason.OTHER_ENCODING: "they came in another transfer syntax, and differ from what was kept",
    QuarantineReason.HEADER: "their header cannot be read, so that they were refused",
    QuarantineReason.UID: "their UIDs are none, or not those of the C-STORE request, so that they were refused",
    QuarantineReason.ORPHAN: "they had no row in the ledger, as after a crash or with an older ledger",
    QuarantineReason.ALTERED: "they were altered on the disk after they had been stored",
    QuarantineReason.PATIENT: "they hold what a peer said of the patient of a study, for a job that writes it",
}


def take(
    transaction: LedgerTransaction,
    again: StoredInstance,
    known: KnownInstance,
    outcome: StoreOutcome,
) -> bool:
    """Record an object whose UID is taken, in the transaction that found it out; False: its very bytes lie there.

    Deliveries of its series are held, also while the series receives images again: those of the originals go on then.
    Its file is still to be moved to quarantine: after a kill before that, the next start finds it by its name.
    """
    assert outcome in (StoreOutcome.CONFLICT, StoreOutcome.OTHER_ENCODING)
    if transaction.connection.execute(_SAME_BYTES, bind_values(kept=known.id, sha256=again.sha256)).first() is not None:
        transaction.note(StoreOutcome.ASIDE_ALREADY, table=instance.name, row=known.id)
        return False
    file = QuarantinedFile(
        file=PurePath(again.file).name,
        reason=QuarantineReason(outcome.value),
        sha256=again.sha256,
        peer=again.peer,
        instance=known.id,
        kept_sha256=known.sha256,
        series=again.series,
    )
    made = record(transaction, file)
    if known.series != again.series:
        transaction.note(
            file.reason, table=quarantine.name, row=made, detail=f"kept is an instance of series {known.series}"
        )
    deliveries.hold_doubtful(transaction, again.series)
    return True


def record(transaction: LedgerTransaction, file: QuarantinedFile, finding: Finding | None = None) -> QuarantineId:
    """Record a file in the quarantine folder, and an event at the instance that was kept."""
    belongs_to = file.series
    if belongs_to is None and file.instance is not None:
        belongs_to = transaction.connection.execute(_SERIES_OF, bind_values(kept=file.instance)).scalar_one()
    new = new_quarantine(transaction, file, belongs_to, finding)
    made = transaction.connection.execute(insert(quarantine).returning(quarantine.c.id), new).scalar_one()
    if file.instance is None:
        transaction.note(file.reason, table=quarantine.name, row=made)
    else:
        transaction.note(file.reason, table=instance.name, row=file.instance, detail=f"set aside as quarantine {made}")
    return QuarantineId(made)


def file_of(connection: Connection, kept: InstanceId, sha256: str) -> str | None:
    """Return the name of the file with these bytes that was set aside under the UID of an instance."""
    found: str | None = connection.execute(_SAME_BYTES, bind_values(kept=kept, sha256=sha256)).scalars().first()
    return found


def files(connection: Connection) -> set[str]:
    """Return the names, below the quarantine folder, of all files that have a row."""
    return set(connection.execute(select(quarantine.c.file)).scalars())


def files_of(connection: Connection, series_id: SeriesId) -> set[str]:
    """Return the names, below the quarantine folder, of the files that were set aside of a series."""
    return set(connection.execute(select(quarantine.c.file).where(quarantine.c.series_id == series_id)).scalars())


def without_series(connection: Connection) -> list[tuple[QuarantineId, str, QuarantineReason]]:
    """List the files whose series is not known yet: number, file, reason."""
    rows = connection.execute(_WITHOUT_SERIES)
    return [(QuarantineId(row.id), row.file, QuarantineReason(row.reason)) for row in rows]


def belong(transaction: LedgerTransaction, row: QuarantineId, series_id: SeriesId | None, otherwise: Examined) -> None:
    """Record to which series a file belongs, or the finding ``otherwise`` where the ledger knows no such series."""
    if series_id is None:
        _find(transaction, otherwise)
    else:
        transaction.connection.execute(_BELONG, bind_values(row=row, series=series_id))


def waiting_series(connection: Connection) -> list[SeriesId]:
    """List the judged series of which a file was set aside that is not compared yet."""
    return [SeriesId(number) for number in connection.execute(_WAITING_SERIES).scalars()]


def unexamined(connection: Connection, series_id: SeriesId) -> list[Unexamined]:
    """List the files of a series that are to be compared; those that could not be compared before come again."""
    return [unexamined_of(row) for row in connection.execute(_UNEXAMINED, bind_values(series=series_id))]


def examined(transaction: LedgerTransaction, series_id: SeriesId, found: Sequence[Examined]) -> None:
    """Record the findings; then hold the deliveries of the series if it is in doubt, else make them due."""
    for one in found:
        _find(transaction, one)
    if deliveries.is_in_doubt(transaction.connection, series_id):
        deliveries.hold_doubtful(transaction, series_id)
    else:
        deliveries.release_doubtful(transaction, series_id, "nothing that was set aside differs")


def see(transaction: LedgerTransaction, rows: Collection[int] | None) -> int:
    """Record that a person has seen these rows, or all; return how many were unseen. InputError for no such row."""
    chosen = select(quarantine.c.id, quarantine.c.seen_at)
    if rows is not None:
        chosen = chosen.where(quarantine.c.id.in_(rows))
    found = {row.id: row.seen_at for row in transaction.connection.execute(chosen)}
    if missing := sorted(set(rows or ()) - found.keys()):
        raise InputError(
            f"There is no quarantine {missing[0]}; none was marked.", hint="`dicomnode quarantine list` shows them."
        )
    return _see(transaction, [number for number, seen_at in found.items() if seen_at is None])


def see_series(transaction: LedgerTransaction, series_id: SeriesId) -> int:
    """Record that a person has seen the files that were set aside of a series; return how many were unseen."""
    unseen = select(quarantine.c.id).where(quarantine.c.series_id == series_id, _UNSEEN)
    return _see(transaction, transaction.connection.execute(unseen).scalars().all())


def objections(connection: Connection, series_id: SeriesId) -> tuple[str, ...]:
    """Return sentences on the unseen files of a series that were set aside and differ from what was kept."""
    return _sentences(connection, series_id, is_unseen=True)


def notes(connection: Connection, series_id: SeriesId) -> tuple[str, ...]:
    """Return sentences on the files that were set aside of a series, and of others because of it, seen or not."""
    others = {SeriesId(row.series_id): row.files for row in connection.execute(_BESIDE, bind_values(series=series_id))}
    return (*_sentences(connection, series_id, is_unseen=False), *beside(others))


def lines(
    connection: Connection, *, limit: int | None, reason: QuarantineReason | None, is_all: bool
) -> list[QuarantineLine]:
    """List the files that were set aside, the newest first: those that wait for a person, or all."""
    question = _LINES if is_all else _LINES.where(IS_ALERT)
    question = question if reason is None else question.where(quarantine.c.reason == reason)
    return [quarantine_line(row) for row in connection.execute(question.limit(limit))]


def attention(connection: Connection) -> list[AttentionLine]:
    """Return a line for each reason and peer with unseen files, the newest first."""
    found = []
    for row in connection.execute(_ALERTS):
        newest = connection.execute(select(quarantine.c.series_id).where(quarantine.c.id == row.id)).scalar_one()
        number = "1 file" if row.files == 1 else f"{row.files} files"
        sender = f" from {row.peer}" if row.peer else ""
        sentence = (
            f"{number}{sender} set aside: {CAUSES[QuarantineReason(row.reason)]}. `dicomnode quarantine list "
            f"--reason {row.reason}` shows what; `dicomnode quarantine seen` ends this line."
        )
        found.append(
            AttentionLine(
                table=quarantine.name, id=row.id, series=newest, state="unseen", reason=row.reason, sentence=sentence
            )
        )
    return found


def waiting(connection: Connection) -> list[Waiting]:
    """Count the unseen files by reason and peer."""
    return [
        Waiting(
            table=quarantine.name, state="unseen", reason=row.reason, peer=row.peer, rows=row.files, newest=row.id,
            since=row.since,
        )
        for row in connection.execute(_ALERTS)
    ]  # fmt: skip


def _find(transaction: LedgerTransaction, one: Examined) -> None:
    found = bind_values(row=one.id, finding=one.finding, details=list(one.details))
    if transaction.connection.execute(_FIND, found).rowcount and one.finding is not Finding.SAME:
        transaction.note(one.finding, table=quarantine.name, row=one.id, detail=", ".join(one.details))


def _see(transaction: LedgerTransaction, rows: Sequence[int]) -> int:
    if rows:
        transaction.connection.execute(_SEE.values(seen_at=transaction.now), [bind_values(row=row) for row in rows])
        transaction.note_each(SEEN, table=quarantine.name, rows=rows)
    return len(rows)


def _sentences(connection: Connection, series_id: SeriesId, *, is_unseen: bool) -> tuple[str, ...]:
    question = _GROUPS.where(IS_HARM, _UNSEEN) if is_unseen else _GROUPS
    groups: dict[tuple[Finding | None, SeriesId | None], SetAside] = {}
    for row in connection.execute(question, bind_values(series=series_id)):
        finding = None if row.finding is None else Finding(row.finding)
        kept = SeriesId(row.kept_series) if finding is Finding.OTHER_SERIES else None
        before = groups.get((finding, kept))
        groups[finding, kept] = SetAside(
            finding=finding,
            files=row.files + (before.files if before else 0),
            kept_series=kept,
            details=tuple(dict.fromkeys((*(before.details if before else ()), *row.details))),
        )
    if not groups:
        return ()
    instances = connection.execute(_INSTANCES, bind_values(series=series_id)).scalar_one()
    return set_aside(tuple(groups.values()), instances)
