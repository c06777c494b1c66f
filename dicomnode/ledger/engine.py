"""The connections to one ledger: how transactions begin, how durable they are, and how failures are reported.

SQLite's own waiting for a lock is a poll without order, so the threads of one process queue at a lock of ours, and
SQLite's busy timeout is left for other processes. Each write transaction begins IMMEDIATE: one that read first and
wrote later would fail at once when another process had written in between, whatever the timeout (SQLITE_BUSY_SNAPSHOT).
Readers have an engine of their own, because that listener would make a SELECT take the write lock too.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError
from sqlalchemy.pool import QueuePool

from dicomnode.durable import growing_file
from dicomnode.errors import LedgerError
from dicomnode.ledger.schema import HEAD, node
from dicomnode.seams import checkpoint

BUSY_TIMEOUT_S: Final = 10.0  # docs/protocol.md#answers-to-c-store: a ledger locked for longer is answered A700
READERS: Final = 8  # connections kept; more are opened while they are needed


class LedgerBusyError(LedgerError):
    """The ledger is locked, or its disk is full: a later try may succeed, so a sender is asked to try again."""

    code = "ledger_busy"


class CheckStoppedError(LedgerError):
    """The check of all pages was stopped before its end."""


class Database:
    """One ledger file, for every thread of this process."""

    def __init__(self, url: str) -> None:
        self.path = ledger_path(url)
        self._turn = threading.Lock()
        self._writer = _Writer(self.path, "FULL")
        # An acknowledgement that a power cut takes back costs one repeat of the same bytes
        # (docs/protocol.md#sending-again).
        self._relaxed_writer = _Writer(self.path, "NORMAL")
        self._reader = _reading_engine(self.path)
        self._check_lock = threading.Lock()
        self._checking: sqlite3.Connection | None = None

    @contextmanager
    def transaction(self, name: str, *, is_relaxed: bool = False) -> Iterator[Connection]:
        """Commit everything inside together, or nothing of it; ``name`` is part of the names of its two checkpoints."""
        if not self._turn.acquire(timeout=BUSY_TIMEOUT_S):
            raise LedgerBusyError(f"The ledger was busy for {BUSY_TIMEOUT_S:.0f} s; nothing was written.")
        try:
            writer = self._relaxed_writer if is_relaxed else self._writer
            with _failures_in_words(self.path), writer.begin() as connection:
                yield connection
                checkpoint(f"ledger.{name}_written")
        finally:
            self._turn.release()
        checkpoint(f"ledger.{name}_committed")

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open one consistent view: what is committed meanwhile is not seen."""
        with _failures_in_words(self.path), self._reader.connect() as connection, connection.begin():
            yield connection

    def check(self) -> None:
        """Check every page of the file, which takes seconds for each GB. Raises LedgerError for a damaged page.

        Raises CheckStoppedError where another thread ends it.
        """
        with self.reading() as connection:
            driver = connection.connection.driver_connection
            assert isinstance(driver, sqlite3.Connection)
            with self._check_lock:
                self._checking = driver
            try:
                require_sound(connection, self.path)
            finally:
                with self._check_lock:  # from now on an interrupt would hit another question
                    self._checking = None

    def stop_check(self) -> None:
        """Stop a check of all pages that runs in another thread; do nothing where none runs."""
        with self._check_lock:
            if self._checking is not None:
                self._checking.interrupt()

    def size_bytes(self) -> int:
        """Return the size of the file, without what is still in the write-ahead log."""
        try:
            return self.path.stat().st_size
        except OSError as exc:
            raise LedgerError(f"The ledger {self.path} cannot be looked at: {exc.strerror}.") from exc

    def close(self) -> None:
        """Close the connections, readers first: the last writer to close folds the write-ahead log into the file."""
        self._reader.dispose()
        self._relaxed_writer.close()
        self._writer.close()


