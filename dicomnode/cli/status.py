"""``dicomnode status`` counts series, jobs and deliveries by state, and names what waits for a person."""

from __future__ import annotations

from pathlib import Path

import click

from dicomnode.cli import output
from dicomnode.cli.options import config_option, json_option, load_settings, reader


@click.command(short_help="Count series, jobs and deliveries by state.")
@config_option
@json_option
def status(config: Path | None, as_json: bool) -> None:
    """Count series, jobs and deliveries by state, and show what is in quarantine and what waits for a person.

    Where models run on a cluster, the command also connects to it and shows its workers, and why jobs wait.
    """
    settings = load_settings(config)
    with reader(config) as ledger:
        found, waiting = ledger.status(), ledger.waiting_models()
    seen = None
    if settings.work.executor != "local":
        from dicomnode.checks import cluster_status, require_cluster

        cluster = require_cluster(settings)
        seen = None if cluster is None else cluster_status(cluster, waiting)
    output.print_facts(found, as_json=as_json, cluster=seen)
