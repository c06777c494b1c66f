"""Migrations: a migrated ledger is a fresh one, a failed one is the old one, and the number is Alembic's head."""

from __future__ import annotations

import ast
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from dicomnode.errors import LedgerError, StorageError
from dicomnode.ids import SeriesId
from dicomnode.ledger import migrate
from dicomnode.ledger.engine import migration_connection
from dicomnode.ledger.judgements import Judgement
from dicomnode.ledger.queries import open_reader
from dicomnode.ledger.schema import HEAD
from dicomnode.ledger.states import TRANSITIONS
from dicomnode.ledger.store import open_ledger
from dicomnode.ledger.values import Condition, Examined, Finding, ImportedModel, Priority

MIGRATIONS = Path(__file__).parents[2] / "migrations"


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


def shape(path: Path) -> dict[tuple[str, str], str]:
    """Every table, index and trigger with its words; white space says nothing in SQL."""
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
    connection.close()
    return {(kind, name): " ".join((sql or "").split()) for kind, name, sql in rows}


def contents(path: Path, table: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path)
    rows = connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2, 3").fetchall()  # noqa: S608 (our own names)
    connection.close()
    return rows


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    path = tmp_path / "fresh.sqlite"
    open_ledger(url_of(path)).close()
    return path


def test_a_migrated_ledger_is_a_fresh_one(tmp_path: Path, fresh: Path) -> None:
    migrated = tmp_path / "migrated.sqlite"
    assert migrate.upgrade(url_of(migrated)) == (None, HEAD)
    assert shape(migrated) == shape(fresh)
    assert contents(migrated, "transition") == contents(fresh, "transition")
    assert len(migrate_uuid(migrated)) == 36


def migrate_uuid(path: Path) -> str:
    connection = sqlite3.connect(path)
    ((uuid,),) = connection.execute("SELECT uuid FROM node").fetchall()
    connection.close()
    return str(uuid)


def test_a_migrated_ledger_opens(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    migrate.upgrade(url_of(path))
    ledger = open_ledger(url_of(path))
    assert str(ledger.node_uuid) == migrate_uuid(path)
    assert ledger.intake.series_for("1.2.3") == 1
    ledger.close()


def test_the_number_that_serve_compares_is_the_head_of_the_migrations() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    script = ScriptDirectory.from_config(config)
    assert script.get_heads() == [HEAD]
    numbers = [revision.revision for revision in script.walk_revisions()]
    assert numbers == sorted(numbers, reverse=True), "versions are compared as text: each is the last one plus 1"
    assert all(len(number) == 4 and number.isdigit() for number in numbers)


@pytest.mark.parametrize("path", sorted(MIGRATIONS.rglob("*.py")), ids=lambda path: path.name)
def test_a_migration_never_imports_the_program_of_its_day(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    imported += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [name for name in imported if name.split(".")[0] == "dicomnode"]


def test_current_is_none_before_there_is_a_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    assert migrate.current(url_of(path)) is None
    assert not path.exists()


def test_current_tells_the_version_while_a_service_has_it_open(tmp_path: Path) -> None:
    url = url_of(tmp_path / "ledger.sqlite")
    ledger = open_ledger(url)
    assert migrate.current(url) == HEAD
    ledger.close()


def test_upgrading_twice_changes_nothing(fresh: Path) -> None:
    before = shape(fresh), contents(fresh, "node")
    assert migrate.upgrade(url_of(fresh)) == (HEAD, HEAD)
    assert (shape(fresh), contents(fresh, "node")) == before


def test_a_newer_ledger_is_not_upgraded(fresh: Path) -> None:
    connection = sqlite3.connect(fresh)
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    with pytest.raises(LedgerError, match=rf"9999.*{HEAD}"):
        migrate.upgrade(url_of(fresh))
    assert migrate.current(url_of(fresh)) == "9999"


def test_an_upgrade_that_breaks_off_leaves_the_ledger_as_it_was(tmp_path: Path) -> None:
    """A table that stands in the way of a late statement: everything before it is undone too."""
    path = tmp_path / "ledger.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE delivery_item (x)")
    connection.close()
    before = shape(path)
    with pytest.raises(LedgerError, match="delivery_item"), migration_connection(url_of(path)) as migrating:
        migrate.run_migrations(migrating, HEAD)
    left = {entry for entry in shape(path) if entry[1] not in ("alembic_version", "sqlite_autoindex_alembic_version_1")}
    assert left == before.keys()


def test_a_version_that_no_migration_knows_is_one_sentence(fresh: Path) -> None:
    connection = sqlite3.connect(fresh)
    connection.execute("UPDATE alembic_version SET version_num = '0000'")
    connection.commit()
    connection.close()
    with pytest.raises(LedgerError, match="0000"):
        migrate.upgrade(url_of(fresh))


def test_missing_migrations_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "_PACKAGE", tmp_path / "dicomnode")
    with pytest.raises(LedgerError, match="migrations of the ledger are missing"):
        migrate.upgrade(url_of(tmp_path / "ledger.sqlite"))


