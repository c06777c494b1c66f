"""An operator's cancel, and lists that stay quick.

Frozen. Never imports dicomnode. Adds changes of state, and widens an index by the peer, so that "what did this peer
send?" is answered from the index alone. No table is rebuilt, so their triggers stay.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

STATEMENTS = (
    "DROP INDEX instance_series",
    "CREATE INDEX instance_series ON instance (series_id, revision, peer)",
)

# (table, from, to). What is due or held could be cancelled before: by something newer.
TRANSITIONS = (
    ("delivery", "cancelled", "due"),
    ("delivery", "sending", "cancelled"),
    ("job", "running", "cancelled"),
)


def upgrade() -> None:
    """Tell the ledger of the new changes of state, and make the index anew."""
    connection = op.get_bind()
    for statement in STATEMENTS:
        connection.exec_driver_sql(statement)
    connection.execute(
        sa.text("INSERT INTO transition (table_name, from_state, to_state) VALUES (:t, :f, :s)"),
        [{"t": table, "f": source, "s": target} for table, source, target in TRANSITIONS],
    )
