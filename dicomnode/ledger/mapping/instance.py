"""Rows of table ``instance``: instances that came, and instances that jobs made."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from dicomnode.derivation import DerivedInstance
from dicomnode.ids import InstanceId, SeriesId
from dicomnode.ledger.schema import DERIVED, RECEIVED, instance
from dicomnode.ledger.statements import AnyRow
from dicomnode.ledger.values import ArchivedInstance, Job, KnownInstance, StoredInstance
from dicomnode.ledger.views import InstanceLine

# The columns that ``known_instance_of`` reads; labelled, because other tables of a query have columns of these names.
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


def known_instance_of(row: AnyRow) -> KnownInstance | None:
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
