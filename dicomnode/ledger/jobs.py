"""Jobs: planned by a verdict, claimed by a supervisor, ended by what its child made of them."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, Row, and_, bindparam, exists, func, insert, select, update

from dicomnode.derivation import DerivationParameters, DerivedSeries
from dicomnode.errors import InputError
from dicomnode.ids import JobId, SeriesId
from dicomnode.ledger import deliveries
from dicomnode.ledger.act import Act, moving, stands
from dicomnode.ledger.rows import Job, PlannedJob
from dicomnode.ledger.schema import DERIVED, MAX_ATTEMPTS, instance, job, series
from dicomnode.ledger.states import ENDED_JOB_STATES, LIVE_JOB_STATES, OPERATOR, Event, JobState, SeriesState

OWN_OUTPUT: Final = "own_output"  # reason of a series that this node derived
PARAMETERS: Final = "parameters"  # reason of a held job: another version of the node planned it

_NO_LEASE: Final[dict[str, object]] = {"lease_owner": None, "lease_until": None}
_NO_TROUBLE: Final[dict[str, object]] = {"reason": None, "sentence": ""}

_MINE = and_(job.c.id == bindparam("job"), job.c.lease_token == bindparam("token"))
_OF_OLD_REVISION = and_(
    job.c.series_id == bindparam("of_series"),
    job.c.revision < select(series.c.revision).where(series.c.id == bindparam("of_series")).scalar_subquery(),
)
_SUPERSEDE = moving(job, Event.SUPERSEDE).where(_OF_OLD_REVISION)
_SUPERSEDE_RETURNED = moving(job, Event.SUPERSEDE).where(
    stands(job, *LIVE_JOB_STATES),  # says nothing new, but lets SQLite look at the live jobs alone (job_live_once)
    job.c.revision < select(series.c.revision).where(series.c.id == job.c.series_id).scalar_subquery(),
)

_OF_REVISION = (
    select(job)
    .where(
        job.c.series_id == bindparam("of_series"),
        job.c.revision == bindparam("of_revision"),
        ~stands(job, *ENDED_JOB_STATES),
    )
    .order_by(job.c.id)
)
_LAST_DERIVATION = select(func.coalesce(func.max(job.c.derivation_number), 0)).where(
    job.c.series_id == bindparam("of_series"), stands(job, JobState.RUNNING, JobState.DONE)
)
_CANCEL = moving(job, Event.CANCEL).where(job.c.id == bindparam("job"))
_CANCELLABLE = select(job.c.id).where(
    job.c.series_id == bindparam("of_series"), ~stands(job, JobState.DONE, *ENDED_JOB_STATES)
)
_CANCEL_BY_OPERATOR = _CANCEL.values(reason=OPERATOR, sentence="An operator cancelled it.", **_NO_LEASE)
_QUEUE_ANEW = (
    moving(job, Event.RETRY)
    .where(job.c.id == bindparam("job"))
    .values(attempts=0, queued_at=bindparam("now"), **_NO_TROUBLE)
)
_AS_NOW_PLANNED = (
    update(job)
    .where(job.c.id == bindparam("job"))
    .values(deliver_to=bindparam("peers"), verdict=bindparam("the_verdict"))
)
_RELEASE = (
    moving(job, Event.RELEASE)
    .where(job.c.series_id == bindparam("of_series"), job.c.revision == bindparam("of_revision"))
    .values(queued_at=bindparam("now"), **_NO_TROUBLE)
)

_LEASE_LOST = (
    moving(job, Event.LEASE_LOST)
    .where(job.c.lease_until < bindparam("now"))
    .values(queued_at=bindparam("now"), **_NO_LEASE)
)
_RETURN_ALL = moving(job, Event.LEASE_LOST).values(queued_at=bindparam("now"), **_NO_LEASE)
_CLAIM = (
    moving(job, Event.CLAIM)
    .where(
        job.c.id
        == select(job.c.id)
        .where(stands(job, JobState.QUEUED), job.c.id.not_in(bindparam("but", expanding=True)))
        .order_by(job.c.queued_at, job.c.id)
        .limit(1)
        .scalar_subquery()
    )
    .values(lease_owner=bindparam("owner"), lease_token=job.c.lease_token + 1, lease_until=bindparam("until"))
    .returning(job)
)
_SET_OUTPUT = update(job).where(job.c.id == bindparam("job")).values(output_series_id=bindparam("output"))
_BEAT = update(job).where(_MINE, stands(job, JobState.RUNNING)).values(lease_until=bindparam("until"))

_FINISH = (
    moving(job, Event.FINISH)
    .where(_MINE)
    .values(
        finished_at=bindparam("now"),
        seconds=bindparam("took_s"),
        notes=bindparam("said"),
        **_NO_TROUBLE,
        **_NO_LEASE,
    )
)
_FILL_OUTPUT = (
    update(series)
    .where(series.c.id == bindparam("output"))
    .values(series_uid=bindparam("uid"), first_at=bindparam("now"), last_at=bindparam("now"))
)
_SERIES_REVISION = select(series.c.revision).where(series.c.id == bindparam("of_series"))
_STATE = select(job.c.state).where(job.c.id == bindparam("job"))
_STILL_MINE = select(exists().where(_MINE, stands(job, JobState.RUNNING)))
_ATTEMPTS = select(job.c.attempts).where(_MINE, stands(job, JobState.RUNNING))
_BACK: Final[dict[str, object]] = {"attempts": bindparam("spent"), "sentence": bindparam("words"), "reason": None}
_RETURN = moving(job, Event.RETURN).where(_MINE).values(queued_at=bindparam("now"), **_BACK, **_NO_LEASE)
_FAIL = moving(job, Event.FAIL).where(_MINE).values(**_BACK, **_NO_LEASE)
_HOLD = moving(job, Event.HOLD).where(_MINE).values(reason=bindparam("why"), sentence=bindparam("words"), **_NO_LEASE)


def supersede_old(act: Act, series_id: SeriesId, detail: str) -> None:
    """A new revision takes the place of what waits for an older one; what runs is left to end."""
    act.move(_SUPERSEDE, detail, of_series=series_id)


def plan(act: Act, series_id: SeriesId, revision: int, planned: PlannedJob) -> JobId:
    """The one job for this verdict: the one that stands already, with its attempts given back, or a new one.

    Of the jobs of a revision all but one are done or gave way, since each verdict takes up or cancels the one before.
    """
    chosen: JobId | None = None
    for row in act.connection.execute(_OF_REVISION, {"of_series": series_id, "of_revision": revision}).all():
        state = JobState(row.state)
        if state is JobState.RUNNING:
            chosen = JobId(row.id)  # claimed before the new verdict came; its end is the answer
        elif state is not JobState.DONE and _makes_the_same(row, planned):
            act.connection.execute(
                _AS_NOW_PLANNED, {"job": row.id, "peers": list(planned.deliver_to), "the_verdict": planned.sentence}
            )
            if state is not JobState.QUEUED:
                act.move(_QUEUE_ANEW, job=row.id)
            chosen = JobId(row.id)
        elif state is not JobState.DONE:
            act.move(_CANCEL, "a new verdict plans something else", job=row.id)
    return _insert(act, series_id, revision, planned) if chosen is None else chosen


def cancel_waiting(act: Act, series_id: SeriesId, revision: int, detail: str) -> None:
    """The new verdict on a revision is to keep it: nothing of it is derived any more."""
    for row in act.connection.execute(_OF_REVISION, {"of_series": series_id, "of_revision": revision}).all():
        if row.state != JobState.RUNNING:  # what was claimed meanwhile is let end; a done one stays as it is
            act.move(_CANCEL, detail, job=row.id)


def refuse_while_running(act: Act, series_id: SeriesId, revision: int) -> None:
    """The operator asks for a new verdict: not in the middle of a job."""
    for row in act.connection.execute(_OF_REVISION, {"of_series": series_id, "of_revision": revision}):
        if row.state == JobState.RUNNING:
            raise InputError(f"Job {row.id} of series {series_id} is running; wait until it has ended.")


def release(act: Act, series_id: SeriesId, revision: int) -> int:
    """The operator's *release*: the held job of this revision goes on as it is; how many there were."""
    return act.move(_RELEASE, of_series=series_id, of_revision=revision)


