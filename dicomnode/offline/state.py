"""The state file of a run over many series: an SQLite database with one row for each series.

In: the series that were found, and what became of each. Out: the next series to derive, and the rows for people. What
decides the bytes of the results is in the file before the first of them is written, and is never changed: the choices
of the run (model, archive and so on), the namespace of the derived UIDs, and for each series the moment at which its
derivation began first. So a run that was killed can be continued to the same bytes as one that was not.

One process at a time opens the file; the caller sees to that.

| state | meaning | next |
|---|---|---|
| waiting | not derived yet | any other |
| made | all files are on the disk, and their folder gets its name now | derived |
| derived | the folder is there | |
| refused | the series cannot be derived; another try would end the same way | |
| unreadable | a file could not be read | waiting, when the run is continued |
| failed | the model failed, or the process ended several times | waiting, when the run is continued |
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Final, Self

from dicomnode.errors import StorageError
from dicomnode.ids import digest

STATE_FILE: Final = "infer.sqlite"  # in the folder of the run
SERIES_A_FOLDER: Final = 1000  # more names in one folder are slow to list on many disks
ATTEMPTS: Final = 3  # a series during which the process ended so often may be the cause of it
_HINT: Final = "See that the disk has room and may be written to. The same command goes on."

_SCHEMA: Final = (
    "CREATE TABLE run (choices TEXT NOT NULL, namespace TEXT NOT NULL, passed_over TEXT NOT NULL)",
    """
    CREATE TABLE series (
        id INTEGER PRIMARY KEY,
        state TEXT NOT NULL,
        folder TEXT NOT NULL,
        files TEXT NOT NULL,
        stamp TEXT NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        began_at TEXT,
        reason TEXT NOT NULL DEFAULT '',
        sentence TEXT NOT NULL DEFAULT '',
        result TEXT
    )
    """,
    "CREATE INDEX next ON series (attempts, id) WHERE state = 'waiting'",
)


class State(StrEnum):
    """The states of a series in a run."""

    WAITING = "waiting"
    MADE = "made"
    DERIVED = "derived"
    REFUSED = "refused"
    UNREADABLE = "unreadable"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A series as it was found, before any of it is derived."""

    paths: tuple[Path, ...]
    stamp: str  # tells whether the files have changed since
    fault: str = ""  # a sentence: why the series cannot be used


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A series to be derived now."""

    id: int
    paths: tuple[Path, ...]
    stamp: str
    began_at: datetime  # at its first attempt
    attempts: int  # this one among them


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The figures of a derived series."""

    thick: int  # slices
    thin: int
    ratio: int
    slice_spacing_mm: float
    thin_spacing_mm: float
    network_share: float | None
    notes: tuple[str, ...]
    gate: tuple[str, ...]
    seconds: float

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The figures as they are kept in the file."""
        fields = json.loads(text)
        return cls(**{**fields, "notes": tuple(fields["notes"]), "gate": tuple(fields["gate"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One series, as it is printed."""

    id: int
    state: State
    reason: str  # one word; empty for a series that was derived or waits
    sentence: str
    first: Path  # the first of its files
    images: int
    began_at: datetime | None
    result: Result | None  # None: not derived
    out: Path | None  # its folder; None: not derived

    @property
    def thin(self) -> int | None:
        """The number of thin slices."""
        return None if self.result is None else self.result.thin

    @property
    def trouble(self) -> str:
        """The reason why the series was not derived, or the findings of the result gate; "" where there is neither."""
        return self.sentence or ("; ".join(self.result.gate) if self.result else "")


class StateFileError(StorageError):
    """The state file cannot be read or written: the run ends."""


