"""Series that were pulled from a peer are told from those that were sent.

Frozen. Never imports dicomnode. What is there was sent. No table is rebuilt, so their triggers stay.
"""

from __future__ import annotations

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.get_bind().exec_driver_sql("ALTER TABLE series ADD COLUMN pulled BOOLEAN")
