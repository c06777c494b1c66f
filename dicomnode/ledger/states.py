"""The states of the ledger's rows, and every change of state that is allowed.

Rows of seven tables have a state. A **series** is what was received under one Series Instance UID; a **job** derives
one revision of a series; a **delivery** sends the result of one job, or the instances as they were received, to one
peer; an **item** is one instance of a delivery; a **commitment** is one request to a peer to say that it keeps what it
acknowledged; a **model** is one that an operator imported; an **alert** is a condition of which people are to be told
at one destination. Each worker claims a row, does the work, and changes the row's state in the same transaction that
records the result. After a crash at any moment the rows therefore say what is to be done next, and nothing else has to
be remembered.

Three rules hold for all of them.

1. A row changes its state only by an event that TRANSITIONS lists for the state that it has. An event is something that
   happens ("claim", "late_instance"); a state is what is true now. The code asks for an event, never for a state, and
   the UPDATE names the states in which the event is allowed: if two workers try at once, the second changes no row.

2. The database holds the same list (table ``transition``). Its triggers refuse every other change, and write a row into
   table ``event`` for each change that is allowed. So no code can change a state without a trace.

3. A claimed row (``running``, ``sending``) belongs to the holder of its lease. Each claim raises the row's lease token
   by one, and every later update names that token. A worker that has lost its lease therefore cannot change the row.

The tables below do not show the following.

**A late instance** opens the next revision of its series. A job of the old revision that is queued or held is
superseded. So is a delivery of which the peer has no instance yet. A job that is running ends: its result is kept, but
no delivery is opened for it; if the worker returns the job instead, the job is superseded. A delivery that is being
sent, or that was interrupted after the peer acknowledged a part of it, goes on, because a whole older series at the
PACS is better than half of one.

**After a delivery of a series has begun** (it was claimed once, whether or not anything was sent), the delivery of a
later revision is created as ``held``: whether a second derived series goes to the PACS is the operator's decision. Once
the operator has released a delivery of a revision, further derivations of that revision are delivered without asking.
With ``settle.late = "new_revision"`` the delivery of a later revision is due like the first one.

**Originals.** If the rule forwards the series as it was received, the transaction of the verdict also opens a delivery
of the instances to each of these peers; it belongs to the revision, not to a job. It is sent whatever becomes of the
job. A late instance cancels and holds none of them: the next revision brings each peer what no earlier one brings.

**Review and shadow.** If the rule says review, a delivery of its result is created as ``held``, until a person releases
it, which accepts the result, or cancels it, which rejects the result. A note is stored with either. A later derivation
of a revision that was rejected for a peer is not sent to that peer: its delivery is cancelled when it is created. If
the rule says shadow, no delivery of its result is created.

**A file that was set aside** (an instance with its SOP Instance UID is in the archive, with other bytes) does not
change the state of its series. If the series has no verdict yet, the verdict is to keep it, until the operator releases
the series. If the series has a verdict, its deliveries of which no peer has an instance become ``held``. Later ones are
created as ``held``, until the comparison finds no difference that matters, or a person has marked the file as seen.

**Restart.** Only one service uses a data folder, so at its start no lease is in use. Each running job goes back to the
queue, behind the others, because it may be what crashed the service. No attempt is counted: three power cuts must not
make a job fail. Each delivery that was being sent is due again. Acknowledged items stay acknowledged.

**Retry** of a series asks for a new verdict on the same revision. If the new verdict plans the same job, a held or
failed job is queued again with all its attempts. A job that is done gets a successor with the next derivation number;
when the successor is done, deliveries of the earlier result of which the peer has no instance are cancelled. If the new
verdict plans another job or keeps the series, the old job is cancelled. A job that was claimed meanwhile may end.

**Cancel** is an operator's command and takes effect at once, also on a claimed row. The worker that runs a cancelled
job notices within seconds and discards the result; a later retry of the series plans a new job. If a delivery is
cancelled while it is being sent, the answer to the present instance is still recorded, and no other instance is sent.
The peer keeps the instances that it has. A retry makes a cancelled delivery due again, unless a newer revision or
derivation has replaced it. To send a delivery to another peer is to cancel it and to open a delivery of the same
instances to that peer.

**Refresh** of a held delivery plans a job that derives the same revision under the patient whom the peer has. The same
transaction supersedes the deliveries of the old result of which no peer has an instance; these are never retried.

**Models.** The imported models of one name are ordered by activation. A rule that names the model gets the active one,
from the next verdict on; if none is active, it gets the model of that name that came with the node. A rollback
withdraws the active model and restores the one that was active before it, in the end the one that came with the node.
A job keeps the model that it was planned with, by its digest, so none of this changes a planned job.

**Priority.** A job is urgent, normal or off-peak, and its deliveries have the same priority. A claim takes the most
urgent row that may be claimed; among equals, the one that has waited longest. A claimed row is never interrupted for a
more urgent one. Where the settings name off-peak hours, an off-peak job is claimed in these only; its deliveries are
due as soon as it is done.

**Alerts.** An alert is raised when its condition begins, and sent once with all others that wait. When more of the same
has come, it is raised again after some hours. When its condition ends, an all-clear is sent. A condition that returns
before its all-clear was sent is raised again under the same row. Each destination has rows of its own, so that a mail
server that is down keeps nothing from the webhook. The weekly letter is such a row too; it never ends.

**Proof.** A delivery that is sent has a proof: the peer answered each C-STORE with success (acknowledged), a C-FIND
showed every instance (queried), or the peer committed to keep them (committed). Where the settings ask for it, a
request is written down in the transaction that makes the delivery sent, and again before it goes out, so a crash loses
none. An answer to a request is taken whenever it comes, also after a newer request has replaced the one it answers.
What the peer says it does not have becomes pending, and the delivery is due again; after three times it is held. A
restart asks anew for what was not answered within seven days, since an answer may have come while nobody listened.

There is no state for "deleted", "missing" or "error". A job whose file is missing is held, and a column has the reason.
An image that was removed for its age, or because its patient was erased, keeps its row, and a column says when. Its
series, jobs and deliveries stay in their states; what would need the image is refused.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class SeriesState(StrEnum):
    """State of a series."""

    RECEIVING = "receiving"  # instances may still come; the first state, given with its number
    SETTLED = "settled"  # quiet: the set of instances of this revision is frozen; waits for its verdict
    KEPT = "kept"  # the verdict: archived and not processed, for a reason; also the first state of a derived series
    PLANNED = "planned"  # the verdict: a job derives the series


class JobState(StrEnum):
    """State of a job."""

    QUEUED = "queued"
    RUNNING = "running"  # claimed under a lease
    DONE = "done"  # the derived series is archived
    HELD = "held"  # waits for the operator: its input, its model or its result cannot be used
    FAILED = "failed"  # all attempts were used
    SUPERSEDED = "superseded"  # a newer revision replaced it before it ran
    CANCELLED = "cancelled"  # by an operator, or a new verdict on the same revision planned something else


class DeliveryState(StrEnum):
    """State of a delivery."""

    DUE = "due"  # from ``next_at`` on
    SENDING = "sending"  # claimed under a lease
    SENT = "sent"  # every instance acknowledged
    HELD = "held"  # waits for the operator
    CANCELLED = "cancelled"  # by an operator, or replaced by a newer result before the peer had an instance of it


class ItemState(StrEnum):
    """State of one instance of a delivery."""

    PENDING = "pending"
    ACKNOWLEDGED = "acknowledged"  # the peer answered success or a warning, and that answer is committed
    REFUSED = "refused"  # the peer refused it; the status is recorded


class CommitmentState(StrEnum):
    """State of one request to a peer to commit to the instances of a delivery."""

    WANTED = "wanted"  # to be asked
    ASKED = "asked"  # written down, then sent; the report may come
    QUERIED = "queried"  # no report in time: a C-FIND showed every instance
    UNPROVEN = "unproven"  # no report in time or no such service, and no C-FIND either
    COMMITTED = "committed"  # the peer committed to every instance
    FAILED = "failed"  # the peer does not commit to some instances
    REPLACED = "replaced"  # by a newer request; a report is still taken


class ModelState(StrEnum):
    """State of an imported model."""

    IMPORTED = "imported"  # verified and copied; no rule has used it yet
    ACTIVE = "active"  # the model that a rule gets by this name
    REPLACED = "replaced"  # another was activated after it; a rollback restores the last one that was replaced
    WITHDRAWN = "withdrawn"  # rolled back; used again only if an operator activates it


class AlertState(StrEnum):
    """State of an alert at one destination."""

    RAISED = "raised"  # the condition holds, or more of it has come; to be sent
    SENT = "sent"  # the condition holds, and the destination was told
    ENDED = "ended"  # the condition is over; the all-clear is to be sent
    CLOSED = "closed"  # the all-clear was sent


State = SeriesState | JobState | DeliveryState | ItemState | CommitmentState | ModelState | AlertState


class Event(StrEnum):
    """An event: something that happens to a row. One word can be an event of several tables."""

    SETTLE = "settle"  # quiet for long enough
    KEEP = "keep"  # verdict
    PLAN = "plan"  # verdict
    LATE_INSTANCE = "late_instance"
    CLAIM = "claim"  # a worker takes the row under a lease
    FINISH = "finish"
    RETURN = "return"  # the worker gives the row back: a stop of the service, or a failure that may pass
    LEASE_LOST = "lease_lost"  # the lease of a worker that has ended is taken back
    HOLD = "hold"
    SET_ASIDE = "set_aside"  # a file of the series was set aside before the delivery began
    FAIL = "fail"  # the last attempt failed
    SUPERSEDE = "supersede"  # a newer revision, derivation or model replaces it
    CANCEL = "cancel"
    ACKNOWLEDGE = "acknowledge"
    REFUSE = "refuse"
    RELEASE = "release"  # operator: go on as it is
    RETRY = "retry"  # operator: again, from the beginning
    ACTIVATE = "activate"  # operator: rules get this model from now on
    WITHDRAW = "withdraw"  # operator: a rollback; rules do not get it any more
    RESTORE = "restore"  # a rollback withdrew the model that had replaced it
    ASK = "ask"  # the peer is asked to commit
    FIND = "find"  # a C-FIND showed every instance
    GIVE_UP = "give_up"  # the peer offers neither commitment nor C-FIND, or the settings say so
    COMMIT = "commit"  # the peer's report names every instance as committed
    DENY = "deny"  # the peer's report names instances that it does not commit to
    MISS = "miss"  # the peer does not have the instance after all
    TELL = "tell"  # the destination took the message
    RECUR = "recur"  # more of the same has come, or it came again
    END = "end"  # the condition of an alert is over
    CLOSE = "close"  # the destination took the all-clear


SERIES_TRANSITIONS: Final[dict[SeriesState, dict[Event, SeriesState]]] = {
    SeriesState.RECEIVING: {
        Event.SETTLE: SeriesState.SETTLED,
        # A late instance changes no state here, only the time of the last instance.
    },
    SeriesState.SETTLED: {
        Event.KEEP: SeriesState.KEPT,
        Event.PLAN: SeriesState.PLANNED,
        Event.LATE_INSTANCE: SeriesState.RECEIVING,
    },
    SeriesState.KEPT: {
        Event.LATE_INSTANCE: SeriesState.RECEIVING,
        Event.RETRY: SeriesState.SETTLED,
        Event.RELEASE: SeriesState.SETTLED,
    },
    SeriesState.PLANNED: {
        Event.LATE_INSTANCE: SeriesState.RECEIVING,
        Event.RETRY: SeriesState.SETTLED,
    },
}

JOB_TRANSITIONS: Final[dict[JobState, dict[Event, JobState]]] = {
    JobState.QUEUED: {
        Event.CLAIM: JobState.RUNNING,
        Event.SUPERSEDE: JobState.SUPERSEDED,
        Event.CANCEL: JobState.CANCELLED,
    },
    JobState.RUNNING: {
        Event.FINISH: JobState.DONE,
        Event.RETURN: JobState.QUEUED,
        Event.LEASE_LOST: JobState.QUEUED,
        Event.HOLD: JobState.HELD,
        Event.FAIL: JobState.FAILED,
        # No SUPERSEDE: a running job ends or is returned first, unless an operator cancels it.
        Event.CANCEL: JobState.CANCELLED,
    },
    JobState.HELD: {
        Event.RELEASE: JobState.QUEUED,
        Event.RETRY: JobState.QUEUED,
        Event.SUPERSEDE: JobState.SUPERSEDED,
        Event.CANCEL: JobState.CANCELLED,
    },
    JobState.FAILED: {
        Event.RETRY: JobState.QUEUED,
        Event.CANCEL: JobState.CANCELLED,
    },
    JobState.DONE: {},
    JobState.SUPERSEDED: {},
    JobState.CANCELLED: {},
}

DELIVERY_TRANSITIONS: Final[dict[DeliveryState, dict[Event, DeliveryState]]] = {
    DeliveryState.DUE: {
        Event.CLAIM: DeliveryState.SENDING,
        Event.SUPERSEDE: DeliveryState.CANCELLED,
        Event.SET_ASIDE: DeliveryState.HELD,
        Event.CANCEL: DeliveryState.CANCELLED,
    },
    DeliveryState.SENDING: {
        Event.FINISH: DeliveryState.SENT,
        Event.RETURN: DeliveryState.DUE,
        Event.LEASE_LOST: DeliveryState.DUE,
        Event.HOLD: DeliveryState.HELD,
        Event.CANCEL: DeliveryState.CANCELLED,
    },
    DeliveryState.HELD: {
        Event.RELEASE: DeliveryState.DUE,
        Event.RETRY: DeliveryState.DUE,
        Event.SUPERSEDE: DeliveryState.CANCELLED,
        Event.CANCEL: DeliveryState.CANCELLED,
    },
    DeliveryState.SENT: {
        Event.MISS: DeliveryState.DUE,
        Event.DENY: DeliveryState.HELD,
    },
    DeliveryState.CANCELLED: {
        Event.RETRY: DeliveryState.DUE,
    },
}

ITEM_TRANSITIONS: Final[dict[ItemState, dict[Event, ItemState]]] = {
    ItemState.PENDING: {
        Event.ACKNOWLEDGE: ItemState.ACKNOWLEDGED,
        Event.REFUSE: ItemState.REFUSED,
    },
    ItemState.REFUSED: {
        Event.RETRY: ItemState.PENDING,
    },
    ItemState.ACKNOWLEDGED: {
        Event.MISS: ItemState.PENDING,
    },
}

COMMITMENT_TRANSITIONS: Final[dict[CommitmentState, dict[Event, CommitmentState]]] = {
    CommitmentState.WANTED: {
        Event.ASK: CommitmentState.ASKED,
        Event.FIND: CommitmentState.QUERIED,
        Event.GIVE_UP: CommitmentState.UNPROVEN,
        Event.SUPERSEDE: CommitmentState.REPLACED,
    },
    CommitmentState.ASKED: {
        Event.COMMIT: CommitmentState.COMMITTED,
        Event.DENY: CommitmentState.FAILED,
        Event.FIND: CommitmentState.QUERIED,
        Event.GIVE_UP: CommitmentState.UNPROVEN,
        Event.SUPERSEDE: CommitmentState.REPLACED,
    },
    CommitmentState.QUERIED: {
        Event.COMMIT: CommitmentState.COMMITTED,
        Event.DENY: CommitmentState.FAILED,
        Event.SUPERSEDE: CommitmentState.REPLACED,
    },
    CommitmentState.UNPROVEN: {
        Event.COMMIT: CommitmentState.COMMITTED,
        Event.DENY: CommitmentState.FAILED,
        Event.SUPERSEDE: CommitmentState.REPLACED,
    },
    CommitmentState.FAILED: {
        Event.COMMIT: CommitmentState.COMMITTED,
    },
    CommitmentState.REPLACED: {
        Event.COMMIT: CommitmentState.COMMITTED,
    },
    CommitmentState.COMMITTED: {},
}

MODEL_TRANSITIONS: Final[dict[ModelState, dict[Event, ModelState]]] = {
    ModelState.IMPORTED: {
        Event.ACTIVATE: ModelState.ACTIVE,
    },
    ModelState.ACTIVE: {
        Event.SUPERSEDE: ModelState.REPLACED,
        Event.WITHDRAW: ModelState.WITHDRAWN,
    },
    ModelState.REPLACED: {
        Event.ACTIVATE: ModelState.ACTIVE,
        Event.RESTORE: ModelState.ACTIVE,
    },
    ModelState.WITHDRAWN: {
        Event.ACTIVATE: ModelState.ACTIVE,
    },
}

ALERT_TRANSITIONS: Final[dict[AlertState, dict[Event, AlertState]]] = {
    AlertState.RAISED: {
        Event.TELL: AlertState.SENT,
        Event.END: AlertState.ENDED,
    },
    AlertState.SENT: {
        Event.RECUR: AlertState.RAISED,
        Event.END: AlertState.ENDED,
    },
    AlertState.ENDED: {
        Event.RECUR: AlertState.RAISED,
        Event.CLOSE: AlertState.CLOSED,
    },
    AlertState.CLOSED: {},
}

Transitions = (
    dict[SeriesState, dict[Event, SeriesState]]
    | dict[JobState, dict[Event, JobState]]
    | dict[DeliveryState, dict[Event, DeliveryState]]
    | dict[ItemState, dict[Event, ItemState]]
    | dict[CommitmentState, dict[Event, CommitmentState]]
    | dict[ModelState, dict[Event, ModelState]]
    | dict[AlertState, dict[Event, AlertState]]
)

# By table name. The ``transition`` table, the triggers and docs/states.md are made from it.
TRANSITIONS: Final[dict[str, Transitions]] = {
    "series": SERIES_TRANSITIONS,
    "job": JOB_TRANSITIONS,
    "delivery": DELIVERY_TRANSITIONS,
    "delivery_item": ITEM_TRANSITIONS,
    "commitment": COMMITMENT_TRANSITIONS,
    "model": MODEL_TRANSITIONS,
    "alert": ALERT_TRANSITIONS,
}

# The states in which a row may be created.
BIRTHS: Final[dict[str, tuple[State, ...]]] = {
    "series": (SeriesState.RECEIVING, SeriesState.KEPT),
    "job": (JobState.QUEUED,),
    "delivery": (DeliveryState.DUE, DeliveryState.HELD),
    "delivery_item": (ItemState.PENDING,),
    "commitment": (CommitmentState.WANTED,),
    "model": (ModelState.IMPORTED,),
    "alert": (AlertState.RAISED,),
}

# At most one job of each revision and model is in one of these.
LIVE_JOB_STATES: Final = (JobState.QUEUED, JobState.RUNNING, JobState.HELD)
# The job was replaced by another one, or cancelled.
ENDED_JOB_STATES: Final = (JobState.SUPERSEDED, JobState.CANCELLED)

# Reasons of a row that a person cancelled. A cancelled row with another reason was replaced by something newer.
OPERATOR: Final = "operator"
NOT_ACCEPTED: Final = "not_accepted"  # a delivery whose result a person looked at and does not want to be sent


def step(table: str, event: Event) -> tuple[tuple[State, ...], State]:
    """Return the states of the table in which the event is allowed, and the one state to which it leads."""
    steps = [(source, events[event]) for source, events in TRANSITIONS[table].items() if event in events]
    targets = {target for _, target in steps}
    assert len(targets) == 1, f"{event} must lead to exactly one state of {table}, not to {sorted(targets)}"
    return tuple(source for source, _ in steps), targets.pop()


def changes() -> list[tuple[str, str, str]]:
    """Return every allowed change as (table, from, to), sorted. A new row comes from the empty state."""
    births = {(table, "", str(state)) for table, states in BIRTHS.items() for state in states}
    moves = {
        (table, str(source), str(target))
        for table, transitions in TRANSITIONS.items()
        for source, events in transitions.items()
        for target in events.values()
    }
    return sorted(births | moves)
