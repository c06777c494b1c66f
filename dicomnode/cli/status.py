"""``dicomnode status`` counts series, jobs and deliveries by state, and names what waits for a person."""

from __future__ import annotations

from pathlib import Path

import click

from dicomnode.cli import output
from dicomnode.cli.options import config_option, json_option, reader


@click.command(short_help="Count series, jobs and deliveries by state.")
@config_option
@json_option
def status(config: Path | None, as_json: bool) -> None:
    """Count series, jobs and deliveries by state, and show what is in quarantine and what waits for a person."""
    with reader(config) as ledger:
        found = ledger.status()
    output.print_facts(found, as_json=as_json)
