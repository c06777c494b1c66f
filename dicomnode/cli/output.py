"""Print frozen dataclasses as a table, as plain text or as JSON, and print sentences.

Every command prints through this file, because it makes text of strangers ``visible``.

rich is imported for a terminal only. Elsewhere a table is aligned text without colour or frame, so that ``grep`` and
``awk`` work on it.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from enum import Enum
from pathlib import Path

import click

from dicomnode.visible import LINE_END, json_text, visible

Columns = Mapping[str, str]  # attribute of the row → heading


def say(line: str, *, err: bool = False) -> None:
    """Print one line, with ``err`` to standard error. A line end within it is printed as its escape."""
    click.echo(visible(line), err=err)


def say_lines(text: str, *, err: bool = False) -> None:
    """Print several lines; the line ends in ``text`` must be ours."""
    click.echo(visible(text, keep=LINE_END), err=err)


def print_json(value: object) -> None:
    """Print one JSON document: dataclasses as objects, moments in ISO 8601 (UTC), paths as text."""
    click.echo(json_text(_plain(value), indent=2))


def print_rows(rows: Sequence[object], columns: Columns, *, as_json: bool, none: str) -> None:
    """Print a list of dataclasses: all fields as JSON, or ``columns`` as a table, or ``none`` if the list is empty."""
    if as_json:
        print_json(list(rows))
    elif not rows:
        say(none)
    else:
        print_table([[_cell(getattr(row, name)) for name in columns] for row in rows], list(columns.values()))


def print_cut(shown: int, total: int, what: str) -> None:
    """Say on standard error that a list was cut; a table and JSON hold rows only."""
    if shown < total:
        click.echo(f"The newest {shown} of {total} {what}; --limit N shows more of them, --all all.", err=True)


def print_facts(value: object, *, as_json: bool, **more: object) -> None:
    """Print one dataclass as JSON, or as one ``name  value`` a line without empty fields.

    ``more`` holds further fields; those that are None are left out.
    """
    facts = _plain(value)
    assert isinstance(facts, dict), "facts are a dataclass"
    facts |= {name: _plain(extra) for name, extra in more.items() if extra is not None}
    if as_json:
        print_json(facts)
        return
    for line in _lines(facts):
        say(line)


def print_done(sentence: str, *, row: int, as_json: bool) -> None:
    """Print what an operator's command did."""
    if as_json:
        print_json({"id": row, "done": sentence})
    else:
        say(sentence)


def print_table(rows: Sequence[Sequence[str]], headings: Sequence[str]) -> None:
    """Print cells in columns. A line end in a cell is printed as its escape."""
    rows = [[visible(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*headings, box=None, header_style="bold", pad_edge=False)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))  # Text: a bracket in a name is no markup
        Console().print(table)
        return
    for line in _aligned(rows, headings):
        say(line)


@contextmanager
def progress_bar(label: str, *, quiet: bool = False) -> Iterator[Callable[[str, float], None]]:
    """Yield a function of (stage, share 0…1), which draws a bar on a terminal and prints a line a stage elsewhere."""
    if quiet:
        yield lambda _stage, _share: None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(escape(visible(label)), total=1.0)  # a bracket in a name is no markup
            yield lambda stage, share: bar.update(task, description=stage, completed=share)
    else:
        said: set[str] = set()

        def tell(stage: str, _share: float) -> None:
            if stage not in said:
                said.add(stage)
                say(f"{label}: {stage}", err=True)

        yield tell


def _plain(value: object) -> object:
    """Convert a value to the types that JSON has."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if callable(dump := getattr(value, "model_dump", None)):  # a card or settings; pydantic itself stays unimported
        return dump(mode="json")
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, date | Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    if isinstance(value, Iterable):
        return [_plain(item) for item in value]
    raise TypeError(f"no JSON for {type(value).__name__}")


def _cell(value: object) -> str:
    """Return the text of a value in a table: local time to the second, floats with three digits, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, tuple | list):
        return ", ".join(_cell(item) for item in value)
    return visible(str(_plain(value)))


def _aligned(rows: Sequence[Sequence[str]], headings: Sequence[str]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    for row in (headings, *rows):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _lines(facts: Mapping[str, object], indent: str = "") -> Iterator[str]:
    """Yield ``name  value`` lines; a table or list follows its name, indented."""
    filled = {visible(name): value for name, value in facts.items() if value not in (None, "", False, [], {})}
    width = max((len(name) for name in filled), default=0)
    for name, value in filled.items():
        if isinstance(value, dict):
            yield f"{indent}{name}"
            yield from _lines(value, indent + "  ")
        elif isinstance(value, list) and isinstance(value[0], dict):
            yield f"{indent}{name}"
            keys = [key for key in value[0] if any(item[key] not in (None, "", []) for item in value)]
            yield from (
                f"{indent}  {line}" for line in _aligned([[_cell(item[key]) for key in keys] for item in value], keys)
            )
        elif isinstance(value, list) and len(value) > 1 and any(" " in str(item) for item in value):
            yield f"{indent}{name}"
            yield from (f"{indent}  {_cell(item)}" for item in value)
        else:
            yield f"{indent}{name.ljust(width)}  {_cell(value)}"