def test_a_wheel_finds_them_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "dicomnode"
    package.mkdir()
    (package / "migrations").symlink_to(MIGRATIONS)
    monkeypatch.setattr(migrate, "_PACKAGE", package)
    assert migrate.upgrade(url_of(tmp_path / "ledger.sqlite")) == (None, HEAD)


# A ledger of version 0001 as its program left it: a received series, its done job, what that made, and a delivery.
OF_0001 = """
INSERT INTO boot VALUES (1, 7, 'node', '2026-01-01 00:00:00.000000', NULL);
INSERT INTO series VALUES (1, '1.2.3', 'received', 1, 'receiving', 'receive', '2026-01-01 00:00:00.000000', 'node', '',
    '2026-01-01 00:00:00.000000', '2026-01-01 00:00:00.000000', '2026-01-01 00:00:00.000000', 0, NULL, '', '[]', 0);
INSERT INTO series VALUES (2, '1.2.4', 'derived', 1, 'kept', 'own_output', '2026-01-01 00:00:00.000000', 'node', '',
    '2026-01-01 00:00:00.000000', '2026-01-01 00:00:00.000000', '2026-01-01 00:00:00.000000', 0, 'own_output',
    'Made here.', '[]', 0);
UPDATE series SET state = 'settled', state_cause = 'settle' WHERE id = 1;
UPDATE series SET state = 'planned', state_cause = 'plan', reason = 'process' WHERE id = 1;
INSERT INTO job VALUES (1, 1, 1, 2, 'queued', 'plan', '2026-01-01 00:00:00.000000', 'node', '', 'all', 'thin', 'd1', 4,
    '{}', 1, '["pacs"]', 'Why.', '2026-01-01 00:00:00.000000', '2026-01-01 00:00:00.000000', 0, NULL, 0, NULL, NULL,
    '', NULL, NULL, '[]');
UPDATE job SET state = 'running', state_cause = 'claim', lease_owner = 'x', lease_until = '2026-01-01 00:01:00.000000';
UPDATE job SET state = 'done', state_cause = 'finish', lease_owner = NULL, lease_until = NULL,
    finished_at = '2026-01-01 00:00:30.000000', seconds = 30.0;
INSERT INTO instance VALUES (11, 1, 1, '1.2', '1.2.3.1', '1.2.1', 10, printf('%064d', 1), '1/b.dcm', 'received', NULL,
    NULL, 'mr1', '2026-01-01 00:00:00.000000');
INSERT INTO instance VALUES (12, 2, 1, '1.2', '1.2.4.1', '1.2.1', 10, printf('%064d', 2), '2/c.dcm', 'derived', 1, 1,
    NULL, '2026-01-01 00:00:30.000000');
INSERT INTO delivery VALUES (1, 1, 'pacs', 'due', 'finish', '2026-01-01 00:00:30.000000', 'node', '',
    '2026-01-01 00:00:30.000000', '2026-01-01 00:00:30.000000', 0, 0, NULL, 0, NULL, NULL, '', NULL, NULL);
INSERT INTO delivery_item VALUES (1, 1, 12, 'pending', 'finish', '2026-01-01 00:00:30.000000', 'node', '', NULL, 0,
    NULL);
INSERT INTO quarantine VALUES (1, 'q.dcm', 'conflict', printf('%064d', 3), 'mr1', 11, printf('%064d', 1),
    '2026-01-01 00:00:00.000000');
"""
TABLES_OF_0001 = ("node", "boot", "series", "job", "instance", "delivery", "delivery_item", "quarantine", "event")


@pytest.fixture
def of_0001(tmp_path: Path) -> Path:
    path = tmp_path / "old.sqlite"
    with migration_connection(url_of(path)) as connection:
        migrate.run_migrations(connection, "0001")
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(OF_0001)
    return path


