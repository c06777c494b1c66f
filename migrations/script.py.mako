"""${message}

Frozen once released. Never imports dicomnode. ``batch_alter_table`` drops the triggers of the table: make them again.
"""

from __future__ import annotations

from alembic import op

revision = ${repr(up_revision)}  # four digits, the last + 1; raise schema.HEAD with it
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Say what changes for a ledger that is in use."""
    op.execute("")
