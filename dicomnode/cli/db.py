"""``dicomnode db`` backs the node up, restores it, and shows and upgrades the version of the ledger's database."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import click

from dicomnode.cli import output
from dicomnode.cli.options import config_option, json_option, load_settings, operator
from dicomnode.errors import StorageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Upgraded:
    """The output of ``db upgrade``."""

    before: str | None  # None: there was no ledger
    after: str
    copy: str | None  # the ledger as it was before; None: there was nothing to upgrade


@dataclass(frozen=True, slots=True, kw_only=True)
class Current:
    """The output of ``db current``."""

    current: str | None  # None: there is no ledger yet
    needed: str


@click.group(short_help="Back up, restore or upgrade the ledger and what belongs to it.")
def db() -> None:
    """Back the node up and restore it; show or upgrade the version of the ledger's database."""


@db.command(short_help="Write a backup of the node, also while it runs.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@config_option
@json_option
def backup(folder: Path, config: Path | None, as_json: bool) -> None:
    """Write a backup of the node into DIR: ledger, archive, quarantine, models, settings file. The service may run.

    DIR is a new folder on another disk, or one with earlier backups of this node: then only what is new is copied. It
    holds patient data. Keys and passwords are not in it.
    """
    settings = load_settings(config)
    from dicomnode.archive.store import Archive
    from dicomnode.backup.write import write_backup
    from dicomnode.settings.load import find

    archive = Archive(settings.node.data.absolute())
    made = write_backup(archive, settings.ledger_url, folder, settings_file=find(config, os.environ))
    output.print_facts(made, as_json=as_json)
    if lacking := len(made.missing) + len(made.altered):
        raise StorageError(
            f"The backup is whole but for {lacking} files, which the archive has lost or which were altered in it.",
            hint="Have their series sent again, and run the command again; the next start of the service names them.",
        )


@db.command(short_help="Put a backup back into an empty data folder.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--also",
    metavar="DATA",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Take what the backup lacks from DATA, a data folder that was set aside. Default: from nowhere.",
)
@config_option
@json_option
def restore(folder: Path, also: Path | None, config: Path | None, as_json: bool) -> None:
    """Put the last whole backup in DIR back into the data folder, which must be empty. The service must not run.

    What came after the ledger was copied, and lies in DIR or in DATA, gets its rows too. Then start the service, and
    let the senders repeat what they sent since the backup.
    """
    settings = load_settings(config)
    from dicomnode.archive.store import Archive
    from dicomnode.backup.restore import restore as put_back

    made = put_back(folder, Archive(settings.node.data.absolute()), settings.ledger_url, also=also, by=operator())
    output.print_facts(made, as_json=as_json)
    if made.lost:
        raise StorageError(
            f"The backup was restored but for {len(made.lost)} files, which are whole nowhere.",
            hint="Have their series sent again: what comes takes their place.",
        )


@db.command(short_help="Bring the ledger to the version of this program.")
@config_option
@json_option
def upgrade(config: Path | None, as_json: bool) -> None:
    """Bring the ledger to the version that this program needs, or create an empty ledger.

    Stop the service first. The ledger is kept beside itself as it was before.
    """
    settings = load_settings(config)
    from dicomnode.archive.store import Archive
    from dicomnode.ledger import migrate

    archive = Archive(settings.node.data.absolute())
    archive.data_folder.lock()  # a running service would go on with statements of the older schema
    try:
        archive.data_folder.require_restored()
        before, after = migrate.upgrade(settings.ledger_url)
    finally:
        archive.data_folder.unlock()
    copy = str(migrate.copy_path(settings.ledger_url)) if before not in (None, after) else None
    output.print_facts(Upgraded(before=before, after=after, copy=copy), as_json=as_json)


@db.command(short_help="Show the version of the ledger.")
@config_option
@json_option
def current(config: Path | None, as_json: bool) -> None:
    """Show the version of the ledger and the version that this program needs."""
    settings = load_settings(config)
    from dicomnode.ledger import migrate, schema

    output.print_facts(Current(current=migrate.current(settings.ledger_url), needed=schema.HEAD), as_json=as_json)
