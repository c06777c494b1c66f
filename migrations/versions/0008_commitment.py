"""Storage commitment: requests to peers, which instances a peer committed to, and how often a delivery was sent again.

Frozen. Never imports dicomnode. Adds a table with its guards and two columns; no table is rebuilt, so their triggers
stay.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

STATEMENTS = (
    "ALTER TABLE delivery ADD COLUMN resends INTEGER DEFAULT 0 NOT NULL",
    "ALTER TABLE delivery_item ADD COLUMN committed_at DATETIME",
    """CREATE TABLE commitment (
    id INTEGER NOT NULL,
    delivery_id INTEGER NOT NULL,
    peer TEXT NOT NULL,
    transaction_uid VARCHAR(64) NOT NULL,
    state VARCHAR(16) NOT NULL,
    state_cause VARCHAR(32) NOT NULL,
    state_at DATETIME NOT NULL,
    state_by TEXT NOT NULL,
    state_detail TEXT NOT NULL,
    created_at DATETIME NOT NULL,
    next_at DATETIME NOT NULL,
    asked_at DATETIME,
    failures INTEGER NOT NULL,
    CONSTRAINT commitment_key PRIMARY KEY (id),
    CONSTRAINT commitment_transaction_once UNIQUE (transaction_uid),
    CONSTRAINT commitment_numbers CHECK (failures >= 0),
    CONSTRAINT commitment_asked_at CHECK (state <> 'asked' OR asked_at IS NOT NULL),
    CONSTRAINT commitment_of_delivery FOREIGN KEY(delivery_id) REFERENCES delivery (id)
)""",
    "CREATE INDEX commitment_delivery ON commitment (delivery_id)",
    "CREATE INDEX commitment_waiting ON commitment (next_at) WHERE state IN ('wanted', 'asked')",
    """CREATE TRIGGER commitment_born_legally BEFORE INSERT ON commitment
WHEN NOT EXISTS (
    SELECT 1 FROM transition WHERE table_name = 'commitment' AND from_state = '' AND to_state = NEW.state
)
BEGIN SELECT RAISE(ABORT, 'no row of commitment begins in this state'); END""",
    """CREATE TRIGGER commitment_moves_legally BEFORE UPDATE OF state ON commitment
WHEN NEW.state <> OLD.state AND NOT EXISTS (
    SELECT 1 FROM transition WHERE table_name = 'commitment' AND from_state = OLD.state AND to_state = NEW.state
)
BEGIN SELECT RAISE(ABORT, 'no such change of state of commitment'); END""",
    """CREATE TRIGGER commitment_moved AFTER UPDATE OF state ON commitment WHEN NEW.state <> OLD.state
BEGIN
    INSERT INTO event (at, table_name, row_id, kind, from_state, to_state, actor, detail) VALUES
    (NEW.state_at, 'commitment', NEW.id, NEW.state_cause, OLD.state, NEW.state, NEW.state_by, NEW.state_detail);
END""",
    """CREATE TRIGGER commitment_born AFTER INSERT ON commitment
BEGIN
    INSERT INTO event (at, table_name, row_id, kind, from_state, to_state, actor, detail) VALUES
    (NEW.state_at, 'commitment', NEW.id, NEW.state_cause, NULL, NEW.state, NEW.state_by, NEW.state_detail);
END""",
)

# (table, from, to); from the empty state: a birth.
TRANSITIONS = (
    ("commitment", "", "wanted"),
    ("commitment", "asked", "committed"),
    ("commitment", "asked", "failed"),
    ("commitment", "asked", "queried"),
    ("commitment", "asked", "replaced"),
    ("commitment", "asked", "unproven"),
    ("commitment", "failed", "committed"),
    ("commitment", "queried", "committed"),
    ("commitment", "queried", "failed"),
    ("commitment", "queried", "replaced"),
    ("commitment", "replaced", "committed"),
    ("commitment", "unproven", "committed"),
    ("commitment", "unproven", "failed"),
    ("commitment", "unproven", "replaced"),
    ("commitment", "wanted", "asked"),
    ("commitment", "wanted", "queried"),
    ("commitment", "wanted", "replaced"),
    ("commitment", "wanted", "unproven"),
    ("delivery", "sent", "due"),
    ("delivery", "sent", "held"),
    ("delivery_item", "acknowledged", "pending"),
)


def upgrade() -> None:
    """Make the table and the columns, and tell the ledger which changes of state there are."""
    connection = op.get_bind()
    for statement in STATEMENTS:
        connection.exec_driver_sql(statement)
    connection.execute(
        sa.text("INSERT INTO transition (table_name, from_state, to_state) VALUES (:t, :f, :s)"),
        [{"t": table, "f": source, "s": target} for table, source, target in TRANSITIONS],
    )
