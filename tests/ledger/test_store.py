"""Opening, booting, and what other processes and a failing disk do to the ledger."""

from __future__ import annotations

import re
import shutil
import sqlite3
import traceback
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import ClauseElement
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import IntegrityError

from dicomnode import seams
from dicomnode.errors import LedgerError
from dicomnode.ledger import engine, jobs, sending, verdicts
from dicomnode.ledger.engine import Database, LedgerBusyError, ReadingDatabase
from dicomnode.ledger.queries import open_reader
from dicomnode.ledger.schema import HEAD
from dicomnode.ledger.store import open_ledger
from tests.ledger.scene import FakeClock, Scene, new_uid, stored


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


def stamp(path: Path, version: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute("UPDATE alembic_version SET version_num = ?", (version,))
    connection.commit()
    connection.close()


def test_a_broken_constraint_shows_no_uid_in_what_is_logged_of_it(scene: Scene) -> None:
    series = scene.ledger.intake.series_for(new_uid())
    negative = replace(stored(series), size_bytes=-1)
    with pytest.raises(IntegrityError) as caught:
        scene.ledger.intake.accept([negative])
    shown = "".join(traceback.format_exception(caught.value))
    assert "CHECK constraint failed" in shown
    assert negative.sop_instance_uid not in shown


def test_a_fresh_ledger_is_made_with_a_uuid_of_its_own(tmp_path: Path) -> None:
    ledgers = [open_ledger(url_of(tmp_path / name)) for name in ("a.sqlite", "b.sqlite")]
    assert ledgers[0].node_uuid != ledgers[1].node_uuid
    for ledger in ledgers:
        ledger.close()


def test_the_uuid_of_the_node_stays(scene: Scene) -> None:
    again = open_ledger(url_of(scene.path))
    assert again.node_uuid == scene.ledger.node_uuid
    assert isinstance(again.node_uuid, uuid.UUID)
    again.close()


def test_the_file_is_in_wal_mode_and_each_writer_as_durable_as_it_must_be(scene: Scene) -> None:
    database = Database(url_of(scene.path))
    with database.transaction("test") as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2  # FULL
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar_one() == 1
    with database.transaction("test", is_relaxed=True) as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 1  # NORMAL
    database.close()


def test_an_older_ledger_is_refused_with_the_command_that_helps(scene: Scene) -> None:
    stamp(scene.path, "0000")
    for open_it in (open_ledger, open_reader):
        with pytest.raises(LedgerError, match="run `dicomnode db upgrade`"):
            open_it(url_of(scene.path))


def test_a_newer_ledger_is_refused_with_both_versions(scene: Scene) -> None:
    stamp(scene.path, "9999")
    for open_it in (open_ledger, open_reader):
        with pytest.raises(LedgerError, match=rf"9999.*{HEAD}"):
            open_it(url_of(scene.path))


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"not a database, but long enough to have a header of its own" * 100)
    before = path.read_bytes()
    for open_it in (open_ledger, open_reader):
        with pytest.raises(LedgerError, match="damaged or not a ledger"):
            open_it(url_of(path))
    assert path.read_bytes() == before


def test_a_damaged_page_is_found_before_a_service_begins(scene: Scene) -> None:
    for _ in range(20):
        scene.receive(images=10)
    scene.ledger.close()
    broken = bytearray(scene.path.read_bytes())
    place = len(broken) - 16384  # among the rows that came last: opening a ledger reads none of them
    broken[place : place + 8192] = b"\xff" * 8192
    scene.path.write_bytes(broken)
    ledger = open_ledger(url_of(scene.path))
    with pytest.raises(LedgerError, match="damaged"):
        ledger.boots.begin(pid=1, host="h")
    ledger.close()
    assert scene.path.read_bytes() == bytes(broken)


def test_the_database_of_something_else_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE patients (name TEXT)")
    connection.commit()
    connection.close()
    with pytest.raises(LedgerError, match="something else"):
        open_ledger(url_of(path))


def test_a_missing_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="cannot be opened"):
        open_ledger(url_of(tmp_path / "nowhere" / "ledger.sqlite"))


