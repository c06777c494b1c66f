"""The quarantine takes whatever is set aside, and writes over nothing."""

from __future__ import annotations

from pathlib import Path

from dicomnode.archive.store import Archive
from tests.support.pdu import EXPLICIT
from tests.support.stored import AT, SERIES, put_file


def test_any_uid_text_can_be_quarantined(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    name = archive.quarantine.put(
        b"rest",
        sop_class_uid="../../../etc/passwd",
        sop_instance_uid="ü" * 200,
        transfer_syntax_uid=EXPLICIT,
        peer="mr1",
        received_at=AT,
    )
    path = archive.quarantine.folder / name
    assert path.parent == tmp_path / "quarantine"
    assert path.read_bytes().endswith(b"rest")
    assert b"UI\x14\x00../../../etc/passwd\x00" in path.read_bytes()
    assert b"?" * 64 in path.read_bytes()


def test_a_file_moves_to_quarantine_without_overwriting_another(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    first = archive.set_aside(put_file(archive, 1))
    second = archive.set_aside(put_file(archive, 1))
    assert first != second
    assert len(list(archive.quarantine.folder.iterdir())) == 2
    assert not list(archive.folder_of(SERIES).iterdir())