class _Writer:
    """The writing connection. It is kept, since to take it from the pool and return it costs a transaction's time."""

    def __init__(self, path: Path, synchronous: str) -> None:
        self._engine = _engine(path, synchronous)
        self._kept: Connection | None = None

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """Commit everything inside together, or nothing of it. One thread at a time."""
        connection, self._kept = self._kept or self._engine.connect(), None
        try:
            with connection.begin():
                yield connection
        except BaseException:
            connection.close()  # which rolls back what a commit that failed has left open
            raise
        self._kept = connection

    def close(self) -> None:
        """Close the connection."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None
        self._engine.dispose()


class ReadingDatabase:
    """A ledger that is only read, while its service runs or afterwards: nothing can be written through this."""

    def __init__(self, url: str) -> None:
        self.path = ledger_path(url)
        require_file(self.path)
        self._reader = _reading_engine(self.path)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open one consistent view: what is committed meanwhile is not seen."""
        with _failures_in_words(self.path), self._reader.connect() as connection, connection.begin():
            yield connection

    def close(self) -> None:
        """Give the connections back."""
        self._reader.dispose()


def ledger_path(url: str) -> Path:
    """Return the file that a ``sqlite:////path`` names."""
    try:
        parsed = make_url(url)
    except ArgumentError as exc:
        raise LedgerError("The ledger's URL cannot be read; it looks like sqlite:////path/to/ledger.sqlite.") from exc
    is_file = bool(parsed.database) and parsed.database != ":memory:" and "?" not in url
    if parsed.get_backend_name() != "sqlite" or not is_file:
        raise LedgerError("A ledger is a SQLite file for now; its URL looks like sqlite:////path/to/ledger.sqlite.")
    return Path(parsed.database or "").absolute()


def require_usable(url: str, *, is_folder_made: bool) -> bool:
    """Could a service open this ledger for writing? True: it would make a new one. Nothing is made here.

    ``is_folder_made``: the service makes the folder first. Raises LedgerError with what the service would say.
    """
    path = ledger_path(url)
    if is_folder_made and not path.parent.is_dir():
        return True
    is_there = path.is_file()
    may_write = path.parent.is_dir() and os.access(path.parent, os.W_OK | os.X_OK)
    if not may_write or path.is_dir() or (is_there and not os.access(path, os.R_OK | os.W_OK)):
        raise _not_to_be_opened(path)
    if not is_there:
        return True
    with closing(ReadingDatabase(url)) as database, database.reading() as connection:
        return schema_version(connection) is None


def require_sound(connection: Connection, path: Path) -> None:
    """Raise LedgerError where pages of the file are damaged."""
    if connection.execute(text("PRAGMA quick_check(1)")).scalar_one() != "ok":
        raise _damaged(path)


def require_file(path: Path) -> None:
    """Refuse to look into, or to make, a ledger where nobody expects one."""
    if not path.is_file():
        raise LedgerError(f"There is no ledger at {path}.", hint="`dicomnode serve` makes one when it starts.")


