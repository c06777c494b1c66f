"""Deliveries of a series as it was received: they belong to a revision and to no job.

Frozen. Never imports dicomnode. Each delivery gets the series and the revision of its job, and the job may be empty.
What the rows cannot show (NOT NULL, a foreign key) is changed in the words of the table in ``sqlite_master`` inside the
transaction, as SQLite's page on ALTER TABLE describes: the table is not rebuilt, so its triggers stay.
"""

from __future__ import annotations

import re

import sqlalchemy as sa
from alembic import op
from alembic.util import CommandError

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

STATEMENTS = (
    "ALTER TABLE delivery ADD COLUMN series_id INTEGER",
    "ALTER TABLE delivery ADD COLUMN revision INTEGER",
    """UPDATE delivery SET (series_id, revision) =
    (SELECT series_id, revision FROM job WHERE job.id = delivery.job_id)""",
    "CREATE INDEX delivery_series ON delivery (series_id)",
    """CREATE UNIQUE INDEX delivery_originals_once ON delivery (series_id, revision, peer)
WHERE job_id IS NULL""",
    "DROP TRIGGER delivery_of_done_job",
    """CREATE TRIGGER delivery_of_done_job BEFORE INSERT ON delivery
WHEN NEW.job_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM job WHERE id = NEW.job_id AND state = 'done')
BEGIN SELECT RAISE(ABORT, 'only a done job is delivered'); END""",
)

# In the words of the table; a ledger that its program made and one that came by migrations differ in white space.
CHANGES = (
    (r"\bjob_id INTEGER NOT NULL", "job_id INTEGER"),
    (r"\bseries_id INTEGER\b", "series_id INTEGER NOT NULL"),
    (r"\brevision INTEGER\b", "revision INTEGER NOT NULL"),
    (
        r"\s*\)\s*$",
        ",\n    CONSTRAINT delivery_of_series FOREIGN KEY(series_id) REFERENCES series (id)\n)",
    ),
)


def upgrade() -> None:
    """Fill the new columns, then change the words of the table."""
    connection = op.get_bind()
    for statement in STATEMENTS:
        connection.exec_driver_sql(statement)
    version = connection.exec_driver_sql("PRAGMA schema_version").scalar_one()
    connection.exec_driver_sql("PRAGMA writable_schema = ON")
    try:
        words = connection.execute(
            sa.text("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = 'delivery'")
        ).scalar_one()
        for pattern, replacement in CHANGES:
            words, times = re.subn(pattern, replacement, words)
            if times != 1:
                raise CommandError("the table delivery is not as 0013 left it; nothing was written")
        connection.execute(
            sa.text("UPDATE sqlite_master SET sql = :s WHERE type = 'table' AND name = 'delivery'"), {"s": words}
        )
        # Every connection, this one too, reads the words of the tables again when this number has changed.
        connection.exec_driver_sql(f"PRAGMA schema_version = {version + 1}")
    finally:
        connection.exec_driver_sql("PRAGMA writable_schema = OFF")
    if connection.exec_driver_sql("PRAGMA foreign_key_check(delivery)").all():
        raise CommandError("a delivery has no series; nothing was written")