class StateFile:
    """The open state file of a folder. Each method that writes is one transaction, on the disk when it returns.

    Several threads may use it; one at a time does.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._path = out / STATE_FILE
        # Transactions are begun here in so many words. A rollback journal, not WAL: archives lie on network disks.
        self._database = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        self._lock = threading.RLock()
        with self._in_words():
            self._database.execute("PRAGMA synchronous = EXTRA")

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    @property
    def is_listed(self) -> bool:
        """Does the file hold the series of the run?"""
        with self._in_words():
            found = self._database.execute("SELECT 1 FROM sqlite_master WHERE name = 'run'").fetchone()
        return found is not None

    def list_series(self, choices: Mapping[str, object], found: Iterable[Found], *, passed_over: Iterable[str]) -> None:
        """Begin a run: keep its choices, a new namespace and all its series."""
        with self._transaction() as database:
            for statement in _SCHEMA:
                database.execute(statement)
            values = (json.dumps(choices), str(uuid.uuid4()), json.dumps(list(passed_over)))
            database.execute("INSERT INTO run VALUES (?, ?, ?)", values)
            database.executemany(
                "INSERT INTO series (state, folder, files, stamp, reason, sentence) VALUES (?, ?, ?, ?, ?, ?)",
                map(_columns, found),
            )

    def choices(self) -> dict[str, object]:
        """The choices with which the run was begun."""
        choices: dict[str, object] = json.loads(self._one("SELECT choices FROM run"))
        return choices

    def namespace(self) -> uuid.UUID:
        """The namespace of the derived UIDs."""
        return uuid.UUID(self._one("SELECT namespace FROM run"))

    def passed_over(self) -> list[str]:
        """A line for each reason for which files were passed over."""
        lines: list[str] = json.loads(self._one("SELECT passed_over FROM run"))
        return lines

    def folder(self, number: int) -> Path:
        """The place of the derived series with this id."""
        return self._out / f"{number // SERIES_A_FOLDER:03}" / f"{number:06}"

    def take_up(self) -> None:
        """Prepare the rows for a run that goes on: settle what a killed process left, let failures be tried again."""
        with self._transaction() as database:
            database.execute(
                "UPDATE series SET state = 'waiting', attempts = 0, reason = '', sentence = '' "
                "WHERE state IN ('unreadable', 'failed')"
            )
            for (number,) in database.execute("SELECT id FROM series WHERE state = 'made'").fetchall():
                state = State.DERIVED if self.folder(number).is_dir() else State.WAITING
                database.execute("UPDATE series SET state = ? WHERE id = ?", (state, number))
            sentence = f"The process ended {ATTEMPTS} times while it derived this series; is there enough memory?"
            database.execute(
                "UPDATE series SET state = 'failed', reason = 'killed', sentence = ? "
                "WHERE state = 'waiting' AND attempts >= ?",
                (sentence, ATTEMPTS),
            )

    def next_task(self, now: datetime, *, only_new: bool = False) -> Task | None:
        """Begin an attempt at the next series that waits; None: there is none. ``only_new``: at one without an attempt.

        Series come in order of their ids, but those during which the process ended come last.
        """
        with self._transaction() as database:
            found = database.execute(
                "SELECT id, folder, files, stamp FROM series WHERE state = 'waiting' AND (attempts = 0 OR NOT ?) "
                "ORDER BY attempts, id LIMIT 1",
                (only_new,),
            ).fetchone()
            if found is None:
                return None
            number, folder, files, stamp = found
            began_at, attempts = database.execute(
                "UPDATE series SET attempts = attempts + 1, began_at = coalesce(began_at, ?) WHERE id = ? "
                "RETURNING began_at, attempts",
                (now.isoformat(), number),
            ).fetchone()
        return Task(
            id=number, paths=_paths(folder, files), stamp=stamp, began_at=datetime.fromisoformat(began_at),
            attempts=attempts,
        )  # fmt: skip

    def give_back(self, number: int) -> None:
        """Take the attempt back: the user ended it."""
        self._write("UPDATE series SET attempts = attempts - 1 WHERE id = ? AND state = 'waiting'", number)

    def made(self, number: int, result: Result) -> None:
        """Keep the result of a series whose files are on the disk, before its folder gets its name."""
        self._write("UPDATE series SET state = 'made', result = ? WHERE id = ?", json.dumps(asdict(result)), number)

    def derived(self, number: int) -> None:
        """The folder of the series is there."""
        self._write("UPDATE series SET state = 'derived' WHERE id = ?", number)

    def not_derived(self, number: int, state: State, reason: str, sentence: str) -> None:
        """The series was not derived."""
        self._write(
            "UPDATE series SET state = ?, reason = ?, sentence = ? WHERE id = ?", state, reason, sentence, number
        )

    def counts(self) -> dict[State, int]:
        """Count the series of each state; states without any are left out."""
        with self._in_words():
            found = self._database.execute("SELECT state, count(*) FROM series GROUP BY state").fetchall()
        counts = {State(state): count for state, count in found}
        return {state: counts[state] for state in State if state in counts}

    def rows(self) -> Iterator[Row]:
        """Every series, by its id."""
        with self._in_words():
            for number, state, reason, sentence, folder, files, began_at, result in self._database.execute(
                "SELECT id, state, reason, sentence, folder, files, began_at, result FROM series ORDER BY id"
            ):
                paths, is_derived = _paths(folder, files), state == State.DERIVED
                yield Row(
                    id=number, state=State(state), reason=reason, sentence=sentence, first=paths[0],
                    images=len(paths), began_at=None if began_at is None else datetime.fromisoformat(began_at),
                    result=Result.from_json(result) if is_derived else None,
                    out=self.folder(number) if is_derived else None,
                )  # fmt: skip

    def _one(self, statement: str) -> str:
        with self._in_words():
            (value,) = self._database.execute(statement).fetchone()
        return str(value)

    def _write(self, statement: str, *values: str | int) -> None:
        with self._transaction() as database:
            changed = database.execute(statement, values).rowcount
            assert changed <= 1, "a row at a time"

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._in_words():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:  # SQLite ends it by itself when the disk is full
                    self._database.execute("ROLLBACK")
                raise

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        except sqlite3.Error as exc:
            raise StateFileError(f"The state file {self._path} cannot be used: {exc}.", hint=_HINT) from exc


def stamp_of(paths: Iterable[Path]) -> str:
    """Sizes and times of change of the files, in one text. Raises OSError."""
    seen = [(status.st_size, status.st_mtime_ns) for path in paths for status in (path.stat(),)]
    return digest(repr(seen).encode())


def _columns(found: Found) -> tuple[str, str, str, str, str, str]:
    folder = os.path.commonpath([path.parent for path in found.paths])
    names = [os.path.relpath(path, folder) for path in found.paths]
    # JSON is ASCII here, so a file name keeps bytes that are not UTF-8.
    state, reason = (State.REFUSED, "fault") if found.fault else (State.WAITING, "")
    return state, json.dumps(folder), json.dumps(names), found.stamp, reason, found.fault


def _paths(folder: str, files: str) -> tuple[Path, ...]:
    place = Path(json.loads(folder))
    return tuple(place / name for name in json.loads(files))