def cancel(act: Act, series_id: SeriesId) -> tuple[JobId, ...]:
    """The operator's *cancel*: none of the jobs that wait, run or failed goes on; which ones that were."""
    numbers = act.connection.execute(_CANCELLABLE, {"of_series": series_id}).scalars().all()
    if not numbers:
        raise InputError(
            f"Series {series_id} has no job that waits, runs or failed; there is nothing to cancel.",
            hint=f"`dicomnode series explain {series_id}` shows where it stands; a delivery has its own `cancel`.",
        )
    for number in numbers:
        act.move(_CANCEL_BY_OPERATOR, job=number)
    return tuple(JobId(number) for number in numbers)


def return_all(act: Act, detail: str) -> int:
    """At the start of a service no lease is alive: what ran goes behind the others, with no attempt spent."""
    returned = act.move(_RETURN_ALL, detail)
    act.move(_SUPERSEDE_RETURNED, "a newer revision came while it ran")
    return returned


def claim(act: Act, owner: str, until: datetime, but: Collection[JobId]) -> Job | None:
    """Take the job that has waited longest, but none of those; one that cannot be read on the way is held."""
    if act.move(_LEASE_LOST, "the lease ran out"):
        act.move(_SUPERSEDE_RETURNED, "a newer revision came while it ran")
    parameters = {"now": act.now, "by": act.by, "detail": "", "owner": owner, "until": until, "but": list(but)}
    while row := act.connection.execute(_CLAIM, parameters).one_or_none():
        try:
            return _claimed(act, row, DerivationParameters.from_columns(row._asdict()))
        except InputError as exc:
            words = f"{exc.sentence} {exc.hint}"
            act.move(_HOLD, words, job=row.id, token=row.lease_token, why=PARAMETERS, words=words)
    return None


