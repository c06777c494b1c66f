"""``dicomnode echo`` asks a peer for an answer."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import click

from dicomnode.cli import output
from dicomnode.cli.options import config_option, find_peer, json_option, load_settings
from dicomnode.errors import PeerError


@dataclass(frozen=True, slots=True, kw_only=True)
class Echo:
    """The result that is printed."""

    peer: str
    ae_title: str
    address: str
    status: int
    seconds: float


@click.command(short_help="Ask a peer for an answer.")
@click.argument("peer")
@config_option
@json_option
def echo(peer: str, config: Path | None, as_json: bool) -> None:
    """Send a C-ECHO to PEER, the name of a peer in the settings; to one with a url, a search for no image.

    Exit code 4 if it does not answer.
    """
    settings = load_settings(config)
    chosen = find_peer(settings, peer)
    from dicomnode.push.carriers import carriers_of

    began = time.perf_counter()
    outcome = carriers_of(settings).echo(chosen)
    seconds = round(time.perf_counter() - began, 3)
    if outcome.status is None:
        raise PeerError(f"{peer}: {outcome.sentence}", hint=outcome.hint)
    if outcome.status:
        raise PeerError(f"{peer}: the peer answered the C-ECHO with status {outcome.status:04X}.")
    way = chosen.address or chosen.url
    row = Echo(peer=peer, ae_title=chosen.ae_title, address=way, status=outcome.status, seconds=seconds)
    output.print_facts(row, as_json=as_json)
