"""The steps of a series: it settles when it is quiet, is kept or planned by its verdict, and may be judged again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, func, or_, select, update

from dicomnode.errors import InputError
from dicomnode.ids import JobId, SeriesId
from dicomnode.ledger import deliveries, jobs, originals, quarantine, removed
from dicomnode.ledger.mapping.instance import archived_instance
from dicomnode.ledger.mapping.series import receiving_series, settled_series
from dicomnode.ledger.schema import RECEIVED, instance, job, series
from dicomnode.ledger.statements import AnyRow, bind_values, bound, moving, stands
from dicomnode.ledger.states import ENDED_JOB_STATES, Event, SeriesState
from dicomnode.ledger.transaction import LedgerTransaction
from dicomnode.ledger.values import (
    NOT_SELECTED,
    PULLED,
    SET_ASIDE,
    ArchivedInstance,
    Forward,
    NotSelected,
    PlannedJob,
    ReceivingSeries,
    Selected,
    SettledSeries,
    StudySeries,
)

PROCESS: Final = "process"  # reason of a planned series

_THIS_REVISION = (series.c.id == bound("series"), series.c.revision == bound("revision"))

_RECEIVING = (
    select(
        series.c.id,
        series.c.revision,
        series.c.first_at,
        series.c.last_at,
        series.c.aborted,
        select(func.count()).where(instance.c.series_id == series.c.id).scalar_subquery().label("instances"),
    )
    .where(stands(series, SeriesState.RECEIVING), series.c.first_at.is_not(None))
    .order_by(series.c.id)
)
_SETTLED = (
    select(
        series.c.id,
        series.c.revision,
        series.c.pulled,
        series.c.study_uid,
        series.c.state_cause,
        series.c.state_detail,
    )
    .where(stands(series, SeriesState.SETTLED))
    .order_by(series.c.id)
)
_OF_STUDY = (
    select(series.c.id, series.c.revision, series.c.state, series.c.last_at)
    .where(series.c.study_uid == bound("study"), series.c.origin == RECEIVED, series.c.last_at.is_not(None))
    .order_by(series.c.id)
)
_RULES_OF_STUDY = (
    select(job.c.series_id, job.c.rule)
    .join_from(series, job, job.c.series_id == series.c.id)
    .where(series.c.study_uid == bound("study"), ~stands(job, *ENDED_JOB_STATES))
)
_INSTANCES = (
    select(instance)
    .where(instance.c.series_id == bound("series"), instance.c.revision <= bound("revision"))
    .order_by(instance.c.number, instance.c.stored_at, instance.c.id)
)
_BESIDE = (
    select(select(func.min(instance.c.file)).where(instance.c.series_id == series.c.id).scalar_subquery())
    .where(
        series.c.origin == RECEIVED,
        series.c.id != bound("series"),
        series.c.first_at.between(bound("since", series.c.first_at.type), bound("until", series.c.first_at.type)),
    )
    .order_by(series.c.id)
    .limit(bound("limit"))
)
_SETTLE = moving(series, Event.SETTLE).where(
    *_THIS_REVISION,
    series.c.first_at.is_not(None),
    or_(bound("seen_at", series.c.last_at.type).is_(None), series.c.last_at == bound("seen_at")),
)
_VERDICT: Final[dict[str, object]] = {
    "reason": bound("reason"),
    "sentence": bound("sentence"),
    "notes": bound("notes"),
    "alert": bound("alert"),
}
_KEEP = moving(series, Event.KEEP).where(*_THIS_REVISION).values(**_VERDICT)
_PLAN = moving(series, Event.PLAN).where(*_THIS_REVISION).values(**_VERDICT)
_RETRY = (
    moving(series, Event.RETRY)
    .where(series.c.id == bound("series"))
    .values(reason=None, sentence="", notes=[], alert=False)
)
_RELEASE = (
    moving(series, Event.RELEASE)
    .where(series.c.id == bound("series"), series.c.reason == bound("reason"))
    .values(reason=None, sentence="", notes=[], alert=False)
)
_TAKE_AS_SENT = update(series).where(series.c.id == bound("series"), series.c.pulled).values(pulled=False)
_END_ALERT = update(series).where(series.c.id == bound("series"), series.c.alert).values(alert=False)
_ROW = select(series.c.state, series.c.revision, series.c.origin, series.c.reason).where(series.c.id == bound("series"))


def receiving(connection: Connection) -> list[ReceivingSeries]:
    """List the series whose instances still come; a number without instances is left out."""
    return [receiving_series(row) for row in connection.execute(_RECEIVING)]


def settle(
    transaction: LedgerTransaction, series_id: SeriesId, revision: int, *, note: str, seen_at: datetime | None
) -> bool:
    """Freeze the set of instances. False: an instance came meanwhile."""
    return transaction.move(_SETTLE, note, series=series_id, revision=revision, seen_at=seen_at) == 1


def settled(connection: Connection) -> list[SettledSeries]:
    """List the series that wait for their verdict."""
    return [settled_series(row) for row in connection.execute(_SETTLED)]


def instances_of(connection: Connection, series_id: SeriesId, revision: int) -> list[ArchivedInstance]:
    """List the instances of a revision."""
    of_revision = bind_values(series=series_id, revision=revision)
    return [archived_instance(row) for row in connection.execute(_INSTANCES, of_revision)]


def series_beside(connection: Connection, series_id: SeriesId, *, within_s: float, limit: int) -> list[str]:
    """List one file of each other received series whose first instance came within so many seconds of this one's."""
    first_at = connection.execute(select(series.c.first_at).where(series.c.id == series_id)).scalar_one()
    if first_at is None:
        return []
    apart = timedelta(seconds=within_s)
    near = bind_values(series=series_id, since=first_at - apart, until=first_at + apart, limit=limit)
    return [file for file in connection.execute(_BESIDE, near).scalars() if file is not None]


