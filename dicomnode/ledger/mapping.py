"""Columns and values, once for each table: what a row becomes, and what a new row holds.

A column is named in ``schema`` with its type, here, and in the statements that ask about it. A function that reads a
row says which labels it expects beside the columns of its table. Nothing here runs a statement.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row

from dicomnode.derivation import DerivationParameters, DerivedInstance, GateFigure
from dicomnode.ids import DeliveryId, InstanceId, ItemId, JobId, QuarantineId, SeriesId
from dicomnode.ledger.schema import DERIVED, RECEIVED, instance
from dicomnode.ledger.states import (
    AlertState,
    CommitmentState,
    DeliveryState,
    Event,
    ItemState,
    JobState,
    ModelState,
    SeriesState,
)
from dicomnode.ledger.transaction import LedgerTransaction
from dicomnode.ledger.values import (
    NOT_SELECTED,
    OWN_OUTPUT,
    PULLED,
    Alert,
    ArchivedInstance,
    Cargo,
    Commitment,
    CommitmentId,
    Condition,
    Delivery,
    DeliveryItem,
    Finding,
    ImportedModel,
    Job,
    KnownInstance,
    Late,
    ModelId,
    PlannedJob,
    Priority,
    ProvenItem,
    QuarantinedFile,
    QuarantineReason,
    ReceivingSeries,
    Release,
    SettledSeries,
    StoredInstance,
    Unexamined,
)
from dicomnode.ledger.views import (
    AnswerLine,
    CommitmentLine,
    DeliveryLine,
    EventLine,
    InstanceLine,
    JobLine,
    ModelRow,
    QuarantineLine,
    SeriesDetail,
    SeriesLine,
)

ORIGINALS: Final = "originals"  # content of a delivery: instances as they were received; else ``DERIVED``

AnyRow = Row[*tuple[object, ...]]

# What ``known_instance`` reads; labelled, because other tables of a question have columns of the same names.
KNOWN_INSTANCE: Final = tuple(
    column.label(f"known_{column.name}")
    for column in (
        instance.c.id,
        instance.c.series_id,
        instance.c.file,
        instance.c.sha256,
        instance.c.transfer_syntax_uid,
        instance.c.origin,
        instance.c.removed_at,
    )
)


# Series.


def new_received_series(transaction: LedgerTransaction, series_uid: str, study_uid: str | None) -> dict[str, object]:
    """Return the row of a new series, whose instances a scanner will send under this UID."""
    return {
        **_new_series(transaction, RECEIVED, SeriesState.RECEIVING, "number"),
        "series_uid": series_uid,
        "study_uid": study_uid,
        "sentence": "",
    }


def new_derived_series(transaction: LedgerTransaction, source: SeriesId) -> dict[str, object]:
    """Return the row of the series that a job will fill."""
    return {
        **_new_series(transaction, DERIVED, SeriesState.KEPT, OWN_OUTPUT),
        "reason": OWN_OUTPUT,
        "sentence": f"This series was made by this node from series {source}; it is kept and never processed again.",
    }


def _new_series(transaction: LedgerTransaction, origin: str, state: SeriesState, cause: str) -> dict[str, object]:
    return {
        "origin": origin,
        "revision": 1,
        **transaction.born(state, cause),
        "created_at": transaction.now,
        "aborted": False,
        "notes": [],
        "alert": False,
    }


def receiving_series(row: AnyRow) -> ReceivingSeries:
    """Map a row that has ``instances``, the number of instances, beside the columns of the series."""
    return ReceivingSeries(
        id=SeriesId(row.id),
        revision=row.revision,
        instances=row.instances,
        first_at=row.first_at,
        last_at=row.last_at,
        aborted=row.aborted,
    )


def settled_series(row: AnyRow) -> SettledSeries:
    """A series that waits for its verdict."""
    return SettledSeries(
        id=SeriesId(row.id),
        revision=row.revision,
        is_pulled=bool(row.pulled),
        study_uid=row.study_uid,
        is_wanted=(row.state_cause, row.state_detail) == (Event.RELEASE, NOT_SELECTED),
    )


def series_line(row: AnyRow) -> SeriesLine:
    """Map a row that has ``alarms``, ``instances``, ``source``, ``job`` and ``job_state`` beside the columns."""
    return SeriesLine(
        id=row.id,
        state=row.state,
        revision=row.revision,
        reason=row.reason,
        instances=row.instances,
        alert=row.alarms,
        origin=PULLED if row.pulled else row.origin,
        source=row.source,
        job=row.job,
        job_state=row.job_state,
        last_at=row.last_at,
    )


def series_detail(
    row: AnyRow,
    files: Sequence[AnyRow],
    jobs: tuple[JobLine, ...],
    deliveries: tuple[DeliveryLine, ...],
    *,
    identify: bool,
) -> SeriesDetail:
    """Map a row that has ``alarms`` and ``source`` beside the columns; ``files`` are the rows of its instances."""
    return SeriesDetail(
        id=row.id,
        state=row.state,
        revision=row.revision,
        reason=row.reason,
        sentence=row.sentence,
        notes=tuple(row.notes),
        alert=row.alarms,
        aborted=row.aborted,
        origin=PULLED if row.pulled else row.origin,
        source=row.source,
        series_uid=row.series_uid if identify else None,
        created_at=row.created_at,
        first_at=row.first_at,
        last_at=row.last_at,
        instances=len(files),
        size_bytes=sum(file.size_bytes for file in files),
        peers=tuple(sorted({file.peer for file in files if file.peer is not None})),
        jobs=jobs,
        deliveries=deliveries,
        files=tuple(instance_line(file, identify=identify) for file in files),
    )


# Jobs.


def new_job(
    transaction: LedgerTransaction, series_id: SeriesId, revision: int, planned: PlannedJob, *, derivation_number: int
) -> dict[str, object]:
    """A job that was just planned."""
    return {
        "series_id": series_id,
        "revision": revision,
        **transaction.born(JobState.QUEUED, Event.PLAN),
        **planned.parameters.as_columns(),
        "derivation_number": derivation_number,
        "deliver_to": list(planned.deliver_to),
        "verdict": planned.sentence,
        "created_at": transaction.now,
        "queued_at": transaction.now,
        "attempts": 0,
        "lease_token": 0,
        "sentence": "",
        "notes": [],
        "priority": planned.priority,
        "release": planned.release,
        "late": planned.late,
    }


def planned_job(row: AnyRow) -> PlannedJob:
    """Read what was pinned when the job was planned. Raises InputError where this version cannot read it."""
    return PlannedJob(
        parameters=DerivationParameters.from_columns(row._asdict()),
        deliver_to=tuple(row.deliver_to),
        sentence=row.verdict,
        priority=Priority(row.priority),
        release=Release(row.release),
        late=Late(row.late),
    )


def claimed_job(row: AnyRow, planned: PlannedJob, output: SeriesId) -> Job:
    """The row as the claim left it; ``output``: the series to fill."""
    return Job(
        id=JobId(row.id),
        series=SeriesId(row.series_id),
        revision=row.revision,
        output_series=output,
        planned=planned,
        derivation_number=row.derivation_number,
        created_at=row.created_at,
        attempts=row.attempts,
        lease_token=row.lease_token,
    )


def job_line(row: AnyRow) -> JobLine:
    """A job as an operator reads it."""
    return JobLine(
        id=row.id,
        state=row.state,
        series=row.series_id,
        revision=row.revision,
        rule=row.rule,
        model=row.model,
        model_digest=row.model_digest,
        ratio=row.ratio,
        parameters=row.parameters,
        derivation_number=row.derivation_number,
        release=row.release,
        output_series=row.output_series_id,
        attempts=row.attempts,
        reason=row.reason,
        sentence=row.sentence,
        created_at=row.created_at,
        finished_at=row.finished_at,
        seconds=row.seconds,
        notes=tuple(row.notes),
    )


def gate_figures(kept: Sequence[Mapping[str, Any]] | None) -> tuple[GateFigure, ...]:
    """What the result gate measured, as the job's row keeps it; nothing where the job is not done or is too old."""
    return tuple(GateFigure(**figure) for figure in kept or ())