def test_a_service_refuses_a_ledger_of_0001_and_says_what_to_do(of_0001: Path) -> None:
    before = shape(of_0001)
    with pytest.raises(LedgerError, match="run `dicomnode db upgrade`"):
        open_ledger(url_of(of_0001))
    assert shape(of_0001) == before


def test_0002_keeps_every_row_and_every_trigger_of_0001(of_0001: Path, fresh: Path) -> None:
    rows = {table: contents(of_0001, table) for table in TABLES_OF_0001}
    triggers = {entry: words for entry, words in shape(of_0001).items() if entry[0] == "trigger"}
    del triggers["trigger", "event_is_never_deleted"]  # 0009 has another in its place
    del triggers["trigger", "delivery_of_done_job"]  # and 0014
    assert len(rows["event"]) == 8, "births and moves of series, job and delivery"
    assert migrate.upgrade(url_of(of_0001)) == ("0001", HEAD)
    rows["quarantine"] = [(*row, None, None, "[]", None) for row in rows["quarantine"]]  # columns of 0003
    rows["series"] = [(*row, None) for row in rows["series"]]  # the column of 0013: what was there was sent
    for table in ("job", "delivery"):
        rows[table] = [(*row, Priority.NORMAL) for row in rows[table]]  # the column of 0005
    rows["job"] = [(*row, None, "auto", "hold") for row in rows["job"]]  # the columns of 0006 and 0012
    rows["delivery"] = [(*row, 0, 1, 1) for row in rows["delivery"]]  # the columns of 0008 and 0014
    rows["boot"] = [(*row, *[None] * 6) for row in rows["boot"]]  # the columns of 0011
    for table in ("series", "instance"):
        rows[table] = [(*row, None) for row in rows[table]]  # the columns of 0011
    for table in ("delivery_item", "instance", "quarantine"):  # the last two: the columns of 0010
        rows[table] = [(*row, None) for row in rows[table]]
    assert {table: contents(of_0001, table) for table in TABLES_OF_0001} == rows
    assert triggers.items() <= shape(of_0001).items()
    assert shape(of_0001) == shape(fresh)
    assert contents(of_0001, "transition") == contents(fresh, "transition")


def test_the_ledger_is_kept_as_it_was_before_an_upgrade_and_one_copy_of_it(of_0001: Path) -> None:
    before, rows = shape(of_0001), contents(of_0001, "event")
    copy = migrate.copy_path(url_of(of_0001))
    copy.write_text("of an earlier upgrade")
    migrate.upgrade(url_of(of_0001))
    assert (shape(copy), contents(copy, "event")) == (before, rows)
    assert migrate.current(url_of(copy)) == "0001"
    assert migrate.upgrade(url_of(of_0001)) == (HEAD, HEAD)
    assert migrate.current(url_of(copy)) == "0001", "nothing was upgraded, so nothing was copied"
    assert sorted(path.name for path in of_0001.parent.iterdir()) == [of_0001.name, copy.name]


def test_an_upgrade_that_cannot_keep_a_copy_does_not_begin(of_0001: Path) -> None:
    before = shape(of_0001)
    migrate.copy_path(url_of(of_0001)).mkdir()
    with pytest.raises(StorageError, match="could not be copied"):
        migrate.upgrade(url_of(of_0001))
    assert shape(of_0001) == before


def test_0004_lets_an_operator_cancel_what_was_claimed_before_the_upgrade(of_0001: Path) -> None:
    migrate.upgrade(url_of(of_0001))
    ledger = open_ledger(url_of(of_0001))
    delivery = ledger.deliveries.claim("pacs", "1:node:7", lease_s=60)
    assert delivery is not None
    ledger.operator.cancel_delivery(delivery.id, "operator")
    ledger.operator.retry_delivery(delivery.id, "operator")
    ledger.close()


def test_a_ledger_of_0001_goes_on_after_the_upgrade_and_takes_a_model(of_0001: Path) -> None:
    migrate.upgrade(url_of(of_0001))
    ledger = open_ledger(url_of(of_0001))
    assert ledger.upkeep.files_in("1") | ledger.upkeep.files_in("2") == {"1/b.dcm", "2/c.dcm"}
    delivery = ledger.deliveries.claim("pacs", "1:node:7", lease_s=60)
    assert delivery is not None
    model = ImportedModel(name="thin", digest="a" * 64, kind="thin", ratios=(2, 6))
    number, _ = ledger.models.take_in(model, "operator")
    assert ledger.models.activate(number, "operator")
    assert ledger.models.active()["thin"].digest == "a" * 64
    ledger.close()
    with (
        closing(sqlite3.connect(of_0001)) as connection,
        pytest.raises(sqlite3.IntegrityError, match="no such change of state of model"),
    ):
        connection.execute("UPDATE model SET state = 'imported', place = NULL")


