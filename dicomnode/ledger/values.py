"""The values that pass between the ledger and its users: frozen, with no connection behind them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Final, NewType

from dicomnode.derivation import DerivationParameters
from dicomnode.ids import DeliveryId, InstanceId, ItemId, JobId, QuarantineId, SeriesId
from dicomnode.ledger.states import AlertState, SeriesState

BootId = NewType("BootId", int)
ModelId = NewType("ModelId", int)
CommitmentId = NewType("CommitmentId", int)

OWN_OUTPUT: Final = "own_output"  # reason of a series that this node derived
REMOVED: Final = "removed"  # reason of a series that cannot be judged, since images of it were removed
PULLED: Final = "pulled"  # reason of a series that is kept: we asked a peer for every instance of it
WAITS_FOR_PARTS: Final = "waits_for_parts"  # event of a series: a concatenation in it is not whole
WAITS_FOR_STUDY: Final = "waits_for_study"  # event of a series: its rule will choose one of its study
NOT_SELECTED: Final = "not_selected"  # reason of a series: its rule derives another one of the study
SET_ASIDE: Final = "set_aside"  # reason of a series that is kept, and of a delivery that is held


class ModelEvent(StrEnum):
    """The default model that a start of the service chose by its time; the kind of an event at the row of the start."""

    QUALITY = "quality_model_chosen"
    FAST = "fast_model_chosen"


class Priority(IntEnum):
    """The order in which waiting jobs and deliveries are claimed; those of equal priority wait their turn."""

    URGENT = 0
    NORMAL = 1
    OFF_PEAK = 2


class StoreOutcome(StrEnum):
    """The ledger's decision on an instance that came in (docs/protocol.md#answers-to-c-store)."""

    STORED = "stored"
    DUPLICATE = "duplicate"  # same UID, same bytes: the file just written is not needed
    CONFLICT = "conflict"  # same UID, same transfer syntax, other bytes
    OTHER_ENCODING = "other_encoding"  # same UID in another transfer syntax
    ASIDE_ALREADY = "aside_already"  # the very bytes that lie in quarantine under this UID
    OWN_OUTPUT = "own_output"  # a UID that this node derived


class QuarantineReason(StrEnum):
    """Reasons for which a file is set aside."""

    CONFLICT = "conflict"
    OTHER_ENCODING = "other_encoding"
    HEADER = "header"
    UID = "uid"
    ORPHAN = "orphan"
    ALTERED = "altered"
    PATIENT = "patient"  # no file of a sender: a peer's answer that names the patient of a study


class Finding(StrEnum):
    """The result of comparing a file that was set aside with the instance that was kept under its UID."""

    SAME = "same"  # nothing is lost: another encoding of the same image, or bytes that were stored since
    OTHER_SERIES = "other_series"  # the instance that was kept belongs to another series
    OTHER_IDENTITY = "other_identity"  # patient, clinical trial subject or study differ
    OTHER_CONTENT = "other_content"  # pixels or other attributes differ
    NOT_COMPARED = "not_compared"  # one of the two cannot be read
    NOT_STORED = "not_stored"  # an orphan whose bytes are no instance of its series


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredInstance:
    """An instance whose file is flushed and renamed: receive → ledger."""

    id: InstanceId
    series: SeriesId
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    size_bytes: int  # of the dataset, without preamble and file meta
    sha256: str  # of the dataset bytes as they came over the wire
    file: str  # path below the archive folder, "<series id>/<file stem>.dcm"
    peer: str
    received_at: datetime
    is_pulled: bool = False  # we asked the peer for it
    called_ae: str | None = None  # the AE title that the peer called; None: nobody knows


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownInstance:
    """The instance that the ledger already holds under a SOP Instance UID."""

    id: InstanceId
    series: SeriesId
    file: str  # path below the archive folder
    sha256: str
    transfer_syntax_uid: str
    is_derived: bool
    is_removed: bool  # its file is not in the archive any more, on purpose


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivedInstance:
    """One instance of a series, as settle and work read it."""

    id: InstanceId
    file: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    size_bytes: int
    sha256: str
    peer: str  # the sender
    received_at: datetime
    is_removed: bool  # its file is not in the archive any more, on purpose
    called_ae: str | None = None  # the AE title that its sender called; None: nobody knows


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantinedFile:
    """A file that was set aside, and the instance with which it conflicts."""

    file: str  # name below the quarantine folder
    reason: QuarantineReason
    sha256: str
    peer: str
    instance: InstanceId | None  # the instance that was kept
    kept_sha256: str | None
    series: SeriesId | None = None  # to which it belongs by its own word; that of the instance where none is given


@dataclass(frozen=True, slots=True, kw_only=True)
class Unexamined:
    """A file that was set aside and is not compared yet."""

    id: QuarantineId
    reason: QuarantineReason
    file: str  # name below the quarantine folder
    series: SeriesId
    kept: KnownInstance | None  # under the same UID
    is_stored: bool  # these very bytes came again, and are an instance or set aside for another reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """The finding for one file that was set aside; ``details``: attribute names and own words, never a value."""

    id: QuarantineId
    finding: Finding
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """Files of one series that were set aside for the same cause."""

    finding: Finding | None  # None: nobody has looked yet
    files: int
    kept_series: SeriesId | None  # whose instances were kept instead, where it is another one
    details: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivingSeries:
    """A series whose instances still come in."""

    id: SeriesId
    revision: int
    instances: int
    first_at: datetime  # first instance of this revision
    last_at: datetime
    aborted: bool  # the last association that stored into it ended without a release