# Instances.


def new_received_instance(one: StoredInstance, revision: int) -> dict[str, object]:
    """An instance that came in, with the revision of its series to which it belongs."""
    return {
        **_new_instance(one, one.series, revision, RECEIVED, one.received_at),
        "file": one.file,
        "peer": one.peer,
        "called_ae": one.called_ae,
    }


def new_derived_instance(one: DerivedInstance, claimed: Job, number: int, stored_at: datetime) -> dict[str, object]:
    """An instance that a job made, with its place in the series."""
    return {
        **_new_instance(one, claimed.output_series, 1, DERIVED, stored_at),
        "file": f"{claimed.output_series}/{one.file_name}",
        "job_id": claimed.id,
        "number": number,
    }


def _new_instance(
    one: StoredInstance | DerivedInstance, series_id: SeriesId, revision: int, origin: str, stored_at: datetime
) -> dict[str, object]:
    return {
        "id": one.id,
        "series_id": series_id,
        "revision": revision,
        "sop_class_uid": one.sop_class_uid,
        "sop_instance_uid": one.sop_instance_uid,
        "transfer_syntax_uid": one.transfer_syntax_uid,
        "size_bytes": one.size_bytes,
        "sha256": one.sha256,
        "origin": origin,
        "stored_at": stored_at,
    }


