"""``dicomnode check`` finds what would keep the node from working before the first image arrives."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dicomnode.cli import output
from dicomnode.cli.options import config_option, find_peer, json_option, load_settings, operator, refuse_given

if TYPE_CHECKING:
    from dicomnode.settings.models import Settings

NOT_FIT, CLUSTER_NOT_FIT, PEER_NOT_FIT = 2, 4, 4
TICKS = {"ok": "[x]", "warn": "[!]", "fail": "[ ]", "open": "[?]"}


@click.command(short_help="Check settings, disk, ledger, models and peers.")
@click.option(
    "--echo", is_flag=True, help="Also ask each peer that is sent to for an answer. Default: contact no peer."
)
@click.option(
    "--rehearse",
    metavar="PEER",
    help="Try everything with this peer instead: connection, TLS, association or DICOMweb service, five test images, "
    "a query for them, storage commitment. The images stay at the peer until its team deletes them. Default: send "
    "nothing.",
)
@click.option(
    "--wait",
    "wait_s",
    metavar="SECONDS",
    type=click.FloatRange(0, 3600),
    default=0.0,
    help="With --rehearse, wait so long for the peer to report or to send a C-ECHO. Default: 15 s for a report.",
)
@config_option
@json_option
def check(echo: bool, rehearse: str | None, wait_s: float, config: Path | None, as_json: bool) -> int:
    """Check settings, data folder, free disk, ledger, models, peers, and the cluster if there is one.

    The command may run while the service runs. Without --rehearse it changes nothing, here or elsewhere. Exit code 0 if
    nothing would keep the node from working, 4 if only the cluster would, else 2. With --rehearse the exit code is 4 if
    a step fails.
    """
    settings = load_settings(config)
    if rehearse is not None:
        refuse_given({"echo"}, "with --rehearse", "A rehearsal sends a C-ECHO anyway; leave --echo out.")
        return _rehearse(settings, rehearse, wait_s=wait_s, as_json=as_json)
    refuse_given({"wait_s"}, "without --rehearse", "Name the peer: --rehearse PEER.")
    from dicomnode.checks import sheet
    from dicomnode.checks.cluster import CLUSTER
    from dicomnode.checks.row import Mark

    rows = sheet.check(settings, with_echo=echo)
    columns = {"mark": "", "what": "what", "sentence": "found", "hint": "what to do"}
    output.print_rows(rows, columns, as_json=as_json, none="")
    failed = [row.what for row in rows if row.mark is Mark.FAIL]
    if not failed:
        return 0
    return CLUSTER_NOT_FIT if all(what.startswith(CLUSTER) for what in failed) else NOT_FIT


def _rehearse(settings: Settings, name: str, *, wait_s: float, as_json: bool) -> int:
    """Rehearse with the peer of that name, and print what was found and the hand-over sheet."""
    peer = find_peer(settings, name)
    from dicomnode.rehearsal.findings import Side
    from dicomnode.rehearsal.rehearse import rehearse

    found = rehearse(settings, peer, wait_s=wait_s, by=operator(), say=lambda line: output.say(line, err=True))
    if as_json:
        output.print_json(found)
        return 0 if found.is_good else PEER_NOT_FIT
    width = max(len(step.what) for step in found.steps)
    for step in found.steps:
        output.say(f"{TICKS[step.mark]} {step.what.ljust(width)}  {step.sentence}")
        if step.hint:
            output.say(f"    {' ' * width}  {step.side[:1].upper()}{step.side[1:]}: {step.hint}")
    for side in (Side.PACS, Side.OURS):
        output.say(f"Hand-over sheet, {side}:")
        for line in found.sheet:
            if line.side is side:
                output.say(f"  {TICKS[line.mark]} {line.item}")
    return 0 if found.is_good else PEER_NOT_FIT