def keep(
    transaction: LedgerTransaction,
    series_id: SeriesId,
    revision: int,
    *,
    reason: str,
    sentence: str,
    alert: bool,
    notes: Sequence[str],
    forward: Forward,
) -> bool:
    """Record the verdict to keep a series. False: it was decided already, or a late instance came."""
    verdict = {"reason": reason, "sentence": sentence, "notes": list(notes), "alert": alert}
    if transaction.move(_KEEP, sentence, series=series_id, revision=revision, **verdict) == 0:
        return False
    jobs.cancel_waiting(transaction, series_id, revision, "a new verdict keeps the series")
    originals.open_deliveries(transaction, series_id, revision, forward)
    return True


def plan(
    transaction: LedgerTransaction,
    series_id: SeriesId,
    revision: int,
    planned: PlannedJob,
    *,
    notes: Sequence[str],
    alert: bool,
    forward: Forward,
) -> JobId | None:
    """Record the verdict to derive a series; return its job. None: it was decided already, or a late instance came."""
    verdict = {"reason": PROCESS, "sentence": planned.sentence, "notes": list(notes), "alert": alert}
    if transaction.move(_PLAN, planned.sentence, series=series_id, revision=revision, **verdict) == 0:
        return None
    originals.open_deliveries(transaction, series_id, revision, forward)
    return jobs.plan(transaction, series_id, revision, planned)


def of_study(connection: Connection, study_uid: str) -> list[StudySeries]:
    """List the series of a study of which instances came, the oldest first."""
    rules: defaultdict[int, set[str]] = defaultdict(set)
    for row in connection.execute(_RULES_OF_STUDY, bind_values(study=study_uid)):
        rules[row.series_id].add(row.rule)
    return [
        StudySeries(
            id=SeriesId(row.id),
            revision=row.revision,
            state=SeriesState(row.state),
            last_at=row.last_at,
            rules=frozenset(rules[row.id]),
        )
        for row in connection.execute(_OF_STUDY, bind_values(study=study_uid))
    ]


def choose(
    transaction: LedgerTransaction, chosen: Selected | None, others: Sequence[NotSelected]
) -> tuple[JobId | None, list[SeriesId]]:
    """Plan the series that a rule chose of a study, and keep the others; return the job, and which are kept.

    Where a late instance of the chosen one came, nothing is written. One of the others that got one is judged anew.
    """
    made = None
    if chosen is not None:
        made = plan(
            transaction, chosen.series, chosen.revision, chosen.planned, notes=chosen.notes, alert=chosen.alert,
            forward=chosen.forward,
        )  # fmt: skip
        if made is None:
            return None, []
    kept = [
        one.series
        for one in others
        if keep(
            transaction, one.series, one.revision, reason=NOT_SELECTED, sentence=one.sentence, alert=one.alert,
            notes=one.notes, forward=one.forward,
        )
    ]  # fmt: skip
    return made, kept


def retry(transaction: LedgerTransaction, series_id: SeriesId) -> None:
    """Let the current revision be judged again, for an operator."""
    row = _row_for_operator(transaction.connection, series_id)
    state = SeriesState(row.state)
    if state is SeriesState.RECEIVING:
        raise InputError(f"Series {series_id} is still being received; its verdict comes when it is quiet.")
    if state is SeriesState.SETTLED:
        raise InputError(f"Series {series_id} waits for its verdict already.")
    removed.refuse_without_files(transaction.connection, series_id)
    jobs.refuse_while_running(transaction, series_id, row.revision)
    transaction.move(_RETRY, series=series_id)


def release(transaction: LedgerTransaction, series_id: SeriesId) -> None:
    """Release a series, as it is, for an operator.

    Its files that were set aside count as seen, and its alert ends. A series that was kept for them is judged without
    them, one that its rule did not choose as the only one of its study, and one that was pulled like one that was sent.
    Its held job goes on, and so do the deliveries that were held for such files.
    """
    row = _row_for_operator(transaction.connection, series_id)
    if row.reason == SET_ASIDE:
        removed.refuse_without_files(transaction.connection, series_id)
    done = quarantine.see_series(transaction, series_id)
    done += transaction.connection.execute(_TAKE_AS_SENT, bind_values(series=series_id)).rowcount
    for reason in (SET_ASIDE, PULLED, NOT_SELECTED):
        done += transaction.move(_RELEASE, reason, series=series_id, reason=reason)
    done += transaction.connection.execute(_END_ALERT, bind_values(series=series_id)).rowcount
    done += jobs.release(transaction, series_id, row.revision)
    done += deliveries.release_doubtful(transaction, series_id, "the series was released")
    if not done:
        raise InputError(
            f"Series {series_id} has no held job to release, and nothing of it was set aside.",
            hint=f"`dicomnode series explain {series_id}` shows where it stands.",
        )


def cancel(transaction: LedgerTransaction, series_id: SeriesId) -> tuple[JobId, ...]:
    """Cancel the jobs of a series, the running one too, for an operator."""
    _row_for_operator(transaction.connection, series_id)
    return jobs.cancel(transaction, series_id)


def _row_for_operator(connection: Connection, series_id: SeriesId) -> AnyRow:
    row = connection.execute(_ROW, bind_values(series=series_id)).one_or_none()
    if row is None:
        raise InputError(f"There is no series {series_id}.", hint="`dicomnode series list` shows them.")
    if row.origin != RECEIVED:
        raise InputError(
            f"Series {series_id} was made by this node; retry, release or cancel the series that it comes from."
        )
    return row
