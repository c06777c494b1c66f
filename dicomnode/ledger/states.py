"""The states of everything that the ledger moves, and every change of state that may happen.

Five kinds of row have a state. A **series** is what a scanner sent under one Series Instance UID; a **job** derives
one revision of it; a **delivery** brings what one job made to one peer; an **item** is one instance of a delivery; an
imported **model** is what rules that name it may get. Each worker takes a row that is due, does its work, and moves the
row by one step in the same transaction that writes what it did. A crash at any moment therefore leaves a row that says
what to do next, and nothing else has to be remembered anywhere.

Three rules hold everywhere.

1. A row changes state only by an event that TRANSITIONS lists for the state it is in. Events are what happened
   ("claim", "late_instance"), states are what is now true. The ledger asks for an event, never for a state, and
   says in the same UPDATE from which states that event may come: who lost a race changes no row.

2. The database keeps the same table (``transition``) and refuses a change that is not in it, whoever asks; it writes
   the row of ``event`` for each change itself. No path through the code can move a row unseen.

3. A claimed row (``running``, ``sending``) belongs to the holder of its lease. The token of the lease goes up by one
   with each claim, and every later update names it: a holder that was thought dead changes nothing when it wakes.

What the tables below cannot say:

**A late instance** opens the next revision of its series. What was decided about the old revision and has not begun
is given up: a queued or held job is superseded, and so is a delivery of which nothing has reached its peer. What has
begun is finished: a running job ends (its result is kept, but opens no delivery), and a delivery that is being sent,
or that waits to resume after part of it was acknowledged, goes on, because a whole older series at the PACS is better
than half of it. A job of an old revision that comes back from its worker is superseded at once.

**After a delivery of a series has begun** (it was claimed once, whatever came of it), the delivery of a later revision
is born ``held``: a second derived series beside the first is a decision of the operator. Once the operator has let a
revision go, further derivations of that same revision go out like first ones.

**An object that was set aside** (its SOP Instance UID was taken, and its bytes are other ones) changes no state of its
series by itself. A series that is not judged yet is kept for it, until the operator's release lets it be judged as it
is. Of one that was judged, deliveries of which nothing has reached a peer become ``held``, and later ones are born so,
until it turns out that nothing differs that matters, or a person has seen it.

**Restart.** One service owns a data folder, so at its start no lease can be alive: each running job goes back into the
queue, behind the others (it may be what killed the service) but without a spent attempt (three power cuts must not fail
a good series), and each delivery that was being sent is due again. Acknowledged items stay acknowledged.

**Retry** of a series asks for a new verdict on the same revision. Where that verdict plans the same job as before, a
held or failed one is queued anew with all its attempts; a done one gets a successor with the next derivation number,
and once that is done, what was made before and has not reached its peer is not sent any more. Where the new verdict
plans something else, or keeps the series, the old job is cancelled. A job that was claimed meanwhile is let end.

**Cancel** is the operator's, and takes effect at once, also on a claimed row. Who holds a cancelled job finds its claim
gone within seconds and drops what it made; a later retry of the series plans a new job. Who sends a cancelled delivery
ends the instance that is on its way, whose answer is still written down, and sends no other. Nothing that the peer has
is taken back. A delivery that was cancelled is due again after a retry, unless something newer took its place. To send
it to another peer is to cancel it and to open a delivery of the same images to that one.

**Models** that an operator imported stand in a line for each name. The active one is what rules get that name it, from
the next verdict on; none is active: the one of that name that came with the node. Activating another puts it in front;
a rollback takes the foremost out of the line and goes back to the one behind it, in the end to what came with the node.
A job is pinned to the digest of a model when it is planned, so none of this touches a job that is there.

**Priority.** A job is urgent, normal or off-peak, and its deliveries are what it is. A claim takes the most urgent row
that may be claimed, among equals the one that has waited longest. Nothing that was claimed is interrupted for it.

There is no state for "deleted", "missing" or "error": a file that is gone holds its job, and the reason is a column.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class SeriesState(StrEnum):
    """Where a series stands."""

    RECEIVING = "receiving"  # instances may still come; born so when its number is handed out
    SETTLED = "settled"  # quiet: the set of instances of this revision is frozen; waits for its verdict
    KEPT = "kept"  # the verdict: archived and not processed, for a reason; what we derive is born so
    PLANNED = "planned"  # the verdict: a job derives it


class JobState(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"  # claimed under a lease
    DONE = "done"  # the derived series is archived
    HELD = "held"  # cannot go on without the operator: its input, its model or its result is not fit
    FAILED = "failed"  # the attempts are spent
    SUPERSEDED = "superseded"  # a newer revision took its place before it began
    CANCELLED = "cancelled"  # by an operator, or a new verdict on the same revision planned something else


class DeliveryState(StrEnum):
    """Where a delivery stands."""

    DUE = "due"  # from ``next_at`` on
    SENDING = "sending"  # claimed under a lease
    SENT = "sent"  # every instance acknowledged
    HELD = "held"  # waits for the operator
    CANCELLED = "cancelled"  # by an operator, or by something newer before anything of it was sent


class ItemState(StrEnum):
    """Where one instance of a delivery stands."""

    PENDING = "pending"
    ACKNOWLEDGED = "acknowledged"  # the peer answered success or a warning, and that answer is committed
    REFUSED = "refused"  # the peer will not take it; its status is kept


class ModelState(StrEnum):
    """Where an imported model stands among those of its name."""

    IMPORTED = "imported"  # verified and copied; no rule has got it yet
    ACTIVE = "active"  # what rules get that name it
    REPLACED = "replaced"  # another was activated after it; a rollback returns to the last of these
    WITHDRAWN = "withdrawn"  # rolled back; comes again only by name


State = SeriesState | JobState | DeliveryState | ItemState | ModelState


class Event(StrEnum):
    """What can happen to a row. The same word may happen to several kinds of row."""

    SETTLE = "settle"  # quiet for long enough
    KEEP = "keep"  # verdict
    PLAN = "plan"  # verdict
    LATE_INSTANCE = "late_instance"
    CLAIM = "claim"  # a worker takes the row under a lease
    FINISH = "finish"
    RETURN = "return"  # given back: stopped, a transient failure, the child died
    LEASE_LOST = "lease_lost"  # taken back from a holder that is gone
    HOLD = "hold"
    SET_ASIDE = "set_aside"  # an object of the series was set aside before the delivery began
    FAIL = "fail"  # the last attempt was spent
    SUPERSEDE = "supersede"  # something newer took its place
    CANCEL = "cancel"
    ACKNOWLEDGE = "acknowledge"
    REFUSE = "refuse"
    RELEASE = "release"  # operator: go on as it is
    RETRY = "retry"  # operator: again, from the beginning
    ACTIVATE = "activate"  # operator: rules are to get this model
    WITHDRAW = "withdraw"  # operator: a rollback takes it away from the rules
    RESTORE = "restore"  # the rollback of the one that had replaced it


SERIES_TRANSITIONS: Final[dict[SeriesState, dict[Event, SeriesState]]] = {
    SeriesState.RECEIVING: {
        Event.SETTLE: SeriesState.SETTLED,
        # A late instance finds it receiving already: nothing changes but the time of the last one.
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
        # Not superseded: what runs is finished or comes back first, unless an operator gives it up.
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
    DeliveryState.SENT: {},
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
    ItemState.ACKNOWLEDGED: {},
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

Transitions = (
    dict[SeriesState, dict[Event, SeriesState]]
    | dict[JobState, dict[Event, JobState]]
    | dict[DeliveryState, dict[Event, DeliveryState]]
    | dict[ItemState, dict[Event, ItemState]]
    | dict[ModelState, dict[Event, ModelState]]
)

# By table name: what the ``transition`` table is filled from, the guards are made of, and docs/states.md shows.
TRANSITIONS: Final[dict[str, Transitions]] = {
    "series": SERIES_TRANSITIONS,
    "job": JOB_TRANSITIONS,
    "delivery": DELIVERY_TRANSITIONS,
    "delivery_item": ITEM_TRANSITIONS,
    "model": MODEL_TRANSITIONS,
}

# The states in which a row may come into being.
BIRTHS: Final[dict[str, tuple[State, ...]]] = {
    "series": (SeriesState.RECEIVING, SeriesState.KEPT),
    "job": (JobState.QUEUED,),
    "delivery": (DeliveryState.DUE, DeliveryState.HELD),
    "delivery_item": (ItemState.PENDING,),
    "model": (ModelState.IMPORTED,),
}

LIVE_JOB_STATES: Final = (JobState.QUEUED, JobState.RUNNING, JobState.HELD)  # one of these per revision and model
ENDED_JOB_STATES: Final = (JobState.SUPERSEDED, JobState.CANCELLED)  # gave way to another job, or was given up

OPERATOR: Final = "operator"  # reason of a cancelled row: an operator's; any other: something newer took its place


def step(table: str, event: Event) -> tuple[tuple[State, ...], State]:
    """The states in which the event may happen to a row of the table, and the one state to which it leads."""
    steps = [(source, events[event]) for source, events in TRANSITIONS[table].items() if event in events]
    targets = {target for _, target in steps}
    assert len(targets) == 1, f"{event} must lead to exactly one state of {table}, not to {sorted(targets)}"
    return tuple(source for source, _ in steps), targets.pop()


def changes() -> list[tuple[str, str, str]]:
    """Every change that may happen as (table, from, to), in order; a birth comes from the empty state."""
    births = {(table, "", str(state)) for table, states in BIRTHS.items() for state in states}
    moves = {
        (table, str(source), str(target))
        for table, transitions in TRANSITIONS.items()
        for source, events in transitions.items()
        for target in events.values()
    }
    return sorted(births | moves)