def test_a_missing_ledger_is_made_only_where_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with pytest.raises(LedgerError, match="no ledger"):
        open_reader(url_of(path))
    with pytest.raises(LedgerError, match="no ledger"):
        open_ledger(url_of(path), create=False)
    assert not path.exists()


@pytest.mark.parametrize(
    "url", ["postgresql://host/ledger", "sqlite://", "sqlite:///:memory:", "sqlite:////a?b/c", "nonsense"]
)
def test_a_url_that_names_no_file_is_refused(url: str) -> None:
    with pytest.raises(LedgerError, match="sqlite:////"):
        open_ledger(url)


def test_a_boot_knows_how_the_one_before_ended(scene: Scene) -> None:
    first = scene.ledger.boots.begin(pid=1, host="h")
    assert first.ended_cleanly
    scene.ledger.boots.end(first.boot)
    assert scene.ledger.boots.begin(pid=2, host="h").ended_cleanly
    assert not scene.ledger.boots.begin(pid=3, host="h").ended_cleanly


def test_after_a_kill_every_series_that_was_coming_in_is_given_the_longer_wait(scene: Scene) -> None:
    scene.ledger.boots.end(scene.ledger.boots.begin(pid=1, host="h").boot)
    cut, whole = scene.receive(), scene.settled()
    scene.ledger.boots.begin(pid=2, host="h")
    assert [one.aborted for one in scene.ledger.settling.receiving()] == [False], "an ordered stop cuts nothing off"
    scene.ledger.boots.begin(pid=3, host="h")
    assert [(one.id, one.aborted) for one in scene.ledger.settling.receiving()] == [(cut, True)]
    assert scene.state("series", whole) == "settled"