def test_an_upgrade_to_0002_that_breaks_off_leaves_0001(of_0001: Path) -> None:
    with closing(sqlite3.connect(of_0001)) as connection:
        connection.execute("CREATE TRIGGER model_moved AFTER INSERT ON boot BEGIN SELECT 1; END")  # stands in the way
    before, rows = shape(of_0001), contents(of_0001, "transition")
    with pytest.raises(LedgerError, match="model_moved"):
        migrate.upgrade(url_of(of_0001))
    assert (shape(of_0001), contents(of_0001, "transition")) == (before, rows)
    assert migrate.current(url_of(of_0001)) == "0001"


def test_what_was_set_aside_before_0003_waits_for_a_person_after_it(of_0001: Path) -> None:
    migrate.upgrade(url_of(of_0001))
    with closing(open_reader(url_of(of_0001))) as reader:
        (line,) = reader.quarantine_list()
        assert (line.id, line.state, line.series, line.kept_series) == (1, "unseen", None, 1)
        assert [one.table for one in reader.status().attention] == ["quarantine"]
    with closing(open_ledger(url_of(of_0001))) as ledger:
        ((row, file, reason),) = ledger.quarantine.without_series()
        assert (file, reason) == ("q.dcm", "conflict")
        ledger.quarantine.belong(row, SeriesId(1), Examined(id=row, finding=Finding.NOT_COMPARED))
        assert ledger.quarantine.waiting_series() == [1], "the series has its verdict, so it is looked at next"
        assert not ledger.quarantine.without_series()


def test_an_upgrade_to_0003_that_breaks_off_leaves_0002(of_0001: Path) -> None:
    with migration_connection(url_of(of_0001)) as connection:
        migrate.run_migrations(connection, "0002")
    with closing(sqlite3.connect(of_0001)) as connection:
        connection.execute("CREATE INDEX quarantine_unseen ON boot (pid)")  # stands in the way
    before, rows = shape(of_0001), contents(of_0001, "quarantine")
    with pytest.raises(LedgerError, match="quarantine_unseen"):
        migrate.upgrade(url_of(of_0001))
    assert (shape(of_0001), contents(of_0001, "quarantine")) == (before, rows)
    assert migrate.current(url_of(of_0001)) == "0002"


def test_after_0005_the_triggers_alone_refuse_a_state_that_is_none(of_0001: Path) -> None:
    migrate.upgrade(url_of(of_0001))
    with closing(open_ledger(url_of(of_0001))) as ledger:
        ledger.models.take_in(ImportedModel(name="thin", digest="a" * 64, kind="thin", ratios=(2, 6)), "operator")
        ledger.alerts.observe("mail", [Condition(name="x", sentence="x", number=1, is_error=True)], (), again_s=0)
    with closing(sqlite3.connect(of_0001, isolation_level=None)) as connection:
        connection.execute(
            "INSERT INTO commitment (delivery_id, peer, transaction_uid, state, state_cause, state_at, state_by, "
            "state_detail, created_at, next_at, failures) "
            "VALUES (1, 'pacs', '1.2', 'wanted', 'finish', '', '', '', '', '', 0)"
        )
        for table in TRANSITIONS:
            names = ", ".join(
                row[1] for row in connection.execute(f"PRAGMA table_info({table})") if row[1] not in ("id", "state")
            )
            with pytest.raises(sqlite3.IntegrityError, match=f"no row of {table} begins in this state"):
                connection.execute(f"INSERT INTO {table} (state, {names}) SELECT 'unknown', {names} FROM {table}")  # noqa: S608 (our own names)
            with pytest.raises(sqlite3.IntegrityError, match=f"no such change of state of {table}"):
                connection.execute(f"UPDATE {table} SET state = 'unknown'")  # noqa: S608 (our own names)
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


