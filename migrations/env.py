"""Alembic's entry: run the migrations on the connection that ``dicomnode.ledger.migrate`` hands in.

There is no alembic.ini and no autogenerate: a migration is written by hand, and a test compares what it makes with a
fresh ledger.
"""

from __future__ import annotations

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    # Alembic believes that SQLite cannot undo DDL, because Python's driver commits before it; ours does not.
    transactional_ddl=True,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