def known_instance(row: AnyRow) -> KnownInstance | None:
    """Map the columns of KNOWN_INSTANCE; None where an outer join found no instance."""
    if row.known_id is None:
        return None
    return KnownInstance(
        id=InstanceId(row.known_id),
        series=SeriesId(row.known_series_id),
        file=row.known_file,
        sha256=row.known_sha256,
        transfer_syntax_uid=row.known_transfer_syntax_uid,
        is_derived=row.known_origin != RECEIVED,
        is_removed=row.known_removed_at is not None,
    )


def archived_instance(row: AnyRow) -> ArchivedInstance:
    """An instance as settle and work read it."""
    return ArchivedInstance(
        id=InstanceId(row.id),
        file=row.file,
        sop_class_uid=row.sop_class_uid,
        sop_instance_uid=row.sop_instance_uid,
        transfer_syntax_uid=row.transfer_syntax_uid,
        size_bytes=row.size_bytes,
        sha256=row.sha256,
        is_removed=row.removed_at is not None,
        received_at=row.stored_at,
        called_ae=row.called_ae,
        peer=row.peer,
    )


def instance_line(row: AnyRow, *, identify: bool) -> InstanceLine:
    """An instance as an operator reads it."""
    return InstanceLine(
        file=row.file,
        revision=row.revision,
        size_bytes=row.size_bytes,
        sha256=row.sha256,
        peer=row.peer,
        stored_at=row.stored_at,
        removed_at=row.removed_at,
        sop_instance_uid=row.sop_instance_uid if identify else None,
    )


# Deliveries and their items.


def new_delivery(
    transaction: LedgerTransaction, cargo: Cargo, peer: str, *, cause: str, reason: str | None, sentence: str
) -> dict[str, object]:
    """A delivery that is due, or held where there is a reason."""
    return {
        "job_id": cargo.job,
        "series_id": cargo.series,
        "revision": cargo.revision,
        "priority": cargo.priority,
        "peer": peer,
        **transaction.born(DeliveryState.HELD if reason else DeliveryState.DUE, cause),
        "created_at": transaction.now,
        "next_at": transaction.now,
        "attempts": 0,
        "failures": 0,
        "lease_token": 0,
        "reason": reason,
        "sentence": sentence,
    }


def new_items(
    transaction: LedgerTransaction, delivery_id: DeliveryId, instances: Sequence[InstanceId], *, cause: str
) -> list[dict[str, object]]:
    """An item for each instance of a delivery, in their order."""
    item = {"delivery_id": delivery_id, "tries": 0, **transaction.born(ItemState.PENDING, cause)}
    return [{**item, "instance_id": one} for one in instances]


