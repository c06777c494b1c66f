"""``dicomnode check`` finds what would keep the node from working before the first image arrives."""

from __future__ import annotations

from pathlib import Path

import click

from dicomnode.cli import output
from dicomnode.cli.options import config_option, json_option, load_settings

NOT_FIT, CLUSTER_NOT_FIT = 2, 4


@click.command(short_help="Check settings, disk, ledger, models and peers.")
@click.option(
    "--echo", is_flag=True, help="Also ask each peer that is sent to for an answer. Default: contact no peer."
)
@config_option
@json_option
def check(echo: bool, config: Path | None, as_json: bool) -> int:
    """Check settings, data folder, free disk, ledger, models, peers, and the cluster if there is one.

    The command changes nothing and may run while the service runs. Exit code 0 if nothing would keep the node from
    working, 4 if only the cluster would, else 2.
    """
    settings = load_settings(config)
    from dicomnode import checks

    rows = checks.check(settings, with_echo=echo)
    columns = {"mark": "", "what": "what", "sentence": "found", "hint": "what to do"}
    output.print_rows(rows, columns, as_json=as_json, none="")
    failed = [row.what for row in rows if row.mark is checks.Mark.FAIL]
    if not failed:
        return 0
    return CLUSTER_NOT_FIT if all(what.startswith(checks.CLUSTER) for what in failed) else NOT_FIT