def test_a_ledger_that_the_program_of_0004_made_whole_is_upgraded_like_one_that_was_migrated(
    tmp_path: Path, fresh: Path
) -> None:
    """The words of its tables differ in white space: here as SQLAlchemy writes them."""
    path = tmp_path / "made.sqlite"
    with migration_connection(url_of(path)) as connection:
        migrate.run_migrations(connection, "0004")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        tables = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'").fetchall()
        for name, words in tables:
            spaced = " ".join(words.split()).replace(", ", ", \n\t").replace("( ", "(\n\t").replace(" )", "\n)")
            connection.execute("UPDATE sqlite_master SET sql = ? WHERE name = ?", (spaced, name))
    migrate.upgrade(url_of(path))
    assert shape(path) == shape(fresh)


def test_an_upgrade_to_0005_that_breaks_off_leaves_0004(of_0001: Path) -> None:
    with migration_connection(url_of(of_0001)) as connection:
        migrate.run_migrations(connection, "0004")
    with closing(sqlite3.connect(of_0001)) as connection:
        connection.execute("ALTER TABLE quarantine RENAME COLUMN reason TO cause")  # the last table that is touched
    before, rows = shape(of_0001), contents(of_0001, "job")
    with pytest.raises(LedgerError, match="quarantine is not as 0004 left it"):
        migrate.upgrade(url_of(of_0001))
    assert (shape(of_0001), contents(of_0001, "job")) == (before, rows)
    assert migrate.current(url_of(of_0001)) == "0004"


def test_a_job_that_was_done_before_0006_has_no_figures_and_is_explained_like_before(of_0001: Path) -> None:
    with migration_connection(url_of(of_0001)) as connection:
        migrate.run_migrations(connection, "0005")
    with pytest.raises(LedgerError, match="run `dicomnode db upgrade`"):
        open_reader(url_of(of_0001))
    assert migrate.upgrade(url_of(of_0001)) == ("0005", HEAD)
    with closing(open_reader(url_of(of_0001))) as reader:
        told = reader.series_explain(1)
    assert told.gate == ()
    assert not any("result gate" in sentence for sentence in told.sentences)


def test_an_upgrade_to_0008_that_breaks_off_leaves_0007(of_0001: Path) -> None:
    with migration_connection(url_of(of_0001)) as connection:
        migrate.run_migrations(connection, "0007")
    with closing(sqlite3.connect(of_0001)) as connection:
        connection.execute("CREATE TRIGGER commitment_moved AFTER INSERT ON boot BEGIN SELECT 1; END")
    before, rows = shape(of_0001), contents(of_0001, "transition")
    with pytest.raises(LedgerError, match="commitment_moved"):
        migrate.upgrade(url_of(of_0001))
    assert (shape(of_0001), contents(of_0001, "transition")) == (before, rows)
    assert migrate.current(url_of(of_0001)) == "0007"


def test_an_upgrade_to_0007_that_breaks_off_leaves_0006(of_0001: Path) -> None:
    with migration_connection(url_of(of_0001)) as connection:
        migrate.run_migrations(connection, "0006")
    with closing(sqlite3.connect(of_0001)) as connection:
        connection.execute("CREATE TRIGGER alert_moved AFTER INSERT ON boot BEGIN SELECT 1; END")  # stands in the way
    before, rows = shape(of_0001), contents(of_0001, "transition")
    with pytest.raises(LedgerError, match="alert_moved"):
        migrate.upgrade(url_of(of_0001))
    assert (shape(of_0001), contents(of_0001, "transition")) == (before, rows)
    assert migrate.current(url_of(of_0001)) == "0006"


def test_after_0009_an_event_of_half_a_year_may_be_removed_and_no_younger_one(of_0001: Path) -> None:
    migrate.upgrade(url_of(of_0001))
    with closing(sqlite3.connect(of_0001, isolation_level=None)) as connection:
        connection.execute(
            "INSERT INTO event SELECT 1000, datetime('now', '-182 days'), table_name, row_id, kind, "
            "from_state, to_state, actor, detail FROM event WHERE id = 1"
        )
        connection.execute(
            "INSERT INTO event SELECT 1001, datetime('now', '-184 days'), table_name, row_id, kind, "
            "from_state, to_state, actor, detail FROM event WHERE id = 1"
        )
        connection.execute("DELETE FROM event WHERE id = 1001")
        with pytest.raises(sqlite3.IntegrityError, match="kept for 183 days"):
            connection.execute("DELETE FROM event WHERE id = 1000")