def cargo_of(row: AnyRow) -> Cargo:
    """What the delivery of a row brings."""
    return Cargo(
        series=SeriesId(row.series_id),
        revision=row.revision,
        job=None if row.job_id is None else JobId(row.job_id),
        priority=Priority(row.priority),
    )


def claimed_delivery(row: AnyRow) -> Delivery:
    """The row as the claim left it."""
    return Delivery(
        id=DeliveryId(row.id),
        job=None if row.job_id is None else JobId(row.job_id),
        peer=row.peer,
        attempts=row.attempts,
        failures=row.failures,
        lease_token=row.lease_token,
    )


def delivery_line(
    row: AnyRow, tally: Sequence[AnyRow], *, next_at: datetime | None, reason: str | None, sentence: str
) -> DeliveryLine:
    """Map a row that has ``commitment`` beside the columns.

    ``tally``: how many of its items have which state and status. ``next_at``, ``reason`` and ``sentence``: as they are
    with the peers of the settings.
    """
    return DeliveryLine(
        id=row.id,
        state=row.state,
        peer=row.peer,
        content=ORIGINALS if row.job_id is None else DERIVED,
        items=_items(tally, ItemState),
        acknowledged=_items(tally, (ItemState.ACKNOWLEDGED,)),
        refused=_items(tally, (ItemState.REFUSED,)),
        next_at=next_at,
        reason=reason,
        sentence=sentence,
        series=row.series_id,
        revision=row.revision,
        job=row.job_id,
        attempts=row.attempts,
        failures=row.failures,
        proof=row.proof,
        commitment=row.commitment,
        resends=row.resends,
        sent_at=row.sent_at,
        answers=tuple(
            AnswerLine(status=f"{part.status:04X}", state=part.state, items=part.items)
            for part in tally
            if part.status is not None
        ),
        created_at=row.created_at,
        changed_at=row.state_at,
    )


def _items(tally: Iterable[AnyRow], states: Iterable[ItemState]) -> int:
    wanted = set(states)
    return sum(part.items for part in tally if part.state in wanted)


def new_commitment(
    transaction: LedgerTransaction, delivery_id: DeliveryId, peer: str, *, cause: str
) -> dict[str, object]:
    """A request to be asked at once, under a Transaction UID that no other has."""
    return {
        "delivery_id": delivery_id,
        "peer": peer,
        "transaction_uid": f"2.25.{uuid.uuid4().int}",
        **transaction.born(CommitmentState.WANTED, cause),
        "created_at": transaction.now,
        "next_at": transaction.now,
        "failures": 0,
    }


def commitment(row: AnyRow, items: Iterable[AnyRow]) -> Commitment:
    """A request, with the columns of the instances that are to be proven."""
    return Commitment(
        id=CommitmentId(row.id),
        delivery=DeliveryId(row.delivery_id),
        transaction_uid=row.transaction_uid,
        is_asked=row.state == CommitmentState.ASKED,
        created_at=row.created_at,
        failures=row.failures,
        items=tuple(
            ProvenItem(file=one.file, sop_class_uid=one.sop_class_uid, sop_instance_uid=one.sop_instance_uid)
            for one in items
        ),
    )


def commitment_line(row: AnyRow, *, identify: bool) -> CommitmentLine:
    """A request as a person reads it."""
    return CommitmentLine(
        delivery=row.delivery_id,
        peer=row.peer,
        state=row.state,
        transaction_uid=row.transaction_uid if identify else None,
        created_at=row.created_at,
        asked_at=row.asked_at,
        changed_at=row.state_at,
    )


def pending_item(row: AnyRow, refusals: Collection[int]) -> DeliveryItem:
    """Map the columns of an item and its instance; ``refusals``: statuses with which it was refused before."""
    return DeliveryItem(
        id=ItemId(row.id),
        instance=InstanceId(row.instance_id),
        file=row.file,
        sop_class_uid=row.sop_class_uid,
        sop_instance_uid=row.sop_instance_uid,
        transfer_syntax_uid=row.transfer_syntax_uid,
        size_bytes=row.size_bytes,
        sha256=row.sha256,
        tries=row.tries,
        status=row.status,
        refusals=frozenset(refusals),
    )


# Files that were set aside.


