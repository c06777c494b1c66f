"""Two tables for the facts that a verdict yields about the scanner of a series.

Frozen. Never imports dicomnode. Series that were judged before have no row: their headers are not read again.
"""

from __future__ import annotations

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

STATEMENTS = (
    """CREATE TABLE protocol (
    id INTEGER NOT NULL,
    peer TEXT NOT NULL,
    station TEXT NOT NULL,
    serial TEXT NOT NULL,
    name TEXT NOT NULL,
    CONSTRAINT protocol_key PRIMARY KEY (id),
    CONSTRAINT protocol_once UNIQUE (peer, station, serial, name)
)""",
    """CREATE TABLE judgement (
    series_id INTEGER NOT NULL,
    protocol_id INTEGER NOT NULL,
    at DATETIME NOT NULL,
    week INTEGER NOT NULL,
    reason VARCHAR(32) NOT NULL,
    slices INTEGER NOT NULL,
    missing INTEGER NOT NULL,
    spacing_mm FLOAT,
    thickness_mm FLOAT,
    clock_s FLOAT,
    CONSTRAINT judgement_key PRIMARY KEY (series_id),
    CONSTRAINT judgement_of_series FOREIGN KEY(series_id) REFERENCES series (id),
    CONSTRAINT judgement_protocol FOREIGN KEY(protocol_id) REFERENCES protocol (id)
)""",
    "CREATE INDEX judgement_protocol ON judgement (protocol_id, week)",
    "CREATE INDEX judgement_week ON judgement (week)",
)


def upgrade() -> None:
    """Make the two tables."""
    for statement in STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
