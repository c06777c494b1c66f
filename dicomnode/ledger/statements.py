"""Helpers to write the statements of the ledger: their parameters, and the statement that changes a state.

A parameter bears a prefix. SQLAlchemy takes a parameter with the name of a column for the new value of that column, so
a statement could not ask for a row by the same word that it sets.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import BindParameter, ColumnElement, FromClause, Row, Table, Update, bindparam, literal_column, update
from sqlalchemy.dialects import sqlite
from sqlalchemy.types import TypeEngine

from dicomnode.ledger.states import Event, State, step

AnyRow = Row[*tuple[object, ...]]  # what a statement returns; its columns are read by their names

NO_LEASE: Final[dict[str, object]] = {"lease_owner": None, "lease_until": None}  # nobody holds the row

_PREFIX: Final = "b_"


def bound(name: str, type_: TypeEngine[object] | None = None, *, is_list: bool = False) -> BindParameter[object]:
    """Return a parameter of a statement; ``bind_values`` gives it its value."""
    return bindparam(f"{_PREFIX}{name}", type_=type_, expanding=is_list)


def bind_values(**values: object) -> dict[str, object]:
    """Return the values of the parameters of a statement.

    >>> bind_values(series=7)
    {'b_series': 7}
    """
    return {f"{_PREFIX}{name}": value for name, value in values.items()}


def insert_if_new(table: Table) -> sqlite.Insert:
    """Return an insert that does nothing where a unique column has the value already.

    This is the only statement that SQLAlchemy spells per database; PostgreSQL's has the same words.
    """
    return sqlite.insert(table).on_conflict_do_nothing()


def stands(table: FromClause, *states: State) -> ColumnElement[bool]:
    """Is a row in one of these states?

    Spelt out, not bound: SQLite uses a partial index only for a statement that says the index's condition itself.
    """
    spelt: list[ColumnElement[str]] = [literal_column(f"'{state}'") for state in states]
    return table.c.state == spelt[0] if len(spelt) == 1 else table.c.state.in_(spelt)


def moving(table: Table, event: Event) -> Update:
    """Return the guarded update for an event: a row changes only if it is in a state where the event may happen.

    Its own parameters are ``now``, ``by`` and ``detail``; a transaction gives them their values.
    """
    sources, target = step(table.name, event)
    return (
        update(table)
        .where(stands(table, *sources))
        .values(
            state=target,
            state_cause=event,
            state_at=bound("now"),
            state_by=bound("by"),
            state_detail=bound("detail"),
        )
    )
