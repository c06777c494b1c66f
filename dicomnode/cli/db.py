"""``dicomnode db`` shows and upgrades the version of the ledger's database."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from dicomnode.cli import output
from dicomnode.cli.options import config_option, json_option, load_settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Upgraded:
    """The output of ``db upgrade``."""

    before: str | None  # None: there was no ledger
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Current:
    """The output of ``db current``."""

    current: str | None  # None: there is no ledger yet
    needed: str


@click.group(short_help="Show or upgrade the version of the ledger.")
def db() -> None:
    """Show or upgrade the version of the ledger's database."""


@db.command(short_help="Bring the ledger to the version of this program.")
@config_option
@json_option
def upgrade(config: Path | None, as_json: bool) -> None:
    """Bring the ledger to the version that this program needs, or create an empty ledger.

    Stop the service and copy the ledger first.
    """
    settings = load_settings(config)
    from dicomnode.archive import Archive
    from dicomnode.ledger import migrate

    archive = Archive(settings.node.data.absolute())
    archive.lock()  # a running service would go on with statements of the older schema
    try:
        before, after = migrate.upgrade(settings.ledger_url)
    finally:
        archive.unlock()
    output.print_facts(Upgraded(before=before, after=after), as_json=as_json)


@db.command(short_help="Show the version of the ledger.")
@config_option
@json_option
def current(config: Path | None, as_json: bool) -> None:
    """Show the version of the ledger and the version that this program needs."""
    settings = load_settings(config)
    from dicomnode.ledger import migrate, schema

    output.print_facts(Current(current=migrate.current(settings.ledger_url), needed=schema.HEAD), as_json=as_json)