def test_an_upgrade_to_0009_that_breaks_off_leaves_0008(of_0001: Path) -> None:
    with migration_connection(url_of(of_0001)) as connection:
        migrate.run_migrations(connection, "0008")
    with closing(sqlite3.connect(of_0001)) as connection:
        connection.execute("CREATE TRIGGER event_is_kept AFTER INSERT ON boot BEGIN SELECT 1; END")  # stands in the way
    before = shape(of_0001)
    with pytest.raises(LedgerError, match="event_is_kept"):
        migrate.upgrade(url_of(of_0001))
    assert shape(of_0001) == before
    assert migrate.current(url_of(of_0001)) == "0008"


def test_after_0010_no_file_counts_as_removed(of_0001: Path) -> None:
    migrate.upgrade(url_of(of_0001))
    ledger = open_ledger(url_of(of_0001))
    assert ledger.upkeep.files_in("1") | ledger.upkeep.files_in("2") == {"1/b.dcm", "2/c.dcm"}
    assert ledger.removals.files_in("1") | ledger.removals.files_aside() == set()
    ledger.close()


def test_an_upgrade_to_0010_that_breaks_off_leaves_0009(of_0001: Path) -> None:
    with migration_connection(url_of(of_0001)) as connection:
        migrate.run_migrations(connection, "0009")
    with closing(sqlite3.connect(of_0001)) as connection:
        connection.execute("CREATE TABLE instance_removed (a)")  # stands in the way
    before = shape(of_0001)
    with pytest.raises(LedgerError, match="instance_removed"):
        migrate.upgrade(url_of(of_0001))
    assert shape(of_0001) == before
    assert migrate.current(url_of(of_0001)) == "0009"


def test_a_delivery_from_before_0014_has_the_series_and_revision_of_its_job(of_0001: Path) -> None:
    migrate.upgrade(url_of(of_0001))
    with closing(sqlite3.connect(of_0001)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT job_id, series_id, revision FROM delivery").fetchall() == [(1, 1, 1)]
        with pytest.raises(sqlite3.IntegrityError, match="series_id"):
            connection.execute("UPDATE delivery SET series_id = NULL")
    with closing(open_reader(url_of(of_0001))) as reader:
        assert [line.content for line in reader.deliveries_list()] == ["derived"]


def test_an_upgrade_to_0014_that_breaks_off_leaves_0013(of_0001: Path) -> None:
    with migration_connection(url_of(of_0001)) as connection:
        migrate.run_migrations(connection, "0013")
    with closing(sqlite3.connect(of_0001)) as connection:
        connection.execute("CREATE INDEX delivery_originals_once ON boot (id)")  # stands in the way
    before = shape(of_0001)
    with pytest.raises(LedgerError, match="delivery_originals_once"):
        migrate.upgrade(url_of(of_0001))
    assert shape(of_0001) == before
    assert migrate.current(url_of(of_0001)) == "0013"


def test_after_0015_a_series_that_was_judged_before_has_no_judgement_and_one_judged_after_it_has(of_0001: Path) -> None:
    assert migrate.upgrade(url_of(of_0001)) == ("0001", HEAD)
    moment = datetime(2026, 3, 4, tzinfo=UTC)
    with closing(open_ledger(url_of(of_0001))) as ledger, closing(open_reader(url_of(of_0001))) as reader:
        assert reader.protocols(datetime(2020, 1, 1, tzinfo=UTC)) == ()
        told = Judgement(
            peer="mr1", station="", serial="", name="", at=moment, reason="process", slices=9, missing=0,
            spacing_mm=5.0, thickness_mm=None, clock_s=None,
        )  # fmt: skip
        ledger.settling.judged(SeriesId(1), told)
        (found,) = reader.protocols(moment)
        assert (found.peer, found.series) == ("mr1", 1)


def test_an_upgrade_to_0015_that_breaks_off_leaves_0014(of_0001: Path) -> None:
    with migration_connection(url_of(of_0001)) as connection:
        migrate.run_migrations(connection, "0014")
    with closing(sqlite3.connect(of_0001)) as connection:
        connection.execute("CREATE INDEX judgement_week ON boot (pid)")  # stands in the way
    before, rows = shape(of_0001), contents(of_0001, "series")
    with pytest.raises(LedgerError, match="judgement_week"):
        migrate.upgrade(url_of(of_0001))
    assert (shape(of_0001), contents(of_0001, "series")) == (before, rows)
    assert migrate.current(url_of(of_0001)) == "0014"
