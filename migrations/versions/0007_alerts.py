"""Alerts: what people are told of, at which destination, and whether they have been told.

Frozen. Never imports dicomnode. Adds a table with its guards; no other table is touched, so their triggers stay.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

STATEMENTS = (
    """CREATE TABLE alert (
    id INTEGER NOT NULL,
    destination VARCHAR(16) NOT NULL,
    name TEXT NOT NULL,
    state VARCHAR(16) NOT NULL,
    state_cause VARCHAR(32) NOT NULL,
    state_at DATETIME NOT NULL,
    state_by TEXT NOT NULL,
    state_detail TEXT NOT NULL,
    sentence TEXT NOT NULL,
    is_error BOOLEAN NOT NULL,
    number INTEGER NOT NULL,
    first_at DATETIME NOT NULL,
    last_at DATETIME NOT NULL,
    sent_at DATETIME,
    sent_number INTEGER NOT NULL,
    failing_since DATETIME,
    failure TEXT NOT NULL,
    CONSTRAINT alert_key PRIMARY KEY (id),
    CONSTRAINT alert_sent_at CHECK (state NOT IN ('sent', 'closed') OR sent_at IS NOT NULL)
)""",
    "CREATE UNIQUE INDEX alert_open_once ON alert (destination, name) WHERE state IN ('raised', 'sent', 'ended')",
    """CREATE TRIGGER alert_born_legally BEFORE INSERT ON alert
WHEN NOT EXISTS (
    SELECT 1 FROM transition WHERE table_name = 'alert' AND from_state = '' AND to_state = NEW.state
)
BEGIN SELECT RAISE(ABORT, 'no row of alert begins in this state'); END""",
    """CREATE TRIGGER alert_moves_legally BEFORE UPDATE OF state ON alert
WHEN NEW.state <> OLD.state AND NOT EXISTS (
    SELECT 1 FROM transition WHERE table_name = 'alert' AND from_state = OLD.state AND to_state = NEW.state
)
BEGIN SELECT RAISE(ABORT, 'no such change of state of alert'); END""",
    """CREATE TRIGGER alert_moved AFTER UPDATE OF state ON alert WHEN NEW.state <> OLD.state
BEGIN
    INSERT INTO event (at, table_name, row_id, kind, from_state, to_state, actor, detail) VALUES
    (NEW.state_at, 'alert', NEW.id, NEW.state_cause, OLD.state, NEW.state, NEW.state_by, NEW.state_detail);
END""",
    """CREATE TRIGGER alert_born AFTER INSERT ON alert
BEGIN
    INSERT INTO event (at, table_name, row_id, kind, from_state, to_state, actor, detail) VALUES
    (NEW.state_at, 'alert', NEW.id, NEW.state_cause, NULL, NEW.state, NEW.state_by, NEW.state_detail);
END""",
)

# (table, from, to); from the empty state: a birth.
TRANSITIONS = (
    ("alert", "", "raised"),
    ("alert", "ended", "closed"),
    ("alert", "ended", "raised"),
    ("alert", "raised", "ended"),
    ("alert", "raised", "sent"),
    ("alert", "sent", "ended"),
    ("alert", "sent", "raised"),
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
