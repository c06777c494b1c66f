"""``dicomnode status`` counts series, jobs and deliveries by state, and names what waits for a person."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dicomnode.cli import output
from dicomnode.cli.options import config_option, json_option, load_settings, reader
from dicomnode.errors import SettingsError

if TYPE_CHECKING:
    from dicomnode.ledger.views import AttentionLine
    from dicomnode.settings.models import Settings


@click.command(short_help="Count series, jobs and deliveries by state.")
@config_option
@json_option
def status(config: Path | None, as_json: bool) -> None:
    """Count series, jobs and deliveries by state, and show what is in quarantine and what waits for a person.

    Where models run on a cluster, the command also connects to it and shows its workers, and why jobs wait.
    """
    settings = load_settings(config)
    with reader(config) as ledger:
        found, queued = ledger.status(), ledger.waiting_models()
    seen = None
    if settings.work.executor != "local":
        from dicomnode.checks import cluster_status, require_cluster

        cluster = require_cluster(settings)
        seen = None if cluster is None else cluster_status(cluster, queued)
    waiting = (*_certificates(settings), *found.attention)
    output.print_facts(dataclasses.replace(found, attention=waiting), as_json=as_json, cluster=seen)


def _certificates(settings: Settings) -> list[AttentionLine]:
    """List the certificates of the settings that expire within 30 days, and the file that cannot be used."""
    from dicomnode.ledger.views import AttentionLine
    from dicomnode.seams import SYSTEM_CLOCK
    from dicomnode.tls.identity import Age, held_certificates

    files = settings.tls
    line = AttentionLine(table="certificate", id=1, series=None, state="", reason=None, sentence="")
    try:
        held = held_certificates(files, SYSTEM_CLOCK.now())
    except SettingsError as exc:
        return [dataclasses.replace(line, state="unusable", sentence=exc.sentence)]
    return [
        dataclasses.replace(line, id=one.number, state=str(one.age), reason=one.key, sentence=one.sentence)
        for one in held
        if one.age is not Age.VALID
    ]
