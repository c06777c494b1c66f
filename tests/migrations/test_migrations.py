"""Migrations: a migrated ledger is a fresh one, a failed one is the old one, and the number is Alembic's head."""

from __future__ import annotations

import ast
import sqlite3
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from dicomnode.errors import LedgerError
from dicomnode.ledger import migrate
from dicomnode.ledger.engine import migration_connection
from dicomnode.ledger.schema import HEAD
from dicomnode.ledger.store import open_ledger

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
    rows = connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2, 3").fetchall()  # noqa: S608
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
    assert ledger.series_for("1.2.3") == 1
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
