"""Rows of table ``event``."""

from __future__ import annotations

from dicomnode.ledger.statements import AnyRow
from dicomnode.ledger.views import EventLine


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
