"""Files may be removed: an instance and a file that was set aside keep their rows, which say when that was.

Frozen. Never imports dicomnode. Two columns and an index; no table is rebuilt.
"""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

STATEMENTS = (
    "ALTER TABLE instance ADD COLUMN removed_at DATETIME",
    "CREATE INDEX instance_removed ON instance (series_id) WHERE removed_at IS NOT NULL",
    "ALTER TABLE quarantine ADD COLUMN removed_at DATETIME",
)


def upgrade() -> None:
    """Add the columns and the index."""
    for statement in STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
