"""``dicomnode quarantine`` lists files that were set aside, and marks them as seen by a person."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from dicomnode.cli import output
from dicomnode.cli.options import config_option, json_option, operator, reader, writer
from dicomnode.errors import InputError
from dicomnode.ledger.values import QuarantineReason

LIMIT = 100  # rows that a person can read


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The output of ``quarantine seen``."""

    seen: int  # rows that nobody had seen before
    done: str


@click.group(short_help="List files that were set aside; mark them as seen.")
def quarantine() -> None:
    """List files that were set aside, and mark them as seen.

    A file is set aside when it cannot be in the archive: for example, if another object has its UID, or if the file
    changed on disk.
    """


@quarantine.command("list", short_help="List what was set aside.")
@click.option(
    "--reason",
    type=click.Choice([str(reason) for reason in QuarantineReason]),
    help="List only files that were set aside for this reason. Default: every reason.",
)
@click.option(
    "--limit", metavar="N", type=click.IntRange(min=1), default=LIMIT, show_default=True, help="List the newest N."
)
@click.option(
    "--all",
    "is_all",
    is_flag=True,
    help="Also list what a person has seen and what is harmless. Default: only what nobody has seen.",
)
@config_option
@json_option
def list_quarantine(reason: str | None, limit: int, is_all: bool, config: Path | None, as_json: bool) -> None:
    """List the files that were set aside and that nobody has seen yet, the newest first."""
    chosen = QuarantineReason(reason) if reason else None
    with reader(config) as ledger:
        rows = ledger.quarantine_list(limit=limit, reason=chosen, is_all=is_all)
    names = ("id", "state", "reason", "finding", "series", "kept_series", "peer", "at", "details")
    output.print_rows(rows, {name: name for name in names}, as_json=as_json, none="Nothing is set aside.")


@quarantine.command(short_help="Mark what was set aside as seen.")
@click.argument("numbers", metavar="ID…", type=click.IntRange(min=1), nargs=-1)
@click.option(
    "--all", "is_all", is_flag=True, help="Mark every file that is in quarantine now. Default: those named by ID."
)
@config_option
@json_option
def seen(numbers: tuple[int, ...], is_all: bool, config: Path | None, as_json: bool) -> None:
    """Mark the files ID… as seen.

    `status` does not name them any more, and no further delivery is held because of them. What is held already stays
    held. `series release` derives a series that was kept because of them; `deliveries release` sends a delivery.
    """
    if is_all == bool(numbers):
        raise InputError("Nothing was marked.", hint="Give the numbers of `dicomnode quarantine list`, or --all.")
    with writer(config) as ledger:
        marked = ledger.operator.see_quarantine(None if is_all else numbers, operator())
    done = f"{'1 file is' if marked == 1 else f'{marked} files are'} marked as seen."
    if as_json:
        output.print_json(Seen(seen=marked, done=done))
    else:
        output.say(done)
