"""One transaction under way, and the only statement that changes a state."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import ColumnElement, Connection, FromClause, Table, Update, bindparam, insert, literal_column, update
from sqlalchemy.dialects import sqlite

from dicomnode.ledger.schema import events
from dicomnode.ledger.states import Event, State, step

NODE: Final = "node"  # who acts when nobody asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """A business act: its open transaction, its moment, and who acts."""

    connection: Connection
    now: datetime
    by: str = NODE

    def move(self, statement: Update, /, detail: str = "", **parameters: object) -> int:
        """Run a statement that ``moving`` began; how many rows the event happened to.

        The trigger writes the row of ``event``, from the state columns.
        """
        given = {"now": self.now, "by": self.by, "detail": detail, **parameters}
        return self.connection.execute(statement, given).rowcount

    def note(self, kind: str, *, table: str, row: int, detail: str = "") -> None:
        """Write down what happened to a row without changing its state."""
        self.connection.execute(
            insert(events),
            {"at": self.now, "table_name": table, "row_id": row, "kind": kind, "actor": self.by, "detail": detail},
        )

    def born(self, state: State, cause: str) -> dict[str, object]:
        """The state columns of a new row."""
        return {"state": state, "state_cause": cause, "state_at": self.now, "state_by": self.by, "state_detail": ""}


def insert_if_new(table: Table) -> sqlite.Insert:
    """An insert that does nothing where a unique column has the value already.

    The one statement that SQLAlchemy spells per database; PostgreSQL's has the same words.
    """
    return sqlite.insert(table).on_conflict_do_nothing()


def stands(table: FromClause, *states: State) -> ColumnElement[bool]:
    """Is a row in one of these states?

    Spelt out, not bound: SQLite uses a partial index only for a statement that says the index's condition itself.
    """
    spelt: list[ColumnElement[str]] = [literal_column(f"'{state}'") for state in states]
    return table.c.state == spelt[0] if len(spelt) == 1 else table.c.state.in_(spelt)


def moving(table: Table, event: Event) -> Update:
    """The guarded update for an event: no row changes that is not in a state where the event may happen.

    Its own parameters are ``now``, ``by`` and ``detail``; those that a caller adds must not be called like a column
    of the table, or SQLAlchemy would set that column.
    """
    sources, target = step(table.name, event)
    return (
        update(table)
        .where(stands(table, *sources))
        .values(
            state=target,
            state_cause=event,
            state_at=bindparam("now"),
            state_by=bindparam("by"),
            state_detail=bindparam("detail"),
        )
    )
