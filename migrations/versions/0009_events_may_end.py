"""Rows of event may be removed once they are 183 days old, as ``ledger.keep_events_days`` asks for.

Frozen. Never imports dicomnode. One trigger is replaced by another; no table is touched.
"""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0007"
branch_labels = None
depends_on = None

STATEMENTS = (
    "DROP TRIGGER event_is_never_deleted",
    """CREATE TRIGGER event_is_kept BEFORE DELETE ON event
WHEN OLD.at > strftime('%Y-%m-%d %H:%M:%f', 'now', '-183 days')
BEGIN SELECT RAISE(ABORT, 'a row of event is kept for 183 days'); END""",
)


def upgrade() -> None:
    """Replace the trigger."""
    for statement in STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
