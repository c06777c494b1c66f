"""States, reasons and proofs that may grow, and priorities.

Frozen. Never imports dicomnode. Cuts every CHECK that repeats which values an enumeration has: the triggers refuse a
state that ``transition`` does not know, and each later state would otherwise make its table anew. Jobs and deliveries
get a priority, which leads in the order of the claims.

A CHECK has no trace in the rows, so it is cut out of the words of its table in ``sqlite_master`` inside the
transaction, as SQLite's page on ALTER TABLE describes for this case. No row of a table that grows with each image is
copied, and triggers, indexes and references stay as they are.
"""

from __future__ import annotations

import re

import sqlalchemy as sa
from alembic import op
from alembic.util import CommandError

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# What is cut from each table. A ledger that its program made and one that came by migrations differ in white space.
CUT = {
    "series": (r"CONSTRAINT series_state\s+CHECK \(state IN \([^()]*\)\),\s*",),
    "job": (r"CONSTRAINT job_state\s+CHECK \(state IN \([^()]*\)\),\s*", r" DEFAULT 1(?=,)"),
    "delivery": (
        r"CONSTRAINT delivery_state\s+CHECK \(state IN \([^()]*\)\),\s*",
        r"CONSTRAINT delivery_proof\s+CHECK \(proof IN \([^()]*\)\),\s*",
        r" DEFAULT 1(?=,)",
    ),
    "delivery_item": (r"CONSTRAINT item_state\s+CHECK \(state IN \([^()]*\)\),\s*",),
    "model": (r"CONSTRAINT model_state\s+CHECK \(state IN \([^()]*\)\),\s*",),
    "quarantine": (
        r"CONSTRAINT quarantine_reason\s+CHECK \(reason IN \([^()]*\)\),\s*",
        r"CONSTRAINT quarantine_finding\s+CHECK \(finding IN \([^()]*\)\),\s*",
    ),
}

PRIORITIES = (
    # The default is cut below: a program that forgets the priority is to be refused. It is written into each row first.
    "ALTER TABLE job ADD COLUMN priority INTEGER NOT NULL DEFAULT 1",
    "ALTER TABLE delivery ADD COLUMN priority INTEGER NOT NULL DEFAULT 1",
    "UPDATE job SET priority = 1",
    "UPDATE delivery SET priority = 1",
    "DROP INDEX job_waiting",
    "DROP INDEX delivery_waiting",
    "CREATE INDEX job_waiting ON job (priority, queued_at, id) WHERE state = 'queued'",
    "CREATE INDEX delivery_waiting ON delivery (peer, priority, next_at, id) WHERE state = 'due'",
)


def upgrade() -> None:
    """Add the priorities, then cut the lists of values."""
    connection = op.get_bind()
    for statement in PRIORITIES:
        connection.exec_driver_sql(statement)
    columns = {table: _columns(connection, table) for table in CUT}
    version = connection.exec_driver_sql("PRAGMA schema_version").scalar_one()
    connection.exec_driver_sql("PRAGMA writable_schema = ON")
    try:
        for table, patterns in CUT.items():
            _cut(connection, table, patterns)
        # Every connection, this one too, reads the words of the tables again when this number has changed.
        connection.exec_driver_sql(f"PRAGMA schema_version = {version + 1}")
    finally:
        connection.exec_driver_sql("PRAGMA writable_schema = OFF")
    if {table: _columns(connection, table) for table in CUT} != columns:
        raise CommandError("the columns of a table changed with its CHECKs; nothing was written")


def _cut(connection: sa.Connection, table: str, patterns: tuple[str, ...]) -> None:
    words = connection.execute(
        sa.text("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = :t"), {"t": table}
    ).scalar_one()
    for pattern in patterns:
        words, times = re.subn(pattern, "", words)
        if times != 1:
            raise CommandError(f"the table {table} is not as 0004 left it; nothing was written")
    connection.execute(
        sa.text("UPDATE sqlite_master SET sql = :s WHERE type = 'table' AND name = :t"), {"s": words, "t": table}
    )


def _columns(connection: sa.Connection, table: str) -> list[tuple[object, ...]]:
    """Names, types, NOT NULL and the place in the key; the default may go."""
    rows = connection.exec_driver_sql(f"PRAGMA table_info({table})")
    return [(row.name, row.type, row.notnull, row.pk) for row in rows]
