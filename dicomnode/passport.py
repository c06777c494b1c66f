"""The passport of a series: everything that is recorded of how a derived series was made, and where it was sent.

In: the ledger, and the models of the data folder. Out: one frozen value: the digests of the received and the derived
files, the verdict, each job with its rule, model, card, parameters, figures of the result gate and residual, each
delivery with the peer's proof, and every event. It holds our own ids only; UIDs where the caller asks to identify, and
never a text about the patient. Every digest in it can be computed again from the files (docs/web.md#passport).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from dicomnode import __version__
from dicomnode.derivation import GateFigure
from dicomnode.errors import ModelError
from dicomnode.generators.model_dir import pinned_model, read_card, shipped_models
from dicomnode.ledger.queries import Reader
from dicomnode.ledger.states import JobState
from dicomnode.ledger.views import CommitmentLine, DeliveryLine, EventLine, InstanceLine, JobLine
from dicomnode.visible import json_text

RESIDUAL: Final = "encoded_averages"  # the check of the result gate that compares averages of the encoded slices


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOfJob:
    """The model that a job was planned with."""

    name: str
    digest: str  # SHA-256 of its SHA256SUMS; for a model without weights, of its name and version
    card: Mapping[str, Any] | None  # None: it has no card, or is not here any more
    note: str  # why there is no card


@dataclass(frozen=True, slots=True, kw_only=True)
class PassportJob:
    """One job of the series."""

    job: JobLine
    model: ModelOfJob
    gate: tuple[GateFigure, ...]
    residual: GateFigure | None  # of the averages of the derived slices; None: it was not measured
    derived: tuple[InstanceLine, ...]  # the files that the job made


@dataclass(frozen=True, slots=True, kw_only=True)
class PassportDelivery:
    """One delivery, with every request to commit to it."""

    delivery: DeliveryLine
    commitments: tuple[CommitmentLine, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Passport:
    """The output of ``series passport``."""

    series: int  # the received one
    version: str  # of the program that wrote this
    node: str  # its UUID
    made_at: datetime
    series_uid: str | None  # None unless the caller asks to identify
    state: str
    revision: int
    reason: str | None
    verdict: str
    notes: tuple[str, ...]
    received: tuple[InstanceLine, ...]
    jobs: tuple[PassportJob, ...]
    deliveries: tuple[PassportDelivery, ...]
    story: tuple[str, ...]
    events: tuple[EventLine, ...]


def passport(reader: Reader, series: int, data: Path, now: datetime, *, identify: bool = False) -> Passport:
    """Collect the passport of a received series or of one derived from it. Raises InputError where there is none."""
    asked = reader.series_show(series)
    number = asked.id if asked.source is None else asked.source
    detail = reader.series_show(number, identify=identify)
    told = reader.series_explain(number)
    return Passport(
        series=number,
        version=__version__,
        node=reader.node_uuid(),
        made_at=now,
        series_uid=detail.series_uid,
        state=detail.state,
        revision=detail.revision,
        reason=detail.reason,
        verdict=detail.sentence,
        notes=detail.notes,
        received=detail.files,
        jobs=tuple(_job(reader, job, data, identify=identify) for job in detail.jobs),
        deliveries=tuple(
            PassportDelivery(delivery=line, commitments=reader.commitments_of(line.id, identify=identify))
            for line in detail.deliveries
        ),
        story=told.sentences,
        events=told.events,
    )


def as_json(found: Passport) -> str:
    """Return the passport as JSON, for a program; moments are in UTC."""
    return json_text(json.loads(json.dumps(dataclasses.asdict(found), default=_moment)), indent=2)


def _moment(value: object) -> str:
    assert isinstance(value, datetime), "a passport holds plain values and moments"
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _job(reader: Reader, job: JobLine, data: Path, *, identify: bool) -> PassportJob:
    figures = reader.figures(job.id)
    is_done = job.state == JobState.DONE and job.output_series is not None
    return PassportJob(
        job=job,
        model=_model(job, data),
        gate=figures,
        residual=next((figure for figure in figures if figure.check == RESIDUAL), None),
        derived=reader.series_show(job.output_series, identify=identify).files
        if is_done and job.output_series is not None
        else (),
    )


def _model(job: JobLine, data: Path) -> ModelOfJob:
    """Return the model of a job, with its card if it is here and none of its files was altered."""
    try:
        _, place = pinned_model(job.model, job.model_digest, data)
    except ModelError as exc:
        return ModelOfJob(name=job.model, digest=job.model_digest, card=None, note=exc.sentence)
    folder = place if isinstance(place, Path) else shipped_models().get(place)
    if folder is None:
        return ModelOfJob(name=job.model, digest=job.model_digest, card=None, note="It has no weights and no card.")
    return ModelOfJob(name=job.model, digest=job.model_digest, card=read_card(folder).model_dump(mode="json"), note="")
