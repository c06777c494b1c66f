"""The values in which the ledger answers an operator.

Their fields are the ``--json`` shapes of the commands (docs/cli.md): fields are only added. Own ids only; a UID is
filled in where the caller asks to identify.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from dicomnode.derivation import GateFigure


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesLine:
    """A line of ``series list``."""

    id: int
    state: str
    revision: int
    reason: str | None
    instances: int
    alert: bool
    origin: str  # received, pulled, derived
    source: int | None  # the series that it was derived from
    job: int | None  # the last one
    job_state: str | None
    last_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceLine:
    """One archived file of a series."""

    file: str
    revision: int
    size_bytes: int
    sha256: str
    peer: str | None
    stored_at: datetime
    removed_at: datetime | None  # None: it is in the archive
    sop_instance_uid: str | None  # only to who asks to identify


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLine:
    """A job, with everything that was pinned when it was planned."""

    id: int
    state: str
    series: int
    revision: int
    rule: str
    model: str
    model_digest: str
    ratio: int
    parameters: str
    derivation_number: int
    release: str  # auto, review, shadow
    output_series: int | None
    attempts: int
    reason: str | None
    sentence: str
    created_at: datetime
    finished_at: datetime | None
    seconds: float | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerLine:
    """The number of items of a delivery that the peer answered with one status."""

    status: str  # four hexadecimal digits, as the standard writes it
    state: str
    items: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryLine:
    """A line of ``deliveries list``."""

    id: int
    state: str
    peer: str
    content: str  # derived, originals
    items: int
    acknowledged: int
    refused: int
    next_at: datetime | None  # while it is due
    reason: str | None
    sentence: str
    series: int
    revision: int
    job: int | None  # None: the originals
    attempts: int
    failures: int
    proof: str | None  # acknowledged, queried, committed
    commitment: str | None  # state of the last request to commit; None: no peer was to be asked
    resends: int  # for want of proof, since an operator acted
    sent_at: datetime | None
    answers: tuple[AnswerLine, ...]
    created_at: datetime
    changed_at: datetime  # since when it is in this state


@dataclass(frozen=True, slots=True, kw_only=True)
class EventLine:
    """An event of a row. Equal events of single images are one line, with their number."""

    at: datetime  # of the last one
    table: str
    row: int | None
    kind: str
    from_state: str | None
    to_state: str | None
    by: str
    detail: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesDetail:
    """``series show``."""

    id: int
    state: str
    revision: int
    reason: str | None
    sentence: str
    notes: tuple[str, ...]
    alert: bool
    aborted: bool
    origin: str
    source: int | None
    series_uid: str | None  # only to who asks to identify
    created_at: datetime
    first_at: datetime | None
    last_at: datetime | None
    instances: int
    size_bytes: int
    peers: tuple[str, ...]
    jobs: tuple[JobLine, ...]
    deliveries: tuple[DeliveryLine, ...]
    files: tuple[InstanceLine, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """``series explain``: sentences that explain the state of a series, and the rows on which they rest."""

    id: int
    state: str
    revision: int
    reason: str | None
    sentences: tuple[str, ...]
    notes: tuple[str, ...]
    job: JobLine | None  # the last one
    gate: tuple[GateFigure, ...]  # figures of the result gate on the result of that job; none for older jobs
    deliveries: tuple[DeliveryLine, ...]
    events: tuple[EventLine, ...]
    series_uid: str | None  # only to who asks to identify


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineLine:
    """A line of ``quarantine list``: a file set aside."""

    id: int
    state: str  # unseen, seen, harmless
    reason: str
    finding: str | None  # of a look at it; none yet, or none needed
    details: tuple[str, ...]  # of the finding: attribute names and our own words
    peer: str
    series: int | None  # to which it belongs by its own word
    kept_series: int | None  # of the instance that was kept under its UID
    file: str
    sha256: str
    kept_sha256: str | None
    kept_file: str | None
    at: datetime
    seen_at: datetime | None
    removed_at: datetime | None  # None: it is in quarantine


@dataclass(frozen=True, slots=True, kw_only=True)
class BootLine:
    """A start of the service."""

    id: int
    pid: int
    host: str
    began_at: datetime
    ended_at: datetime | None  # empty: it runs, or was killed


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsLine:
    """The settings that the last start of the service uses, and the last look at their file."""

    file: str | None  # None: there is no file, and the embedded defaults hold
    sha256: str  # of the file, as it was when they were taken; empty: no file
    taken_at: datetime
    restart: tuple[str, ...]  # keys of the file that need a restart
    tried_at: datetime  # later than ``taken_at`` where the file was not taken the last time
    fault: str  # why it was not taken; empty: it was


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChoice:
    """The default model that the service chose at its start, by the time that the better one takes on its machine."""

    is_fast: bool
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionLine:
    """A row that waits for a person."""

    table: str
    id: int
    series: int | None  # none: of something set aside that belongs to no series
    state: str
    reason: str | None
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """``status``: the number of rows in each state, and the rows that wait for a person."""

    version: str
    boot: BootLine | None
    settings: SettingsLine | None  # None: no service has started since the ledger has that column
    instances: int
    derived_instances: int
    series: dict[str, int]  # state → number, received ones
    jobs: dict[str, int]
    deliveries: dict[str, int]
    proofs: dict[str, int]  # of sent deliveries → number
    quarantine: dict[str, int]  # reason → number
    waiting_since: datetime | None  # the job that has been queued longest
    no_peer: dict[str, int]  # peer that cannot be sent to → number of deliveries that are due to it
    model_choice: ModelChoice | None  # None: the last start had nothing to choose, or has not chosen yet
    attention: tuple[AttentionLine, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingModel:
    """A model that queued jobs need."""

    model: str
    digest: str
    jobs: int
    since: datetime  # when the first of them was queued


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    """An imported model."""

    id: int
    name: str
    digest: str
    kind: str
    ratios: tuple[int, int]
    state: str
    place: int | None  # in the line of its name; the foremost has the highest
    imported_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Rows that wait for a person for the same reason."""

    table: str
    state: str
    reason: str
    peer: str  # of a delivery or of files that were set aside; else empty
    rows: int
    newest: int  # its id
    since: datetime  # when the one that waits longest began to wait


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """The queue of one stage of the node: the rows that wait for it."""

    stage: str  # judge, derive, push
    peer: str  # of push: the peer that is to get it; else empty
    rows: int
    since: datetime | None  # when the oldest of them came here; None: nothing waits
    stalled: int  # taken by somebody whose lease has run out


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """The series that came from one peer."""

    peer: str
    series: int  # since the moment that was asked for
    instances: int  # of these series
    last_at: datetime  # when its last series got its last instance


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipient:
    """The deliveries to one peer: how many were sent, wait, or are held."""

    peer: str
    sent: int  # since the moment that was asked for
    waiting: int  # due, or being sent
    held: int
    waiting_since: datetime | None  # the oldest of those that wait
    last_at: datetime | None  # when the last delivery was sent


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitmentLine:
    """A request to a peer to commit to what it was sent."""

    delivery: int
    peer: str
    state: str
    transaction_uid: str | None  # only to who asks to identify
    created_at: datetime
    asked_at: datetime | None
    changed_at: datetime  # since when it is in this state


@dataclass(frozen=True, slots=True, kw_only=True)
class StuckPeer:
    """A peer to which the same delivery has failed for a long time."""

    peer: str
    delivery: int
    failures: int  # in a row
    reason: str
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Undelivered:
    """A destination to which its alerts could not be sent."""

    destination: str
    alert: int
    since: datetime
    failure: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerWeek:
    """Deliveries to one peer in a week, and the seconds that each took from the end of its job to its last answer."""

    peer: str
    deliveries: int
    median_s: float
    longest_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Week:
    """The figures of the weekly letter."""

    since: datetime
    received: int  # series
    derived: int
    shadow: int  # of the derived ones, those whose rule never sends them
    kept: dict[str, int]  # reason → number
    sent: tuple[PeerWeek, ...]
    proofs: dict[str, int]  # of what was sent → number of deliveries
    gate_measured: int  # results that the result gate has figures of
    gate_held: int
    gate_nearest: GateFigure | None  # of those within their limits
