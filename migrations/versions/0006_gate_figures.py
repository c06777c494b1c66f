"""The figures of the result gate, kept with the job.

Frozen. Never imports dicomnode. A job that was done before has none. No table is rebuilt, so their triggers stay.
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.get_bind().exec_driver_sql("ALTER TABLE job ADD COLUMN figures JSON")
