"""What was set aside belongs to a series, is looked at, and is seen by a person.

Frozen. Never imports dicomnode. The table of files set aside is made anew, with its rows; it has no trigger, and no
other table refers to it. Self-contained but for its number: it needs nothing of 0002.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

STATEMENTS = (
    """ALTER TABLE quarantine RENAME TO quarantine_before""",
    """CREATE TABLE quarantine (
    id INTEGER NOT NULL,
    file TEXT NOT NULL,
    reason VARCHAR(16) NOT NULL,
    sha256 VARCHAR(64) NOT NULL,
    peer TEXT NOT NULL,
    instance_id BIGINT,
    kept_sha256 VARCHAR(64),
    at DATETIME NOT NULL,
    series_id INTEGER,
    finding VARCHAR(16),
    details JSON NOT NULL,
    seen_at DATETIME,
    CONSTRAINT quarantine_key PRIMARY KEY (id),
    CONSTRAINT quarantine_reason
        CHECK (reason IN ('conflict', 'other_encoding', 'header', 'uid', 'orphan', 'altered')),
    CONSTRAINT quarantine_finding
        CHECK (finding IN ('same', 'other_series', 'other_identity', 'other_content', 'not_compared', 'not_stored')),
    CONSTRAINT quarantine_beside FOREIGN KEY(instance_id) REFERENCES instance (id),
    CONSTRAINT quarantine_of_series FOREIGN KEY(series_id) REFERENCES series (id)
)""",
    # The series of an older row is read from its file at the next start of the service.
    """INSERT INTO quarantine (id, file, reason, sha256, peer, instance_id, kept_sha256, at, details)
SELECT id, file, reason, sha256, peer, instance_id, kept_sha256, at, '[]' FROM quarantine_before""",
    """DROP TABLE quarantine_before""",
    """CREATE INDEX quarantine_series ON quarantine (series_id) WHERE series_id IS NOT NULL""",
    """CREATE INDEX quarantine_instance ON quarantine (instance_id) WHERE instance_id IS NOT NULL""",
    """CREATE INDEX quarantine_unexamined ON quarantine (series_id) WHERE series_id IS NOT NULL AND finding IS NULL""",
    """CREATE INDEX quarantine_unseen ON quarantine (reason, peer) WHERE seen_at IS NULL""",
)


def upgrade() -> None:
    """Make the table anew, and tell the ledger that a delivery that is due may be held."""
    connection = op.get_bind()
    for statement in STATEMENTS:
        connection.exec_driver_sql(statement)
    connection.execute(
        sa.text("INSERT INTO transition (table_name, from_state, to_state) VALUES ('delivery', 'due', 'held')")
    )
