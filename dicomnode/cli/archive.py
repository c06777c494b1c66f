"""``dicomnode archive`` removes images that are older than the settings keep them, or lists them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import click

from dicomnode.cli import output
from dicomnode.cli.options import config_option, json_option, load_settings, operator, reader, writer

if TYPE_CHECKING:
    from dicomnode.ledger.old_images import OldSeries

# The reasons why series that are old enough stay, in words for a person.
WHY_THEY_STAY = {
    "alert": "an alert that nobody has ended",
    "job": "a job that waits, runs, is held or failed",
    "delivery": "a delivery without its proof",
    "undelivered": "a result that was delivered to nobody",
    "set_aside": "files that were set aside and that nobody has seen or compared",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AgedLine:
    """One received series that is removed, with the series derived from it."""

    id: int
    last_at: datetime
    derived: tuple[int, ...]
    instances: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Aged:
    """The output of ``archive age``."""

    before: datetime
    removed: bool  # false: they were only listed
    series: tuple[AgedLine, ...]
    instances: int
    size_bytes: int
    set_aside: int  # files of the quarantine that are removed
    stays: dict[str, int]  # why series that are old enough stay → number of series


@click.group(short_help="Remove images that are older than the settings keep them.")
def archive() -> None:
    """Remove images that are older than the settings keep them, or list them."""


@archive.command(short_help="Remove now what is old enough, or list it.")
@click.option("--dry-run", is_flag=True, help="List what would be removed, and remove nothing. Default: remove it.")
@config_option
@json_option
def age(dry_run: bool, config: Path | None, as_json: bool) -> None:
    """Remove the images of received series that are older than archive.keep_days, with what was derived from them.

    Files that were set aside go as long after a person has seen them. The service does the same each night; it may run
    at the same time. Images whose delivery has no proof stay, and so does whatever waits for a person.
    """
    settings = load_settings(config)
    from dicomnode.archive.store import Archive
    from dicomnode.retention import oldest_kept, remove_old, remove_old_set_aside

    before = oldest_kept(settings.archive.keep_days)
    with reader(config) as ledger:
        old, set_aside = ledger.old_series(before), ledger.old_set_aside(before)
    if not dry_run:
        with writer(config) as written:
            files = Archive(settings.node.data.absolute())
            removed = {one.series: one for one in remove_old(written, files, before, stopping=Event(), by=operator())}
            set_aside = remove_old_set_aside(written, files, before, stopping=Event(), by=operator())
        old = [one for one in old if one.stays is not None or one.id in removed]
    _print(_aged(old, set_aside, before, removed=not dry_run), as_json=as_json)


def _aged(old: Iterable[OldSeries], set_aside: int, before: datetime, *, removed: bool) -> Aged:
    going = [one for one in old if one.stays is None]
    return Aged(
        before=before,
        removed=removed,
        series=tuple(
            AgedLine(
                id=one.id,
                last_at=one.last_at,
                derived=one.derived,
                instances=one.instances,
                size_bytes=one.size_bytes,
            )
            for one in going
        ),
        instances=sum(one.instances for one in going),
        size_bytes=sum(one.size_bytes for one in going),
        set_aside=set_aside,
        stays={str(reason): count for reason, count in Counter(one.stays for one in old if one.stays).items()},
    )


def _print(aged: Aged, *, as_json: bool) -> None:
    if as_json:
        output.print_json(aged)
        return
    names = ("id", "last_at", "derived", "instances", "size_bytes")
    output.print_rows(aged.series, {name: name for name in names}, as_json=False, none="No series is to be removed.")
    were = "Removed" if aged.removed else "To be removed"
    if aged.series:
        output.say(f"{were}: {len(aged.series)} series, {aged.instances} images, {aged.size_bytes} bytes.")
    if aged.set_aside:
        output.say(f"{were}: {aged.set_aside} of the files that were set aside, which a person has seen.")
    for reason, count in aged.stays.items():
        output.say(f"Old enough, and kept: {count} series with {WHY_THEY_STAY[reason]}.")