def new_quarantine(
    transaction: LedgerTransaction, file: QuarantinedFile, series_id: SeriesId | None, finding: Finding | None
) -> dict[str, object]:
    """A file in the quarantine folder, with the series to which it belongs."""
    return {
        "file": file.file,
        "reason": file.reason,
        "sha256": file.sha256,
        "peer": file.peer,
        "instance_id": file.instance,
        "kept_sha256": file.kept_sha256,
        "at": transaction.now,
        "series_id": series_id,
        "finding": finding,
        "details": [],
    }


def unexamined(row: AnyRow) -> Unexamined:
    """Map a row that has ``is_stored`` and the columns of KNOWN_INSTANCE beside its own."""
    return Unexamined(
        id=QuarantineId(row.id),
        reason=QuarantineReason(row.reason),
        file=row.file,
        series=SeriesId(row.series_id),
        is_stored=row.is_stored,
        kept=known_instance(row),
    )


def quarantine_line(row: AnyRow) -> QuarantineLine:
    """Map a row that has ``kept_file`` and ``kept_series``, of the instance that was kept, beside the columns."""
    state = "harmless" if row.finding == Finding.SAME else "unseen" if row.seen_at is None else "seen"
    return QuarantineLine(
        id=row.id,
        state=state,
        file=row.file,
        reason=row.reason,
        finding=row.finding,
        details=tuple(row.details),
        peer=row.peer,
        sha256=row.sha256,
        kept_sha256=row.kept_sha256,
        kept_file=row.kept_file,
        kept_series=row.kept_series,
        series=row.series_id,
        at=row.at,
        seen_at=row.seen_at,
        removed_at=row.removed_at,
    )


# Models, starts of the service, events.


def new_model(transaction: LedgerTransaction, imported: ImportedModel) -> dict[str, object]:
    """A model that no rule gets yet."""
    lowest, highest = imported.ratios
    return {
        "name": imported.name,
        "digest": imported.digest,
        "kind": imported.kind,
        "lowest_ratio": lowest,
        "highest_ratio": highest,
        **transaction.born(ModelState.IMPORTED, "import"),
        "imported_at": transaction.now,
    }


def imported_model(row: AnyRow) -> ImportedModel:
    """A model as rules get it."""
    return ImportedModel(
        id=ModelId(row.id),
        name=row.name,
        digest=row.digest,
        kind=row.kind,
        ratios=(row.lowest_ratio, row.highest_ratio),
    )


def model_row(row: AnyRow) -> ModelRow:
    """A model as an operator reads it."""
    return ModelRow(
        id=row.id,
        name=row.name,
        digest=row.digest,
        kind=row.kind,
        ratios=(row.lowest_ratio, row.highest_ratio),
        state=row.state,
        place=row.place,
        imported_at=row.imported_at,
    )


def new_alert(transaction: LedgerTransaction, destination: str, condition: Condition) -> dict[str, object]:
    """An alert of which a destination is to be told."""
    return {
        **transaction.born(AlertState.RAISED, "raise"),
        "destination": destination,
        "name": condition.name,
        "sentence": condition.sentence,
        "is_error": condition.is_error,
        "number": condition.number,
        "first_at": transaction.now,
        "last_at": transaction.now,
        "sent_number": 0,
        "failure": "",
    }


def alert(row: AnyRow) -> Alert:
    """An alert as its sender reads it."""
    return Alert(
        id=row.id,
        name=row.name,
        state=AlertState(row.state),
        state_at=row.state_at,
        sentence=row.sentence,
        is_error=row.is_error,
        number=row.number,
        first_at=row.first_at,
        last_at=row.last_at,
        sent_at=row.sent_at,
        sent_number=row.sent_number,
    )


def event_line(row: AnyRow, row_id: int | None) -> EventLine:
    """Map a row with ``times``, how often it happened; ``row_id`` is None where it happened to several rows."""
    return EventLine(
        at=row.at,
        table=row.table_name,
        row=row_id,
        kind=row.kind,
        from_state=row.from_state,
        to_state=row.to_state,
        by=row.actor,
        detail=row.detail,
        count=row.times,
    )
