"""What happens with the result of a job: delivered, held for review, or never sent; and that of a later revision.

Frozen. Never imports dicomnode. Jobs from before are delivered, and held after an earlier revision, as they always
were. No table is rebuilt, so their triggers stay.
"""

from __future__ import annotations

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

STATEMENTS = (
    "ALTER TABLE job ADD COLUMN release VARCHAR(16) DEFAULT 'auto' NOT NULL",
    "ALTER TABLE job ADD COLUMN late VARCHAR(16) DEFAULT 'hold' NOT NULL",
)


def upgrade() -> None:
    """Add the columns."""
    for statement in STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
