"""Jobs: planned by a verdict, claimed by a supervisor, ended by what its child made of them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from datetime import datetime
from typing import Final

from sqlalchemy import ColumnElement, Connection, Update, and_, exists, func, insert, select, update

from dicomnode.derivation import DerivedSeries, GateFigure
from dicomnode.errors import InputError
from dicomnode.ids import JobId, SeriesId
from dicomnode.ledger import deliveries
from dicomnode.ledger.mapping.instance import new_derived_instance
from dicomnode.ledger.mapping.job import claimed_job, gate_figures, new_job, planned_job
from dicomnode.ledger.mapping.series import new_derived_series
from dicomnode.ledger.schema import MAX_ATTEMPTS, instance, job, series
from dicomnode.ledger.statements import NO_LEASE, AnyRow, bind_values, bound, moving, stands
from dicomnode.ledger.states import ENDED_JOB_STATES, LIVE_JOB_STATES, OPERATOR, Event, JobState
from dicomnode.ledger.transaction import LedgerTransaction
from dicomnode.ledger.values import Job, PlannedJob, Priority

PARAMETERS: Final = "parameters"  # reason of a held job: another version of the node planned it

_NO_TROUBLE: Final[dict[str, object]] = {"reason": None, "sentence": ""}

_MINE = and_(job.c.id == bound("job"), job.c.lease_token == bound("token"))
_OF_OLD_REVISION = and_(
    job.c.series_id == bound("series"),
    job.c.revision < select(series.c.revision).where(series.c.id == bound("series")).scalar_subquery(),
)
_SUPERSEDE = moving(job, Event.SUPERSEDE).where(_OF_OLD_REVISION)
_SUPERSEDE_RETURNED = moving(job, Event.SUPERSEDE).where(
    stands(job, *LIVE_JOB_STATES),  # says nothing new, but lets SQLite look at the live jobs alone (job_live_once)
    job.c.revision < select(series.c.revision).where(series.c.id == job.c.series_id).scalar_subquery(),
)

_OF_REVISION = (
    select(job)
    .where(
        job.c.series_id == bound("series"),
        job.c.revision == bound("revision"),
        ~stands(job, *ENDED_JOB_STATES),
    )
    .order_by(job.c.id)
)
_LAST_DERIVATION = select(func.coalesce(func.max(job.c.derivation_number), 0)).where(
    job.c.series_id == bound("series"), stands(job, JobState.RUNNING, JobState.DONE)
)
_CANCEL = moving(job, Event.CANCEL).where(job.c.id == bound("job"))
_CANCELLABLE = select(job.c.id).where(
    job.c.series_id == bound("series"), ~stands(job, JobState.DONE, *ENDED_JOB_STATES)
)
_CANCEL_BY_OPERATOR = _CANCEL.values(reason=OPERATOR, sentence="An operator cancelled it.", **NO_LEASE)
_QUEUE_ANEW = (
    moving(job, Event.RETRY).where(job.c.id == bound("job")).values(attempts=0, queued_at=bound("now"), **_NO_TROUBLE)
)
_AS_NOW_PLANNED = (
    update(job)
    .where(job.c.id == bound("job"))
    .values(deliver_to=bound("peers"), verdict=bound("verdict"), release=bound("release"), late=bound("late"))
)
_RELEASE = (
    moving(job, Event.RELEASE)
    .where(job.c.series_id == bound("series"), job.c.revision == bound("revision"))
    .values(queued_at=bound("now"), **_NO_TROUBLE)
)

_LEASE_LOST = (
    moving(job, Event.LEASE_LOST).where(job.c.lease_until < bound("now")).values(queued_at=bound("now"), **NO_LEASE)
)
_RETURN_ALL = moving(job, Event.LEASE_LOST).values(queued_at=bound("now"), **NO_LEASE)


def _claim(*conditions: ColumnElement[bool]) -> Update:
    """Take the next of the queued jobs that meet the conditions."""
    waiting = select(job.c.id).where(
        stands(job, JobState.QUEUED),
        job.c.id.not_in(bound("but", is_list=True)),
        job.c.priority <= bound("least"),
        *conditions,
    )
    return (
        moving(job, Event.CLAIM)
        .where(job.c.id == waiting.order_by(job.c.priority, job.c.queued_at, job.c.id).limit(1).scalar_subquery())
        .values(lease_owner=bound("owner"), lease_token=job.c.lease_token + 1, lease_until=bound("until"))
        .returning(job)
    )


_CLAIM = _claim()
_CLAIM_OFFERED = _claim(job.c.model_digest.in_(bound("models", is_list=True)))
_SET_OUTPUT = update(job).where(job.c.id == bound("job")).values(output_series_id=bound("output"))
_BEAT = update(job).where(_MINE, stands(job, JobState.RUNNING)).values(lease_until=bound("until"))

_FINISH = (
    moving(job, Event.FINISH)
    .where(_MINE)
    .values(
        finished_at=bound("now"),
        seconds=bound("seconds"),
        notes=bound("notes"),
        figures=bound("figures"),
        **_NO_TROUBLE,
        **NO_LEASE,
    )
)
_FILL_OUTPUT = (
    update(series)
    .where(series.c.id == bound("output"))
    .values(series_uid=bound("uid"), first_at=bound("now"), last_at=bound("now"))
)
_SERIES_REVISION = select(series.c.revision).where(series.c.id == bound("series"))
_STATE = select(job.c.state).where(job.c.id == bound("job"))
_FIGURES = select(job.c.figures).where(job.c.id == bound("job"))
_STILL_MINE = select(exists().where(_MINE, stands(job, JobState.RUNNING)))
_ATTEMPTS = select(job.c.attempts).where(_MINE, stands(job, JobState.RUNNING))
_BACK: Final[dict[str, object]] = {"attempts": bound("attempts"), "sentence": bound("sentence"), "reason": None}
_RETURN = moving(job, Event.RETURN).where(_MINE).values(queued_at=bound("now"), **_BACK, **NO_LEASE)
_FAIL = moving(job, Event.FAIL).where(_MINE).values(**_BACK, **NO_LEASE)
_HOLD = moving(job, Event.HOLD).where(_MINE).values(reason=bound("reason"), sentence=bound("sentence"), **NO_LEASE)


def supersede_old(transaction: LedgerTransaction, series_id: SeriesId, detail: str) -> None:
    """Supersede the jobs that wait for an older revision; a running job is left to end."""
    transaction.move(_SUPERSEDE, detail, series=series_id)


def plan(transaction: LedgerTransaction, series_id: SeriesId, revision: int, planned: PlannedJob) -> JobId:
    """Return the one job for this verdict: the job that is there, with its attempts given back, or a new one.

    Of the jobs of a revision all but one are done or gave way, since each verdict takes up or cancels the one before.
    """
    chosen: JobId | None = None
    for row in transaction.connection.execute(_OF_REVISION, bind_values(series=series_id, revision=revision)).all():
        state = JobState(row.state)
        if state is JobState.RUNNING:
            chosen = JobId(row.id)  # claimed before the new verdict came; its end is the answer
        elif state is not JobState.DONE and _makes_the_same(row, planned):
            transaction.connection.execute(
                _AS_NOW_PLANNED,
                bind_values(
                    job=row.id,
                    peers=list(planned.deliver_to),
                    verdict=planned.sentence,
                    release=planned.release,
                    late=planned.late,
                ),
            )
            if state is not JobState.QUEUED:
                transaction.move(_QUEUE_ANEW, job=row.id)
            chosen = JobId(row.id)
        elif state is not JobState.DONE:
            transaction.move(_CANCEL, "a new verdict plans something else", job=row.id)
    return _insert(transaction, series_id, revision, planned) if chosen is None else chosen


def cancel_waiting(transaction: LedgerTransaction, series_id: SeriesId, revision: int, detail: str) -> None:
    """Cancel the waiting jobs of a revision, because its new verdict is to keep the series."""
    for row in transaction.connection.execute(_OF_REVISION, bind_values(series=series_id, revision=revision)).all():
        if row.state != JobState.RUNNING:  # what was claimed meanwhile is let end; a done one stays as it is
            transaction.move(_CANCEL, detail, job=row.id)


def refuse_while_running(transaction: LedgerTransaction, series_id: SeriesId, revision: int) -> None:
    """Raise InputError where a job of the revision runs: an operator asked for a new verdict in the middle of it."""
    for row in transaction.connection.execute(_OF_REVISION, bind_values(series=series_id, revision=revision)):
        if row.state == JobState.RUNNING:
            raise InputError(f"Job {row.id} of series {series_id} is running; wait until it has ended.")


def release(transaction: LedgerTransaction, series_id: SeriesId, revision: int) -> int:
    """Queue the held job of this revision as it is, for an operator; return how many jobs that were."""
    return transaction.move(_RELEASE, series=series_id, revision=revision)


def cancel(transaction: LedgerTransaction, series_id: SeriesId) -> tuple[JobId, ...]:
    """Cancel the jobs that wait, run or failed, for an operator; return their numbers."""
    numbers = transaction.connection.execute(_CANCELLABLE, bind_values(series=series_id)).scalars().all()
    if not numbers:
        raise InputError(
            f"Series {series_id} has no job that waits, runs or failed; there is nothing to cancel.",
            hint=f"`dicomnode series explain {series_id}` shows where it stands; a delivery has its own `cancel`.",
        )
    for number in numbers:
        transaction.move(_CANCEL_BY_OPERATOR, job=number)
    return tuple(JobId(number) for number in numbers)


def return_all(transaction: LedgerTransaction, detail: str) -> int:
    """Queue every running job behind the others, with no attempt spent: at the start of a service no lease is alive."""
    returned = transaction.move(_RETURN_ALL, detail)
    transaction.move(_SUPERSEDE_RETURNED, "a newer revision came while it ran")
    return returned


def claim(
    transaction: LedgerTransaction,
    owner: str,
    until: datetime,
    but: Collection[JobId],
    models: Collection[str] | None,
    least: Priority,
) -> Job | None:
    """Take the most urgent job, among equals the one that has waited longest, but none of ``but``.

    ``models``: take only a job that needs a model with one of these digests. None: take any job. ``least``: take none
    that is less urgent than this.
    A job whose parameters this version cannot read is held, and the next one taken.
    """
    if transaction.move(_LEASE_LOST, "the lease ran out"):
        transaction.move(_SUPERSEDE_RETURNED, "a newer revision came while it ran")
    offered: dict[str, object] = {} if models is None else {"models": list(models)}
    statement = _CLAIM if models is None else _CLAIM_OFFERED
    while row := transaction.take(statement, owner=owner, until=until, but=list(but), least=least, **offered):
        try:
            planned = planned_job(row)
        except InputError as exc:
            sentence = f"{exc.sentence} {exc.hint}"
            transaction.move(_HOLD, sentence, job=row.id, token=row.lease_token, reason=PARAMETERS, sentence=sentence)
            continue
        output = _make_output(transaction, row) if row.output_series_id is None else SeriesId(row.output_series_id)
        return claimed_job(row, planned, output)
    return None


def is_ours(connection: Connection, claimed: Job) -> bool:
    """Does the claim hold? It does not after its lease was lost, or an operator cancelled the job."""
    return bool(connection.execute(_STILL_MINE, bind_values(**_claim_of(claimed))).scalar_one())


def state_of(connection: Connection, job_id: JobId) -> JobState:
    """Return the state of a job, whoever holds it."""
    return JobState(connection.execute(_STATE, bind_values(job=job_id)).scalar_one())


def figures(connection: Connection, job_id: int) -> tuple[GateFigure, ...]:
    """List the figures of the result gate on the result of a job; empty for a job that is not done."""
    return gate_figures(connection.execute(_FIGURES, bind_values(job=job_id)).scalar_one_or_none())


def beat(transaction: LedgerTransaction, claimed: Job, until: datetime) -> bool:
    """Renew the lease. False: the job is no longer ours."""
    return transaction.connection.execute(_BEAT, bind_values(**_claim_of(claimed), until=until)).rowcount == 1


def finish(transaction: LedgerTransaction, claimed: Job, derived: DerivedSeries) -> bool:
    """End a job whose derived files are flushed and in their folder, and open deliveries to the peers of its rule."""
    assert derived.instances, "a done job made something"
    detail = f"{len(derived.instances)} images in series {claimed.output_series}"
    notes = list(derived.notes)
    if derived.objections:  # they stay with the job when its deliveries have been released
        notes.append(deliveries.objection(derived.objections))
    figures = [asdict(figure) for figure in derived.figures]
    made: dict[str, object] = {"seconds": derived.seconds, "notes": notes, "figures": figures}
    if transaction.move(_FINISH, detail, **_claim_of(claimed), **made) == 0:
        return False
    transaction.connection.execute(
        _FILL_OUTPUT, bind_values(output=claimed.output_series, uid=derived.series_uid, now=transaction.now)
    )
    transaction.connection.execute(
        insert(instance),
        [
            new_derived_instance(one, claimed, number, transaction.now)
            for number, one in enumerate(derived.instances, start=1)
        ],
    )
    revision = transaction.connection.execute(_SERIES_REVISION, bind_values(series=claimed.series)).scalar_one()
    if revision == claimed.revision:
        deliveries.open_deliveries(
            transaction, claimed, instances=[one.id for one in derived.instances], objections=derived.objections
        )
    else:
        transaction.note(
            "not_delivered", table=job.name, row=claimed.id, detail=f"revision {revision} came while it ran"
        )
    return True


def give_back(transaction: LedgerTransaction, claimed: Job, *, detail: str, counts: bool) -> JobState | None:
    """Queue a job behind the others, or fail it where this was its last attempt.

    Return the state that it is in now. None: the claim is no longer ours.
    """
    attempts = transaction.connection.execute(_ATTEMPTS, bind_values(**_claim_of(claimed))).scalar_one_or_none()
    if attempts is None:
        return None
    spent = attempts + 1 if counts else attempts
    transaction.move(
        _FAIL if spent >= MAX_ATTEMPTS else _RETURN, detail, **_claim_of(claimed), attempts=spent, sentence=detail
    )
    supersede_old(transaction, claimed.series, "a newer revision came while it ran")
    return state_of(transaction.connection, claimed.id)


def hold(transaction: LedgerTransaction, claimed: Job, *, reason: str, sentence: str) -> bool:
    """Hold a job until an operator acts, or supersede it where its revision is old. False: it is no longer ours."""
    if transaction.move(_HOLD, sentence, **_claim_of(claimed), reason=reason, sentence=sentence) == 0:
        return False
    supersede_old(transaction, claimed.series, "a newer revision came while it ran")
    return True


def _makes_the_same(row: AnyRow, planned: PlannedJob) -> bool:
    try:
        return planned_job(row).parameters.makes_the_same(planned.parameters)
    except InputError:  # another version of the node planned the job
        return False


def _insert(transaction: LedgerTransaction, series_id: SeriesId, revision: int, planned: PlannedJob) -> JobId:
    last = transaction.connection.execute(_LAST_DERIVATION, bind_values(series=series_id)).scalar_one()
    new = new_job(transaction, series_id, revision, planned, derivation_number=last + 1)
    return JobId(transaction.connection.execute(insert(job).returning(job.c.id), new).scalar_one())


def _make_output(transaction: LedgerTransaction, row: AnyRow) -> SeriesId:
    """Make the series that the job will fill: each attempt fills the same folder."""
    new = new_derived_series(transaction, SeriesId(row.series_id))
    output = transaction.connection.execute(insert(series).returning(series.c.id), new).scalar_one()
    transaction.connection.execute(_SET_OUTPUT, bind_values(job=row.id, output=output))
    return SeriesId(output)


def _claim_of(claimed: Job) -> dict[str, object]:
    return {"job": claimed.id, "token": claimed.lease_token}