@dataclass(frozen=True, slots=True, kw_only=True)
class SettledSeries:
    """A series whose set of instances is frozen and that waits for its verdict."""

    id: SeriesId
    revision: int
    study_uid: str | None  # None: received by an earlier version
    is_wanted: bool  # an operator released it although its rule had not chosen it
    is_pulled: bool = False  # we asked a peer for every instance of it


class Release(StrEnum):
    """The use of the result of a job."""

    AUTO = "auto"  # it is delivered
    REVIEW = "review"  # its deliveries are held until a person has looked at it
    SHADOW = "shadow"  # it is archived and measured, and never delivered


class Late(StrEnum):
    """The use of the result of a later revision after a delivery of an earlier one has begun."""

    HOLD = "hold"  # its deliveries are held
    NEW_REVISION = "new_revision"  # it is delivered like the first one


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySeries:
    """A series of which instances came, as one of its study."""

    id: SeriesId
    revision: int
    state: SeriesState
    last_at: datetime | None
    rules: frozenset[str]  # of its jobs that no other job replaced and nobody cancelled


@dataclass(frozen=True, slots=True, kw_only=True)
class NotSelected:
    """A series that is kept because its rule chose another one of the study."""

    series: SeriesId
    revision: int
    sentence: str
    notes: tuple[str, ...]
    alert: bool
    forward: Forward


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedJob:
    """The decision to derive one revision with one model."""

    parameters: DerivationParameters  # everything that changes the result; with a ratio
    deliver_to: tuple[str, ...]  # peer names
    sentence: str  # the verdict in words
    priority: Priority = Priority.NORMAL
    release: Release = Release.AUTO
    late: Late = Late.HOLD


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    """A series that its rule chose of its study, and the job that derives it."""

    series: SeriesId
    revision: int
    planned: PlannedJob
    notes: tuple[str, ...]
    alert: bool
    forward: Forward


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A claimed job, with the token that every later update must show."""

    id: JobId
    series: SeriesId
    revision: int
    output_series: SeriesId  # folder of the derived files; the same at each attempt
    planned: PlannedJob
    derivation_number: int  # 1 for the first derivation of the series, + 1 for each later one
    created_at: datetime  # the date and time that the derived objects carry
    attempts: int
    lease_token: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """The peers to which a series goes as it was received, whatever its verdict is."""

    peers: tuple[str, ...] = ()
    priority: Priority = Priority.NORMAL


NOBODY: Final = Forward()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cargo:
    """The content of a delivery: the result of a job, or instances of a series as they were received."""

    series: SeriesId  # the received series
    revision: int
    job: JobId | None  # None: the instances as they were received
    priority: Priority


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A claimed delivery, with its token."""

    id: DeliveryId
    job: JobId | None  # None: it brings the instances as they were received
    peer: str
    attempts: int  # claims so far, this one included; above 1 an instance may have reached the peer before
    failures: int  # transient failures in a row, for the backoff
    lease_token: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryItem:
    """One instance that still has to reach the peer."""

    id: ItemId
    instance: InstanceId
    file: str  # path below the archive folder
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    size_bytes: int
    sha256: str
    tries: int  # processing failures (0110 …) so far
    status: int | None  # the peer's last answer, from an earlier try
    refusals: frozenset[int]  # statuses with which it was refused before an operator had it tried again


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenItem:
    """An instance that a peer acknowledged, and is to show or to commit to."""

    file: str  # path below the archive folder
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Commitment:
    """A request to a peer to commit to instances of a delivery: to be asked, or asked and not answered in time."""

    id: CommitmentId
    delivery: DeliveryId
    transaction_uid: str
    is_asked: bool
    created_at: datetime
    failures: int  # to reach the peer, in a row
    items: tuple[ProvenItem, ...]  # to which no peer has committed yet


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedModel:
    """A model directory that was verified and copied into the data folder."""

    id: ModelId | None = None  # None: not in the ledger yet
    name: str
    digest: str
    kind: str
    ratios: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class BootReport:
    """The state in which an earlier service left the ledger, and the rows that this start took back."""

    boot: BootId
    ended_cleanly: bool  # False: the service before this one was killed
    last_clean_stop: datetime | None  # of whichever service ended cleanly last; None: none did
    is_checked: bool  # False: the file is so large that looking for damage is left for later
    returned_jobs: int
    returned_deliveries: int
    renewed_commitments: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Something that people are to be told of as long as it holds."""

    name: str  # the same as long as it is the same condition
    sentence: str  # own ids, names of the settings and our own words only
    number: int  # of rows, or a grade; a higher one is told again
    is_error: bool  # else it waits for a decision


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A condition at one destination, and whether that was told."""

    id: int
    name: str
    state: AlertState
    state_at: datetime
    sentence: str
    is_error: bool
    number: int
    first_at: datetime
    last_at: datetime  # when ``number`` changed last, or the alert was raised again
    sent_at: datetime | None
    sent_number: int
