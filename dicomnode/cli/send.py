"""``dicomnode send`` sends files to a peer once, without the ledger."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from dicomnode.cli import output
from dicomnode.cli.options import config_option, find_peer, json_option, load_settings
from dicomnode.errors import InputError, PeerError


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """The result that is printed."""

    peer: str
    sent: int
    failed: tuple[str, ...]  # "path: sentence"


@click.command(short_help="Send files to a peer.")
@click.argument("peer")
@click.argument("paths", metavar="PATH…", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@config_option
@json_option
def send(peer: str, paths: tuple[Path, ...], config: Path | None, as_json: bool) -> None:
    """Send the DICOM files at PATH, or in folders below it, to PEER, the name of a peer in the settings.

    Each file is sent once, without retry: by C-STORE, or by STOW-RS to a peer with a url. Exit code 4 if a file was not
    stored.
    """
    settings = load_settings(config)
    chosen = find_peer(settings, peer)
    from dicomnode import wire
    from dicomnode.push.carriers import carriers_of
    from dicomnode.push.send_files import send_files

    sent, failed = 0, []
    for result in send_files(carriers_of(settings), chosen, paths):
        status = result.outcome.status
        if status is None:
            failed.append(f"{result.path}: {result.outcome.sentence}")
        elif (meaning := wire.status_of(status)).action in (wire.Action.ACCEPT, wire.Action.WARN):
            sent += 1
        else:
            failed.append(f"{result.path}: {status:04X}, {meaning.meaning}")
    if not sent and not failed:
        raise InputError("There is no DICOM file in what was named.")
    output.print_facts(Sent(peer=peer, sent=sent, failed=tuple(failed)), as_json=as_json)
    if failed:
        raise PeerError(f"{len(failed)} of {sent + len(failed)} files were not stored by {peer}.")
