"""Imported models.

Frozen. Never imports dicomnode. Adds a table with its guards; no other table is touched, so their triggers stay.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

STATEMENTS = (
    """CREATE TABLE model (
    id INTEGER NOT NULL,
    name VARCHAR(32) NOT NULL,
    digest VARCHAR(64) NOT NULL,
    kind VARCHAR(16) NOT NULL,
    lowest_ratio INTEGER NOT NULL,
    highest_ratio INTEGER NOT NULL,
    state VARCHAR(16) NOT NULL,
    state_cause VARCHAR(32) NOT NULL,
    state_at DATETIME NOT NULL,
    state_by TEXT NOT NULL,
    state_detail TEXT NOT NULL,
    imported_at DATETIME NOT NULL,
    place INTEGER,
    CONSTRAINT model_key PRIMARY KEY (id),
    CONSTRAINT model_digest_once UNIQUE (digest),
    CONSTRAINT model_place_once UNIQUE (place),
    CONSTRAINT model_state CHECK (state IN ('imported', 'active', 'replaced', 'withdrawn')),
    CONSTRAINT model_digest CHECK (length(digest) = 64),
    CONSTRAINT model_ratios CHECK (lowest_ratio >= 2 AND highest_ratio >= lowest_ratio),
    CONSTRAINT model_has_place CHECK ((state IN ('active', 'replaced')) = (place IS NOT NULL)),
    CONSTRAINT model_of_no_weights CHECK (name <> 'cubic-dc')
)""",
    """CREATE UNIQUE INDEX model_active_once ON model (name) WHERE state = 'active'""",
    """CREATE TRIGGER model_born_legally BEFORE INSERT ON model
WHEN NOT EXISTS (
    SELECT 1 FROM transition WHERE table_name = 'model' AND from_state = '' AND to_state = NEW.state
)
BEGIN SELECT RAISE(ABORT, 'no row of model begins in this state'); END""",
    """CREATE TRIGGER model_moves_legally BEFORE UPDATE OF state ON model
WHEN NEW.state <> OLD.state AND NOT EXISTS (
    SELECT 1 FROM transition
    WHERE table_name = 'model' AND from_state = OLD.state AND to_state = NEW.state
)
BEGIN SELECT RAISE(ABORT, 'no such change of state of model'); END""",
    """CREATE TRIGGER model_moved AFTER UPDATE OF state ON model WHEN NEW.state <> OLD.state
BEGIN
    INSERT INTO event (at, table_name, row_id, kind, from_state, to_state, actor, detail) VALUES
    (NEW.state_at, 'model', NEW.id, NEW.state_cause, OLD.state, NEW.state, NEW.state_by, NEW.state_detail);
END""",
    """CREATE TRIGGER model_born AFTER INSERT ON model
BEGIN
    INSERT INTO event (at, table_name, row_id, kind, from_state, to_state, actor, detail) VALUES
    (NEW.state_at, 'model', NEW.id, NEW.state_cause, NULL, NEW.state, NEW.state_by, NEW.state_detail);
END""",
)

# (table, from, to); from the empty state: a birth.
TRANSITIONS = (
    ("model", "", "imported"),
    ("model", "active", "replaced"),
    ("model", "active", "withdrawn"),
    ("model", "imported", "active"),
    ("model", "replaced", "active"),
    ("model", "withdrawn", "active"),
)


def upgrade() -> None:
    """Make the table, its index and triggers, and tell the ledger which changes of state there are."""
    connection = op.get_bind()
    for statement in STATEMENTS:
        connection.exec_driver_sql(statement)
    connection.execute(
        sa.text("INSERT INTO transition (table_name, from_state, to_state) VALUES (:t, :f, :s)"),
        [{"t": table, "f": source, "s": target} for table, source, target in TRANSITIONS],
    )