def _claimed(act: Act, row: Row[*tuple[object, ...]], parameters: DerivationParameters) -> Job:
    output = row.output_series_id if row.output_series_id is not None else _make_output(act, row)
    return Job(
        id=JobId(row.id),
        series=SeriesId(row.series_id),
        revision=row.revision,
        output_series=SeriesId(output),
        planned=PlannedJob(parameters=parameters, deliver_to=tuple(row.deliver_to), sentence=row.verdict),
        derivation_number=row.derivation_number,
        created_at=row.created_at,
        attempts=row.attempts,
        lease_token=row.lease_token,
    )


def is_ours(connection: Connection, claimed: Job) -> bool:
    """Does the claim hold? Not after its lease was lost, or an operator cancelled the job."""
    return bool(connection.execute(_STILL_MINE, _claim_of(claimed)).scalar_one())


def state_of(connection: Connection, job_id: JobId) -> JobState:
    """Where the job stands, whoever holds it."""
    return JobState(connection.execute(_STATE, {"job": job_id}).scalar_one())


def beat(act: Act, claimed: Job, until: datetime) -> bool:
    """Keep the lease; False: it is no longer ours."""
    return act.connection.execute(_BEAT, {**_claim_of(claimed), "until": until}).rowcount == 1


def finish(act: Act, claimed: Job, derived: DerivedSeries) -> bool:
    """The derived files are flushed and in their folder: they are ours, and due at the peers of the rule."""
    assert derived.instances, "a done job made something"
    detail = f"{len(derived.instances)} images in series {claimed.output_series}"
    if act.move(_FINISH, detail, **_claim_of(claimed), took_s=derived.seconds, said=list(derived.notes)) == 0:
        return False
    act.connection.execute(_FILL_OUTPUT, {"output": claimed.output_series, "uid": derived.series_uid, "now": act.now})
    act.connection.execute(
        insert(instance),
        [
            {
                "id": one.id,
                "series_id": claimed.output_series,
                "revision": 1,
                "sop_class_uid": one.sop_class_uid,
                "sop_instance_uid": one.sop_instance_uid,
                "transfer_syntax_uid": one.transfer_syntax_uid,
                "size_bytes": one.size_bytes,
                "sha256": one.sha256,
                "file": f"{claimed.output_series}/{one.file_name}",
                "origin": DERIVED,
                "job_id": claimed.id,
                "number": number,
                "stored_at": act.now,
            }
            for number, one in enumerate(derived.instances, start=1)
        ],
    )
    revision = act.connection.execute(_SERIES_REVISION, {"of_series": claimed.series}).scalar_one()
    if revision == claimed.revision:
        deliveries.open_deliveries(
            act,
            series_id=claimed.series,
            revision=revision,
            job_id=claimed.id,
            peers=claimed.planned.deliver_to,
            instances=[one.id for one in derived.instances],
        )
    else:
        act.note("not_delivered", table=job.name, row=claimed.id, detail=f"revision {revision} came while it ran")
    return True


