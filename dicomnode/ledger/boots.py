"""Starts of the service, and which settings each of them uses."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, insert, select, update

from dicomnode.ledger.schema import boot
from dicomnode.ledger.transaction import LedgerTransaction
from dicomnode.ledger.values import BootId
from dicomnode.ledger.views import BootLine, SettingsLine

TAKEN: Final = "settings_taken"  # events of a start
REFUSED: Final = "settings_refused"

_LAST: Final = select(boot).order_by(boot.c.id.desc()).limit(1)
_LAST_CLEAN_STOP: Final = (
    select(boot.c.ended_at).where(boot.c.ended_at.is_not(None)).order_by(boot.c.id.desc()).limit(1)
)


def ended_cleanly(connection: Connection) -> bool:
    """Did the service stop in order after its last start? True also where it never started."""
    row = connection.execute(_LAST).one_or_none()
    return row is None or row.ended_at is not None


def last_clean_stop(connection: Connection) -> datetime | None:
    """Return when the service stopped in order for the last time. None: never."""
    moment: datetime | None = connection.execute(_LAST_CLEAN_STOP).scalar_one_or_none()
    return moment


def begin(transaction: LedgerTransaction, *, pid: int, host: str) -> BootId:
    """Record a start of the service."""
    new = {"pid": pid, "host": host, "began_at": transaction.now}
    return BootId(transaction.connection.execute(insert(boot).returning(boot.c.id), new).scalar_one())


def end(transaction: LedgerTransaction, ended: BootId) -> None:
    """Record that the service stops in order."""
    transaction.connection.execute(update(boot).where(boot.c.id == ended).values(ended_at=transaction.now))


def take_settings(
    transaction: LedgerTransaction, of: BootId, *, file: str | None, sha256: str, restart: Sequence[str], at: datetime
) -> None:
    """Record which settings the service uses from now on. ``at``: when it began to read them."""
    used = {"settings_file": file, "settings_sha256": sha256, "settings_at": at, "settings_restart": list(restart)}
    statement = update(boot).where(boot.c.id == of).values(**used, settings_tried_at=at, settings_fault=None)
    transaction.connection.execute(statement)
    transaction.note(TAKEN, table=boot.name, row=of, detail=", ".join(restart))


def refuse_settings(transaction: LedgerTransaction, of: BootId, *, fault: str, at: datetime) -> None:
    """Record why the service goes on with the settings that it has."""
    transaction.connection.execute(
        update(boot).where(boot.c.id == of).values(settings_tried_at=at, settings_fault=fault)
    )
    transaction.note(REFUSED, table=boot.name, row=of, detail=fault)


def last(connection: Connection) -> BootLine | None:
    """Return the last start as an operator reads it."""
    row = connection.execute(_LAST).one_or_none()
    if row is None:
        return None
    return BootLine(id=row.id, pid=row.pid, host=row.host, began_at=row.began_at, ended_at=row.ended_at)


def last_settings(connection: Connection) -> SettingsLine | None:
    """Return the settings that the last start uses. None: it is older than the columns."""
    row = connection.execute(_LAST).one_or_none()
    if row is None or row.settings_at is None:
        return None
    return SettingsLine(
        file=row.settings_file,
        sha256=row.settings_sha256,
        taken_at=row.settings_at,
        restart=tuple(row.settings_restart or ()),
        tried_at=row.settings_tried_at,
        fault=row.settings_fault or "",
    )
