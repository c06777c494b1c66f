"""``dicomnode status`` counts series, jobs and deliveries by state, and names what waits for a person."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from dicomnode.cli import output
from dicomnode.cli.options import config_option, json_option, load_settings, reader


@click.command(short_help="Count series, jobs and deliveries by state.")
@config_option
@json_option
def status(config: Path | None, as_json: bool) -> None:
    """Count series, jobs and deliveries by state, and show what is in quarantine and what waits for a person.

    The command also shows when the service took its settings, and whether the file has changed since. Where models run
    on a cluster, the command also connects to it and shows its workers, and why jobs wait.
    """
    settings = load_settings(config)
    from dicomnode.alert.conditions import lines
    from dicomnode.seams import SYSTEM_CLOCK
    from dicomnode.settings.load import Source, has_changed

    with reader(config) as ledger:
        found, queued = ledger.status(), ledger.waiting_models()
        waiting = (*lines(settings, ledger, SYSTEM_CLOCK.now()), *found.attention)
    seen = None
    if settings.work.executor != "local":
        from dicomnode.checks.cluster import cluster_status, require_cluster

        cluster = require_cluster(settings)
        seen = None if cluster is None else cluster_status(cluster, queued)
    used = found.settings
    changed = used and has_changed(Source(file=Path(used.file) if used.file else None, sha256=used.sha256))
    output.print_facts(
        dataclasses.replace(found, attention=waiting), as_json=as_json, settings_file_changed=changed, cluster=seen
    )
