"""What is printed: JSON for programs, aligned text for pipes, nothing invented for what is empty."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from pathlib import Path

import pytest

from dicomnode.cli import output


class _State(StrEnum):
    HELD = "held"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    id: int
    state: _State
    at: datetime | None = None
    file: Path = Path("a/b")
    seconds: float = 1.25
    names: tuple[str, ...] = ()


def test_json_is_one_document_of_plain_values(capsys: pytest.CaptureFixture[str]) -> None:
    cet = timezone(timedelta(hours=1))
    output.print_json([_Row(id=7, state=_State.HELD, at=datetime(2026, 5, 4, 13, 0, tzinfo=cet), names=("ä",))])
    assert json.loads(capsys.readouterr().out) == [
        {"id": 7, "state": "held", "at": "2026-05-04T12:00:00.000Z", "file": "a/b", "seconds": 1.25, "names": ["ä"]}
    ]


def test_what_json_does_not_know_fails_here_and_not_at_the_reader() -> None:
    with pytest.raises(TypeError, match="no JSON for object"):
        output.print_json(object())


def test_a_list_is_an_array_even_when_it_is_empty(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_rows([], {"id": "id"}, as_json=True, none="Nothing.")
    assert json.loads(capsys.readouterr().out) == []
    output.print_rows([], {"id": "id"}, as_json=False, none="Nothing.")
    assert capsys.readouterr().out == "Nothing.\n"


def test_off_a_terminal_a_table_is_aligned_text(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [_Row(id=7, state=_State.HELD), _Row(id=1234, state=_State.HELD, names=("a", "[red]b"))]
    output.print_rows(rows, {"id": "id", "state": "state", "names": "names"}, as_json=False, none="")
    assert capsys.readouterr().out == "id    state  names\n7     held\n1234  held   a, [red]b\n"


def test_facts_leave_out_what_is_empty(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_facts(_Row(id=7, state=_State.HELD), as_json=False)
    assert capsys.readouterr().out == "id       7\nstate    held\nfile     a/b\nseconds  1.25\n"


def test_facts_that_are_lists_follow_their_name(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_facts(
        {"id": 7, "alert": False, "notes": ["A first.", "A second."], "rows": [_Row(id=1, state=_State.HELD)]},
        as_json=False,
    )
    assert capsys.readouterr().out == (
        "id     7\nnotes\n  A first.\n  A second.\nrows\n  id  state  file  seconds\n  1   held   a/b   1.25\n"
    )


def test_a_moment_in_a_table_is_local_time(capsys: pytest.CaptureFixture[str]) -> None:
    at = datetime(2026, 5, 4, 12, 0, 1, tzinfo=UTC)
    output.print_rows([_Row(id=1, state=_State.HELD, at=at)], {"at": "at"}, as_json=False, none="")
    assert capsys.readouterr().out.splitlines()[1] == at.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def test_progress_off_a_terminal_is_one_line_a_stage(capsys: pytest.CaptureFixture[str]) -> None:
    with output.progress_bar("series 7") as say:
        for stage, share in (("read", 0.0), ("read", 1.0), ("generate", 0.5)):
            say(stage, share)
    assert capsys.readouterr().err == "series 7: read\nseries 7: generate\n"


def test_a_terminal_gets_a_table_whose_cells_are_no_markup(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    output.print_table([["[red]x"]], ["name"])
    assert "[red]x" in capsys.readouterr().out