def test_another_process_that_keeps_the_ledger_locked_is_reported(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BUSY_TIMEOUT_S", 0.1)
    ledger = open_ledger(url_of(scene.path), clock=FakeClock())
    holder = sqlite3.connect(scene.path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerBusyError, match="Another process held the ledger"):
        ledger.intake.series_for(new_uid())
    assert ledger.settling.receiving() == []
    holder.execute("ROLLBACK")
    assert ledger.intake.series_for(new_uid()) == 1
    holder.close()
    ledger.close()


def test_a_transaction_has_the_write_lock_from_its_first_moment(scene: Scene) -> None:
    """One that reads first and takes the lock when it writes fails at once if somebody wrote in between."""
    other = sqlite3.connect(scene.path, isolation_level=None, timeout=0)
    database = Database(url_of(scene.path))
    with database.transaction("test"), pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("BEGIN IMMEDIATE")
    other.close()
    database.close()


def test_a_thread_that_keeps_its_turn_is_reported(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "BUSY_TIMEOUT_S", 0.1)
    database = Database(url_of(scene.path))
    with database.transaction("test"), pytest.raises(LedgerBusyError), database.transaction("test"):
        pass
    database.close()


def test_a_full_disk_writes_nothing_and_says_so(scene: Scene) -> None:
    """SQLite's own limit on pages fails as a full disk does."""
    series = scene.ledger.intake.series_for(new_uid())
    database = scene.ledger._access.database
    with database.transaction("test") as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(LedgerBusyError, match="disk did not take"):
        scene.ledger.intake.accept([stored(series) for _ in range(500)])
    assert scene.ledger.upkeep.files_in(str(series)) == set()
    with database.transaction("test") as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
    assert len(scene.ledger.intake.accept([stored(series)])) == 1


def test_a_reader_sees_what_was_committed_while_a_writer_writes(scene: Scene) -> None:
    scene.receive(images=3)
    database = Database(url_of(scene.path))
    reader = open_reader(url_of(scene.path))
    with database.transaction("test") as connection:
        connection.exec_driver_sql("UPDATE series SET aborted = 1")
        (line,) = reader.series_list()
        assert line.instances == 3
        assert not reader.series_show(line.id).aborted
    assert reader.series_show(line.id).aborted
    reader.close()
    database.close()


def test_an_answer_is_one_view_of_the_ledger(scene: Scene) -> None:
    series = scene.receive(images=1)
    reading = ReadingDatabase(url_of(scene.path))
    with reading.reading() as connection:
        question = "SELECT count(*) FROM instance"
        assert connection.exec_driver_sql(question).scalar_one() == 1
        scene.receive(series, images=1)
        assert connection.exec_driver_sql(question).scalar_one() == 1
    reading.close()


def test_a_reader_cannot_write(scene: Scene) -> None:
    scene.receive()
    reading = ReadingDatabase(url_of(scene.path))
    with pytest.raises(LedgerError, match="cannot be opened for writing"), reading.reading() as connection:
        connection.exec_driver_sql("DELETE FROM series")
    reading.close()


def test_a_cleanly_closed_ledger_opens_for_reading(scene: Scene) -> None:
    scene.receive(images=2)
    scene.ledger.close()
    assert not scene.path.with_name("ledger.sqlite-wal").exists()
    reader = open_reader(url_of(scene.path))
    assert [line.instances for line in reader.series_list()] == [2]
    reader.close()


@pytest.mark.parametrize("name", ["a b", "100%", "a#b", "ü"])
def test_a_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    ledger = open_ledger(url_of(folder / "ledger.sqlite"))
    assert ledger.intake.series_for(new_uid()) == 1
    assert ledger.settling.receiving() == []
    ledger.close()
    assert (folder / "ledger.sqlite").is_file()


def test_what_was_committed_survives_a_process_that_is_killed(scene: Scene, tmp_path: Path) -> None:
    """The files as ``kill -9`` leaves them: the write-ahead log not folded in, the shared memory gone."""
    series = scene.receive(images=3)
    scene.ledger.intake.mark_aborted([series])
    after = tmp_path / "after"
    after.mkdir()
    for name in ("ledger.sqlite", "ledger.sqlite-wal"):
        shutil.copyfile(scene.path.with_name(name), after / name)
    ledger = open_ledger(url_of(after / "ledger.sqlite"), clock=scene.clock)
    (line,) = ledger.settling.receiving()
    assert (line.instances, line.aborted) == (3, True)
    ledger.close()


class _Killed(BaseException):
    pass


@pytest.mark.parametrize(("moment", "kept"), [("ledger.accept_written", 0), ("ledger.accept_committed", 4)])
def test_a_batch_that_is_cut_off_is_there_whole_or_not_at_all(scene: Scene, moment: str, kept: int) -> None:
    series = scene.ledger.intake.series_for(new_uid())

    def die(name: str) -> None:
        if name == moment:
            raise _Killed

    seams.set_checkpoint_hook(die)
    try:
        with pytest.raises(_Killed):
            scene.ledger.intake.accept([stored(series) for _ in range(4)])
    finally:
        seams.set_checkpoint_hook(None)
    assert len(scene.ledger.upkeep.files_in(str(series))) == kept


def test_a_note_is_an_event_at_its_row(scene: Scene) -> None:
    series = scene.receive()
    scene.ledger.note("clock_stepped", table="series", row=series, detail="-3600 s")
    assert scene.ask("SELECT row_id, actor, detail FROM event WHERE kind = 'clock_stepped'") == [
        (series, "node", "-3600 s")
    ]


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        (jobs._CLAIM, "job_waiting"),
        (jobs._LEASE_LOST, "job_leased"),
        (sending._CLAIM, "delivery_waiting"),
        (sending._LEASE_LOST, "delivery_leased"),
        (verdicts._RECEIVING, "series_receiving"),
        (verdicts._SETTLED, "series_settled"),
    ],
)
def test_a_queue_is_read_through_its_index_however_long_the_history(
    scene: Scene, statement: ClauseElement, index: str
) -> None:
    """A partial index serves only a statement that spells the index's condition."""
    # A list of values is spelt out only when it is known: here it has one.
    words = re.sub(r"__\[POSTCOMPILE_\w+\]", "?", str(statement.compile(dialect=sqlite.dialect())))
    steps = scene.ask(f"EXPLAIN QUERY PLAN {words}", *[None] * words.count("?"))
    assert any(index in str(step) for step in steps), steps
    assert not any("TEMP B-TREE" in str(step) for step in steps), "the index has the order of the claims"
