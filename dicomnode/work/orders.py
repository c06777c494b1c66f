"""The order for one job and the answers to it: frozen values, each of them one JSON object as a message.

One ``Order`` holds everything that the process of a job needs: it sees files and never the ledger, so whatever becomes
of it cannot harm a row. JSON, not pickle, so that a half-written or foreign message is an error and nothing more.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from dicomnode.derivation import DerivationParameters, DerivedInstance, DerivedSeries, GateFigure
from dicomnode.ids import InstanceId, JobId

LOST = "lost"  # outcome of a call that no worker answered
QUEUE = "queue"  # the stage of a job that waits for a worker of the cluster; it takes none of the job's time
MESSAGE_LIMIT_BYTES = 64 * 2**20  # an order of 100,000 instances has 25 MB; anything above is no message of ours


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """One archived instance of the revision that the job derives."""

    instance: InstanceId
    file: str  # path below the archive folder
    sha256: str  # of the dataset, as it was received


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One attempt at a job: its files, and everything that decides the result."""

    job: JobId
    token: int  # of the claim: no two attempts at a job have the same
    archive: str  # folder in which the paths of the files begin
    files: tuple[SourceFile, ...]
    output: str  # folder for the derived files, empty; the supervisor publishes it
    node_uuid: str  # namespace of the derived UIDs
    ae_title: str
    parameters: DerivationParameters
    derivation_number: int
    created_at: str  # ISO 8601, UTC: date and time that the derived objects carry
    patient: str | None = None  # path of the file that ``parameters.patient`` pins; None: there is none


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The child is warm: libraries imported, models loaded."""

    models: tuple[str, ...]  # those that could be loaded
    device: str
    reference_s: float | None = None  # what the model to be timed takes for the reference series; None: not timed


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """The models that the workers of the cluster can run now."""

    digests: tuple[str, ...]
    sentence: str  # why there are none; empty where there are some


@dataclass(frozen=True, slots=True, kw_only=True)
class StageReport:
    """The progress of the job."""

    job: JobId
    stage: str
    share: float  # of this stage, 0…1


@dataclass(frozen=True, slots=True, kw_only=True)
class CallReport:
    """A call of the job that the cluster has ended, or lost."""

    job: JobId
    worker: str  # host:port; empty: none had begun it
    outcome: str  # of ``cluster.Outcome``, or ``LOST``
    seconds: float  # on the worker; of a call that was lost, since it was handed in
    memory_mb: float  # the most that the worker's process had; 0: not known


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The job is done: the files of the series are written, flushed and named in the output folder."""

    job: JobId
    series: DerivedSeries


class Cause(StrEnum):
    """The causes for which trying a job again is of no use: it is held for an operator."""

    INPUT = "input"  # what pixels or headers say
    MODEL = "model"  # model directory missing, altered, or not the one the job was planned with
    ALTERED = "altered"  # an archived file is missing or not what was received


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The job cannot be done as it is; another attempt would end the same way."""

    job: JobId
    cause: Cause
    sentence: str
    instance: InstanceId | None = None  # of an altered file
    found_sha256: str | None = None  # None: the file is missing


class Blame(StrEnum):
    """Whose fault a failed attempt is."""

    JOB = "job"  # nobody's that we know: it counts as an attempt
    SOURCE = "source"  # a disk that does not let the job's own files be read: this job waits, the others go on
    DISK = "disk"  # a disk that takes nothing, as a full one: no job could end, so all wait
    CLUSTER = "cluster"  # the cluster lost the job, or has no worker for it: this job waits, the others go on


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The attempt failed for a reason that another attempt may not meet again."""

    job: JobId
    stage: str
    sentence: str
    blame: Blame


Answer = Finished | Refused | Failed
Message = Order | Ready | Offer | StageReport | CallReport | Answer

_KINDS: dict[str, type[Message]] = {
    kind.__name__: kind for kind in (Order, Ready, Offer, StageReport, CallReport, Finished, Refused, Failed)
}


def encode(message: Message) -> bytes:
    """One message as JSON."""
    fields = {"kind": type(message).__name__, **asdict(message)}
    if isinstance(message, Order):
        fields["parameters"] = message.parameters.as_columns()
    return json.dumps(fields, separators=(",", ":")).encode()


def decode(text: bytes) -> Message:
    """The message again; whatever is not one of ours raises ValueError, TypeError, KeyError or InputError."""
    fields: dict[str, Any] = json.loads(text)
    kind = _KINDS[fields.pop("kind")]
    if kind is Order:
        fields["files"] = tuple(SourceFile(**entry) for entry in fields["files"])
        fields["parameters"] = DerivationParameters.from_columns(fields["parameters"])
    elif kind is Finished:
        series = fields["series"]
        series["instances"] = tuple(DerivedInstance(**entry) for entry in series["instances"])
        series["notes"] = tuple(series["notes"])
        series["objections"] = tuple(series["objections"])
        series["figures"] = tuple(GateFigure(**entry) for entry in series["figures"])
        fields["series"] = DerivedSeries(**series)
    elif kind is Ready:
        fields["models"] = tuple(fields["models"])
    elif kind is Offer:
        fields["digests"] = tuple(fields["digests"])
    elif kind is Refused:
        fields["cause"] = Cause(fields["cause"])
    elif kind is Failed:
        fields["blame"] = Blame(fields["blame"])
    return kind(**fields)
