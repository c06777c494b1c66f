"""One transaction under way: its moment, the name of the actor, and the events that it records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, Update, insert

from dicomnode.ledger.schema import events
from dicomnode.ledger.statements import AnyRow, bind_values
from dicomnode.ledger.states import State

NODE: Final = "node"  # the actor when nobody asked


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerTransaction:
    """An open transaction, its moment, and its actor."""

    connection: Connection
    now: datetime
    by: str = NODE

    def move(self, statement: Update, /, detail: str = "", **values: object) -> int:
        """Run a statement that ``moving`` began; return the number of rows to which the event happened.

        The trigger writes the row of ``event``, from the state columns.
        """
        return self.connection.execute(statement, self._binds(detail, values)).rowcount

    def take(self, statement: Update, /, **values: object) -> AnyRow | None:
        """Run a statement that ``moving`` began and that returns the one row that it moved; None: it moved none."""
        row: AnyRow | None = self.connection.execute(statement, self._binds("", values)).one_or_none()
        return row

    def note(self, kind: str, *, table: str, row: int, detail: str = "") -> None:
        """Record an event of a row that does not change its state."""
        self.note_each(kind, table=table, rows=[row], detail=detail)

    def note_each(self, kind: str, *, table: str, rows: Sequence[int], detail: str = "") -> None:
        """Record the same event for each of these rows, of which there is at least one."""
        happened = {"at": self.now, "table_name": table, "kind": kind, "actor": self.by, "detail": detail}
        self.connection.execute(insert(events), [{**happened, "row_id": row} for row in rows])

    def born(self, state: State, cause: str) -> dict[str, object]:
        """Return the state columns of a new row."""
        return {"state": state, "state_cause": cause, "state_at": self.now, "state_by": self.by, "state_detail": ""}

    def _binds(self, detail: str, values: dict[str, object]) -> dict[str, object]:
        return bind_values(now=self.now, by=self.by, detail=detail, **values)