def give_back(act: Act, claimed: Job, *, detail: str, counts: bool) -> JobState | None:
    """Back into the queue, behind the others; failed when this was the last attempt.

    The state it is in now; None: the claim is no longer ours.
    """
    attempts = act.connection.execute(_ATTEMPTS, _claim_of(claimed)).scalar_one_or_none()
    if attempts is None:
        return None
    spent = attempts + 1 if counts else attempts
    act.move(_FAIL if spent >= MAX_ATTEMPTS else _RETURN, detail, **_claim_of(claimed), spent=spent, words=detail)
    supersede_old(act, claimed.series, "a newer revision came while it ran")
    return state_of(act.connection, claimed.id)


def hold(act: Act, claimed: Job, *, reason: str, sentence: str) -> bool:
    """Wait for the operator; an old revision waits for nobody."""
    if act.move(_HOLD, sentence, **_claim_of(claimed), why=reason, words=sentence) == 0:
        return False
    supersede_old(act, claimed.series, "a newer revision came while it ran")
    return True


def _makes_the_same(row: Row[*tuple[object, ...]], planned: PlannedJob) -> bool:
    try:
        return DerivationParameters.from_columns(row._asdict()).makes_the_same(planned.parameters)
    except InputError:  # another version of the node planned the job
        return False


def _insert(act: Act, series_id: SeriesId, revision: int, planned: PlannedJob) -> JobId:
    last = act.connection.execute(_LAST_DERIVATION, {"of_series": series_id}).scalar_one()
    made = act.connection.execute(
        insert(job).returning(job.c.id),
        {
            "series_id": series_id,
            "revision": revision,
            **act.born(JobState.QUEUED, Event.PLAN),
            **planned.parameters.as_columns(),
            "derivation_number": last + 1,
            "deliver_to": list(planned.deliver_to),
            "verdict": planned.sentence,
            "created_at": act.now,
            "queued_at": act.now,
            "attempts": 0,
            "lease_token": 0,
            "sentence": "",
            "notes": [],
        },
    ).scalar_one()
    return JobId(made)


def _make_output(act: Act, row: Row[*tuple[object, ...]]) -> SeriesId:
    """The series that the job will fill: the same folder at each attempt."""
    output = act.connection.execute(
        insert(series).returning(series.c.id),
        {
            "origin": DERIVED,
            "revision": 1,
            **act.born(SeriesState.KEPT, OWN_OUTPUT),
            "created_at": act.now,
            "aborted": False,
            "reason": OWN_OUTPUT,
            "sentence": (
                f"This series was made by this node from series {row.series_id}; it is kept and never processed again."
            ),
            "notes": [],
            "alert": False,
        },
    ).scalar_one()
    act.connection.execute(_SET_OUTPUT, {"job": row.id, "output": output})
    return SeriesId(output)


def _claim_of(claimed: Job) -> dict[str, object]:
    return {"job": claimed.id, "token": claimed.lease_token}
