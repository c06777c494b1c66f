"""Rows of table ``quarantine``: files that were set aside."""

from __future__ import annotations

from dicomnode.ids import QuarantineId, SeriesId
from dicomnode.ledger.mapping.instance import known_instance_of
from dicomnode.ledger.statements import AnyRow
from dicomnode.ledger.transaction import LedgerTransaction
from dicomnode.ledger.values import Finding, QuarantinedFile, QuarantineReason, Unexamined
from dicomnode.ledger.views import QuarantineLine


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


def unexamined_of(row: AnyRow) -> Unexamined:
    """Map a row that has ``is_stored`` and the columns of KNOWN_INSTANCE beside its own."""
    return Unexamined(
        id=QuarantineId(row.id),
        reason=QuarantineReason(row.reason),
        file=row.file,
        series=SeriesId(row.series_id),
        is_stored=row.is_stored,
        kept=known_instance_of(row),
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
