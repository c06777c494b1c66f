"""Bring an older ledger up to this program's version; the only place that imports Alembic.

A migration is frozen once released and never imports dicomnode: it must do the same thing in ten years. Each one runs
in one transaction, so that a failed upgrade leaves the ledger as it was.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection

from dicomnode.errors import LedgerError, StorageError
from dicomnode.ledger.engine import (
    ReadingDatabase,
    copy_ledger,
    ledger_path,
    migration_connection,
    require_known,
    schema_version,
)
from dicomnode.ledger.schema import HEAD

_PACKAGE: Final = Path(__file__).resolve().parents[1]


def upgrade(url: str) -> tuple[str | None, str]:
    """Upgrade the ledger, or make one; return its version before (None: it was empty) and after.

    An older one is copied first (``copy_path``), in the place of the copy of an earlier upgrade.
    """
    with migration_connection(url) as connection:
        before = schema_version(connection)
        connection.rollback()
        if before is not None and before != HEAD:
            require_known(before, ledger_path(url))
            _keep_copy(url)
        if before != HEAD:
            run_migrations(connection, HEAD)
    return before, HEAD


def copy_path(url: str) -> Path:
    """Return where the ledger is kept as it was before its last upgrade."""
    path = ledger_path(url)
    return path.with_name(f"{path.name}.before-upgrade")


def current(url: str) -> str | None:
    """Return the ledger's version; None where there is no ledger yet."""
    if not ledger_path(url).is_file():
        return None
    database = ReadingDatabase(url)
    try:
        with database.reading() as connection:
            return schema_version(connection)
    finally:
        database.close()


def run_migrations(connection: Connection, target: str) -> None:
    """Apply the migrations up to the target, one transaction each."""
    config = Config()
    # Alembic takes "%" in an option for interpolation.
    config.set_main_option("script_location", str(_folder()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, target)
    except CommandError as exc:
        raise LedgerError(f"The ledger cannot be upgraded to {target}: {exc}.") from exc


def _keep_copy(url: str) -> None:
    try:
        copy_ledger(ledger_path(url), copy_path(url))
    except OSError as exc:
        raise StorageError(
            f"The ledger could not be copied to {copy_path(url)} before its upgrade: {exc.strerror}; it is unchanged.",
            hint="Make room on the disk that holds it, and run the command again.",
        ) from exc


def _folder() -> Path:
    """Return the folder of the migrations: in a wheel it lies in the package, in a checkout beside it."""
    places = (_PACKAGE / "migrations", _PACKAGE.parent / "migrations")
    for place in places:
        if (place / "env.py").is_file():
            return place
    raise LedgerError(
        f"The migrations of the ledger are missing; looked in {places[0]} and {places[1]}.",
        hint="Install dicomnode again.",
    )
