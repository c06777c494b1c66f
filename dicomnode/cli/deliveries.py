"""``dicomnode deliveries list|retry|release|cancel``: what the peers have got."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dicomnode.cli import output
from dicomnode.cli.filters import DELIVERY_STATES, list_options, reasons_of_deliveries, require_known, wanted
from dicomnode.cli.options import (
    config_option,
    configured_peers,
    find_peer,
    id_argument,
    json_option,
    load_settings,
    operator,
    reader,
    writer,
)
from dicomnode.ids import DeliveryId

if TYPE_CHECKING:
    from dicomnode.ledger.store import Ledger
    from dicomnode.settings.models import Settings


@click.group(short_help="What was sent to whom, and what waits.")
def deliveries() -> None:
    """What was sent to whom, and what waits."""


@deliveries.command("list")
@list_options(DELIVERY_STATES)
@config_option
@json_option
def list_deliveries(config: Path | None, as_json: bool, **filters: Any) -> None:
    """List the deliveries, the newest first: 20 on a terminal, 100 to a pipe or as JSON.

    A delivery is shown that came to the state it is in since WHEN.
    """
    want = wanted(**filters, as_json=as_json)
    with reader(config) as ledger:
        require_known("reason of a delivery", want.reasons, reasons_of_deliveries)
        require_known("peer", want.peers, lambda: configured_peers(config), ledger.receivers)
        rows = ledger.deliveries_list(want)
        total = ledger.count_deliveries(want) if len(rows) == want.limit else len(rows)
    names = ("id", "state", "peer", "series", "items", "acknowledged", "refused", "next_at", "reason", "sentence")
    none = "No deliveries." if want.is_narrow else "No deliveries yet."
    output.print_rows(rows, {name: name for name in names}, as_json=as_json, none=none)
    output.print_cut(len(rows), total, "deliveries")


@deliveries.command()
@id_argument
@click.option("--to", "peer", metavar="PEER", help="Send it to this peer instead: all its instances.")
@config_option
@json_option
def retry(number: int, peer: str | None, config: Path | None, as_json: bool) -> None:
    """Try delivery ID now; instances that the peer refused are tried again too.

    With --to it goes to another peer of the settings, as a delivery of its own; if it is not sent yet, ID is cancelled.
    """
    settings = load_settings(config)
    if peer is not None:
        find_peer(settings, peer)
    with writer(config) as ledger:
        if peer is None:
            ledger.retry_delivery(DeliveryId(number), operator())
            done, there = f"Delivery {number} is due now.{_caution(ledger, number, settings)}", number
        else:
            there = ledger.send_delivery_to(DeliveryId(number), peer, operator())
            done = f"Delivery {there} to {peer} is due now."
    output.print_done(done, row=there, as_json=as_json)


@deliveries.command()
@id_argument
@config_option
@json_option
def release(number: int, config: Path | None, as_json: bool) -> None:
    """Let the held delivery ID go."""
    settings = load_settings(config)
    with writer(config) as ledger:
        ledger.release_delivery(DeliveryId(number), operator())
        done = f"Delivery {number} is due.{_caution(ledger, number, settings)}"
    output.print_done(done, row=number, as_json=as_json)


@deliveries.command()
@id_argument
@config_option
@json_option
def cancel(number: int, config: Path | None, as_json: bool) -> None:
    """Send no more of delivery ID. What the peer has of it stays there; `deliveries retry` takes the cancel back."""
    with writer(config) as ledger:
        ledger.cancel_delivery(DeliveryId(number), operator())
    output.print_done(f"Delivery {number} is cancelled.", row=number, as_json=as_json)


def _caution(ledger: Ledger, number: int, settings: Settings) -> str:
    """Tell the operator that a delivery which was made due has a peer that nothing can be sent to."""
    from dicomnode.ledger.lists import no_peer_sentence

    peer = ledger.peer_of_delivery(DeliveryId(number))
    return "" if peer in settings.reachable_peers else f" {no_peer_sentence(number, peer)}"
