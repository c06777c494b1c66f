"""``dicomnode deliveries list|retry|release``: what the peers have got."""

from __future__ import annotations

from pathlib import Path

import click

from dicomnode.cli import output
from dicomnode.cli.options import config_option, id_argument, json_option, operator, reader, writer
from dicomnode.ids import DeliveryId


@click.group(short_help="What was sent to whom, and what waits.")
def deliveries() -> None:
    """What was sent to whom, and what waits."""


@deliveries.command("list")
@config_option
@json_option
def list_deliveries(config: Path | None, as_json: bool) -> None:
    """List the deliveries, the oldest first."""
    with reader(config) as ledger:
        rows = ledger.deliveries_list()
    names = ("id", "state", "peer", "series", "items", "acknowledged", "refused", "next_at", "reason", "sentence")
    output.print_rows(rows, {name: name for name in names}, as_json=as_json, none="No deliveries yet.")


@deliveries.command()
@id_argument
@config_option
@json_option
def retry(number: int, config: Path | None, as_json: bool) -> None:
    """Try delivery ID now; instances that the peer refused are tried again too."""
    with writer(config) as ledger:
        ledger.retry_delivery(DeliveryId(number), operator())
    output.print_done(f"Delivery {number} is due now.", row=number, as_json=as_json)


@deliveries.command()
@id_argument
@config_option
@json_option
def release(number: int, config: Path | None, as_json: bool) -> None:
    """Let the held delivery ID go."""
    with writer(config) as ledger:
        ledger.release_delivery(DeliveryId(number), operator())
    output.print_done(f"Delivery {number} is due.", row=number, as_json=as_json)
