"""``dicomnode quarantine list|seen``: what was set aside, and that a person has seen it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from dicomnode.cli import output
from dicomnode.cli.options import config_option, json_option, operator, reader, writer
from dicomnode.errors import InputError
from dicomnode.ledger.rows import QuarantineReason

LIMIT = 100  # lines that a person reads


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What ``quarantine seen`` prints."""

    seen: int  # rows that nobody had seen before
    done: str


@click.group(short_help="What was set aside, and what of it nobody has seen.")
def quarantine() -> None:
    """What was set aside, and what of it nobody has seen."""


@quarantine.command("list")
@click.option("--reason", type=click.Choice([str(reason) for reason in QuarantineReason]), help="Only these.")
@click.option("--limit", type=click.IntRange(min=1), default=LIMIT, show_default=True, help="So many, the newest.")
@click.option("--all", "is_all", is_flag=True, help="What was seen, and what does no harm, as well.")
@config_option
@json_option
def list_quarantine(reason: str | None, limit: int, is_all: bool, config: Path | None, as_json: bool) -> None:
    """List what was set aside and waits for a person, the newest first."""
    chosen = QuarantineReason(reason) if reason else None
    with reader(config) as ledger:
        rows = ledger.quarantine_list(limit=limit, reason=chosen, is_all=is_all)
    names = ("id", "state", "reason", "finding", "series", "kept_series", "peer", "at", "details")
    output.print_rows(rows, {name: name for name in names}, as_json=as_json, none="Nothing is set aside.")


@quarantine.command()
@click.argument("numbers", metavar="ID…", type=click.IntRange(min=1), nargs=-1)
@click.option("--all", "is_all", is_flag=True, help="All that there is now.")
@config_option
@json_option
def seen(numbers: tuple[int, ...], is_all: bool, config: Path | None, as_json: bool) -> None:
    """Say that a person has seen ID…: `status` names them no more, and nothing new is held for them.

    A series that was kept for them is judged as it is at `series release` or `series retry`; a delivery that was held
    goes at `deliveries release`.
    """
    if is_all == bool(numbers):
        raise InputError("Nothing was marked.", hint="Give the numbers of `dicomnode quarantine list`, or --all.")
    with writer(config) as ledger:
        marked = ledger.see_quarantine(None if is_all else numbers, operator())
    done = f"{'1 file is' if marked == 1 else f'{marked} files are'} marked as seen."
    if as_json:
        output.print_json(Seen(seen=marked, done=done))
    else:
        output.say(done)
