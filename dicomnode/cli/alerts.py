"""``dicomnode alerts test`` sends a message to each destination of the settings and prints the results."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from dicomnode.cli import output
from dicomnode.cli.options import config_option, json_option, load_settings
from dicomnode.errors import SettingsError

NOT_SENT = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One destination, and the result of sending the message."""

    destination: str
    sent: bool
    sentence: str


@click.group(short_help="Try the ways by which people are told of what is wrong.")
def alerts() -> None:
    """Try the ways by which people are told of what is wrong: mail and webhook."""


@alerts.command("test", short_help="Send a message to each destination.")
@config_option
@json_option
def test_command(config: Path | None, as_json: bool) -> int:
    """Send a message to each destination of the settings. Exit code 0 if each took it, else 4.

    The command needs no service, and changes nothing in the ledger.
    """
    settings = load_settings(config)
    from dicomnode.alert.destination import NotSentError
    from dicomnode.alert.message import node_name, trial
    from dicomnode.alert.watch import destinations

    ways = destinations(settings.alert)
    if not ways:
        raise SettingsError("The settings name no destination for alerts.", hint="Set `alert.smtp` or `alert.webhook`.")
    message = trial(node_name(settings.node.ae_title))
    rows = []
    for way in ways:
        try:
            way.send(message)
            rows.append(Trial(destination=way.name, sent=True, sentence="The server took the message."))
        except NotSentError as exc:
            rows.append(Trial(destination=way.name, sent=False, sentence=str(exc)))
    columns = {"destination": "destination", "sent": "sent", "sentence": "what came of it"}
    output.print_rows(rows, columns, as_json=as_json, none="")
    return 0 if all(row.sent for row in rows) else NOT_SENT
