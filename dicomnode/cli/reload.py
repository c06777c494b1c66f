"""``dicomnode reload`` has the running service read its settings anew."""

from __future__ import annotations

import os
from pathlib import Path

import click

from dicomnode.cli import output
from dicomnode.cli.options import config_option, json_option
from dicomnode.errors import NodeError, SettingsError


@click.command(short_help="Have the running service read its settings anew.")
@config_option
@json_option
def reload(config: Path | None, as_json: bool) -> None:
    """Have the running service read its settings file anew (SIGHUP), and say what it uses from now on.

    The service takes new rules, peers, AE titles, settle times, push limits, alerts and TLS files. Open associations go
    on, and jobs that are planned keep what they were planned with. If the file holds a mistake, the service goes on
    with the settings that it has; the mistake is printed, and the exit code is 2. Keys that need a restart are named.
    """
    from dicomnode.reload import ask
    from dicomnode.settings.load import data_and_ledger, load

    data, ledger_url = data_and_ledger(config, os.environ)
    try:
        found = ask(data, ledger_url)
    except NodeError:
        load(config, os.environ)  # a mistake in the file may be why no service was found
        raise
    if found.fault:
        raise SettingsError(found.fault, hint="The service goes on with the settings that it had.")
    if as_json:
        output.print_json(found)
        return
    waiting = f" A restart is needed for {', '.join(found.restart)}." if found.restart else ""
    output.say(f"The service uses the settings of {found.file or 'the embedded defaults'}.{waiting}")
