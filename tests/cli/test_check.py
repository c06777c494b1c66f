"""``check``: its code says whether the node would do its work."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from dicomnode.errors import NodeError
from dicomnode.ledger.store import open_ledger
from dicomnode.service.service import Service
from dicomnode.settings.load import load
from tests.cli.conftest import Run
from tests.support.dcmtk import free_port


def test_a_node_that_would_start_is_0_and_nothing_is_made(run: Run, tmp_path: Path) -> None:
    ran = run("check", "--json")
    assert ran.code == 0
    rows = json.loads(ran.out)
    assert {"what", "mark", "sentence", "hint"} == rows[0].keys()
    assert rows[0]["mark"] == "warn", "nothing is delivered yet, and it says so"
    assert "nothing is delivered" in rows[0]["sentence"]
    assert list(tmp_path.iterdir()) == []


def test_what_fails_is_a_line_with_a_remedy_and_code_2(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text(
        '[[peer]]\nname = "pacs"\nae_title = "PACS"\naddress = "127.0.0.1:1"\n'
        '[[rule]]\nname = "all"\nmodel = "nosuch"\ndeliver_to = ["pacs"]\n'
    )
    ran = run("check", "--echo", "--config", config, "--json")
    assert ran.code == 2
    failed = {row["what"]: row["hint"] for row in json.loads(ran.out) if row["mark"] == "fail"}
    assert failed.keys() == {"model nosuch", "peer pacs"}
    assert all(failed.values())


def test_settings_with_mistakes_never_come_to_the_sheet(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text("[node]\nport = 104\n")
    ran = run("check", "--config", config)
    assert ran.code == 2
    assert f"{config}: node.port: is not a known key" in ran.err


def _none(_file: Path) -> None:
    """No ledger yet."""


def _empty(file: Path) -> None:
    file.touch()


def _without_tables(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")


def _sound(file: Path) -> None:
    open_ledger(f"sqlite:///{file}").close()


def _of_version(file: Path, version: str) -> None:
    _sound(file)
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (version,))


def _older(file: Path) -> None:
    _of_version(file, "0001")


def _newer(file: Path) -> None:
    _of_version(file, "9999")


def _foreign(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("CREATE TABLE something (x)")


def _no_database(file: Path) -> None:
    file.write_bytes(b"This is a text, and longer than the header of a database has to be. " * 20)


def _damaged(file: Path) -> None:
    """The pages behind the first ones, which a start looks at, are overwritten."""
    ledger = open_ledger(f"sqlite:///{file}")
    for number in range(300):
        ledger.intake.series_for(f"1.2.{number}.{'9' * 40}")
    ledger.close()
    content = bytearray(file.read_bytes())
    middle = len(content) // 2 // 4096 * 4096
    content[middle : middle + 8192] = b"\xff" * 8192
    file.write_bytes(content)


def _folder(file: Path) -> None:
    file.mkdir()


MADE, OPENED, REFUSED = "makes an empty one", "Version", ""


@pytest.mark.parametrize(
    ("prepare", "answer"),
    [
        (_none, MADE),
        (_empty, MADE),
        (_without_tables, MADE),
        (_sound, OPENED),
        (_older, REFUSED),
        (_newer, REFUSED),
        (_foreign, REFUSED),
        (_no_database, REFUSED),
        (_damaged, REFUSED),
        (_folder, REFUSED),
    ],
)
@pytest.mark.parametrize("url", ["", "sqlite:///{folder}/elsewhere/own.sqlite"])
def test_of_the_ledger_check_says_what_serve_does_and_makes_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepare: Callable[[Path], None], answer: str, url: str
) -> None:
    """With the ledger in the data folder, and elsewhere with `ledger.url`."""
    monkeypatch.setenv("DICOMNODE_NODE__LISTEN", f"127.0.0.1:{free_port()}")
    if url:
        monkeypatch.setenv("DICOMNODE_LEDGER__URL", url.format(folder=tmp_path))
    file = tmp_path / "elsewhere" / "own.sqlite" if url else tmp_path / "data" / "ledger.sqlite"
    if url or prepare is not _none:
        file.parent.mkdir()
    prepare(file)
    before = _tree(tmp_path)
    ran = run("check", "--json")
    row = next(row for row in json.loads(ran.out) if row["what"] == "ledger")
    assert _tree(tmp_path) == before, "a question writes nothing"
    assert answer in row["sentence"]
    assert (ran.code, row["mark"]) == ((0, "ok") if answer else (2, "fail"))
    refusal = _start()
    if answer:
        assert refusal is None
        assert file.is_file()
    else:
        assert refusal == (row["sentence"], row["hint"])


@pytest.mark.parametrize("url", ["sqlite:///{folder}/nowhere/own.sqlite", "sqlite:///{folder}/file/own.sqlite"])
def test_a_ledger_in_a_folder_that_is_not_there_is_refused_by_both(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DICOMNODE_NODE__LISTEN", f"127.0.0.1:{free_port()}")
    monkeypatch.setenv("DICOMNODE_LEDGER__URL", url.format(folder=tmp_path))
    ran = run("check", "--json")
    row = next(row for row in json.loads(ran.out) if row["what"] == "ledger")
    assert (ran.code, row["mark"]) == (2, "fail")
    assert _start() == (row["sentence"], row["hint"])


def test_a_ledger_below_a_data_folder_that_serve_makes_is_made_by_both(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DICOMNODE_NODE__LISTEN", f"127.0.0.1:{free_port()}")
    monkeypatch.setenv("DICOMNODE_LEDGER__URL", f"sqlite:///{tmp_path}/data/own.sqlite")
    assert run("check").code == 0
    assert not (tmp_path / "data").exists()
    assert _start() is None
    assert (tmp_path / "data" / "own.sqlite").is_file()


def test_a_data_folder_that_is_a_file_is_refused_by_both(run: Run, tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    ran = run("check", "--json")
    row = next(row for row in json.loads(ran.out) if row["what"] == "data folder")
    assert (ran.code, row["mark"]) == (2, "fail")
    assert _start() is not None


def _tree(folder: Path) -> dict[str, bytes | None]:
    """All files but those that SQLite puts beside a database while somebody reads it."""
    paths = [path for path in folder.rglob("*") if not path.name.endswith(("-wal", "-shm"))]
    return {str(path): path.read_bytes() if path.is_file() else None for path in paths}


def _start() -> tuple[str, str] | None:
    """What a service says that cannot start with these settings; None: it starts, and is stopped again."""
    service = Service(load(None, os.environ))
    try:
        service.start()
    except NodeError as exc:
        return exc.sentence, exc.hint
    service.stop()
    return None