def schema_version(connection: Connection) -> str | None:
    """Return the number of the last migration, None for an empty database. Raises LedgerError for a foreign one."""
    tables = set(connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'table'")).scalars())
    if not tables:
        return None
    if "alembic_version" not in tables:
        raise LedgerError(
            "The database holds tables of something else and is not touched.", hint="Name another file in `ledger.url`."
        )
    version = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    if version is None:
        raise LedgerError("The ledger does not say its version and is not touched.")
    return str(version)


def node_uuid(connection: Connection) -> str:
    """Return the node's own UUID."""
    return str(connection.execute(select(node.c.uuid)).scalar_one())


def require_head(version: str, path: Path) -> None:
    """Refuse a ledger that this program does not understand."""
    if version < HEAD:
        raise LedgerError(
            f"The ledger {path} has version {version}, this program needs {HEAD}: run `dicomnode db upgrade`.",
            hint="Stop the node and write a backup first; an upgrade cannot be undone.",
        )
    require_known(version, path)


def require_known(version: str, path: Path) -> None:
    """Refuse a ledger that a newer program wrote."""
    if version > HEAD:
        raise LedgerError(
            f"The ledger {path} has version {version}, this program knows only up to {HEAD}; nothing was touched.",
            hint="Install the newer dicomnode that wrote it, or restore the ledger from before the upgrade.",
        )


@contextmanager
def migration_connection(url: str) -> Iterator[Connection]:
    """Open a connection for migrations: each of its transactions is IMMEDIATE and durable like the writer's."""
    path = ledger_path(url)
    engine = _engine(path, "FULL")
    try:
        with _failures_in_words(path), engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def copy_ledger(path: Path, target: Path) -> None:
    """Copy a ledger, also one that a service writes to, as it is at one moment; the copy is flushed and sound.

    Raises LedgerError where the ledger is missing or damaged, and OSError where the copy cannot be written.
    """
    require_file(path)
    with growing_file(target) as growing:
        try:
            with (
                closing(sqlite3.connect(_read_only(path), uri=True, timeout=BUSY_TIMEOUT_S)) as source,
                closing(sqlite3.connect(growing)) as copy,
            ):
                source.backup(copy)  # in one step, as one reader: it keeps no writer waiting
                copy.execute("PRAGMA journal_mode = DELETE")  # one file, readable on a disk that is mounted read-only
                is_sound = copy.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
        except sqlite3.Error as exc:
            if exc.sqlite_errorcode & 0xFF == sqlite3.SQLITE_FULL:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from exc
            raise _in_words(exc, path) from exc
        if not is_sound:
            raise _damaged(path)


def _engine(path: Path, synchronous: str) -> Engine:
    """Return an engine with one connection, which the threads use in turn. Its logged errors show no UID."""

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute("PRAGMA foreign_keys = ON")
        return connection

    return _beginning(
        "BEGIN IMMEDIATE",
        create_engine(
            "sqlite://", creator=connect, poolclass=QueuePool, pool_size=1, max_overflow=0, hide_parameters=True
        ),
    )


def _reading_engine(path: Path) -> Engine:
    def connect() -> sqlite3.Connection:
        return sqlite3.connect(
            _read_only(path), uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )

    engine = create_engine(
        "sqlite://", creator=connect, poolclass=QueuePool, pool_size=READERS, max_overflow=-1, hide_parameters=True
    )
    return _beginning("BEGIN", engine)


def _read_only(path: Path) -> str:
    return f"file:{quote(str(path))}?mode=ro"


def _beginning(statement: str, engine: Engine) -> Engine:
    """Have each transaction begin with this statement, since Python's driver begins none (``isolation_level`` None)."""

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(statement)

    return engine


@contextmanager
def _failures_in_words(path: Path) -> Iterator[None]:
    """Turn errors of the database driver into LedgerError, but not a broken constraint, which is our own mistake."""
    try:
        yield
    except IntegrityError:
        raise
    except DBAPIError as exc:
        raise _in_words(exc.orig, path) from exc


def _in_words(cause: BaseException | None, path: Path) -> LedgerError:
    code = getattr(cause, "sqlite_errorcode", 0) & 0xFF  # the primary code; the rest says more about it
    match code:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return LedgerBusyError(
                f"Another process held the ledger {path} for more than {BUSY_TIMEOUT_S:.0f} s; nothing was written.",
                hint="Look for a backup or another dicomnode command that is still running.",
            )
        case sqlite3.SQLITE_FULL | sqlite3.SQLITE_IOERR:
            return LedgerBusyError(
                f"The disk did not take what had to be written to the ledger {path}; nothing was written.",
                hint="Make room on the disk that holds it.",
            )
        case sqlite3.SQLITE_INTERRUPT:
            return CheckStoppedError(f"The check of the ledger {path} was ended before it was through.")
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return LedgerError(
                f"The ledger {path} is damaged or not a ledger; nothing in it was changed.",
                hint="Stop the node, set its data folder aside, and put the last backup back: `dicomnode db restore`.",
            )
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_AUTH:
            return _not_to_be_opened(path)
        case _:
            return LedgerError(f"The ledger {path} failed: {cause}.")


def _damaged(path: Path) -> LedgerError:
    return LedgerError(
        f"The ledger {path} is damaged; nothing in it was changed.",
        hint="Stop the node, set its data folder aside, and put the last backup back: `dicomnode db restore`.",
    )


def _not_to_be_opened(path: Path) -> LedgerError:
    return LedgerError(
        f"The ledger {path} cannot be opened for writing.", hint="Does its folder exist, and may this user write there?"
    )
