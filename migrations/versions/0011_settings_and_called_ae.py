"""Which settings a service runs with, the AE title that the sender of an instance called, the study of a series.

Frozen. Never imports dicomnode. Adds columns that may be empty; no table is rebuilt, so their triggers stay.
"""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

STATEMENTS = (
    "ALTER TABLE boot ADD COLUMN settings_file TEXT",
    "ALTER TABLE boot ADD COLUMN settings_sha256 VARCHAR(64)",
    "ALTER TABLE boot ADD COLUMN settings_at DATETIME",
    "ALTER TABLE boot ADD COLUMN settings_restart JSON",
    "ALTER TABLE boot ADD COLUMN settings_tried_at DATETIME",
    "ALTER TABLE boot ADD COLUMN settings_fault TEXT",
    "ALTER TABLE instance ADD COLUMN called_ae VARCHAR(16)",
    "ALTER TABLE series ADD COLUMN study_uid VARCHAR(64)",
    "CREATE INDEX series_study ON series (study_uid) WHERE study_uid IS NOT NULL",
)


def upgrade() -> None:
    """Add the columns."""
    for statement in STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
