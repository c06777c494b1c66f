"""``dicomnode purge`` erases the images of one patient from this node."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import click

from dicomnode.cli import output
from dicomnode.cli.options import config_option, json_option, load_settings, operator, writer
from dicomnode.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Purged:
    """The output of ``purge``."""

    erased: bool  # false: the images were only counted
    series: tuple[int, ...]  # received series
    instances: int  # received and derived
    set_aside: int  # files
    peers: tuple[str, ...]  # peers that have some of the images from this node
    unreadable: tuple[str, ...]  # files whose patient is unknown
    left: tuple[str, ...]  # files of the patient without a row
    headers: int  # headers that were read
    seconds: float


@click.command(short_help="Erase the images of one patient from this node.")
@click.option(
    "--patient",
    metavar="PATIENT_ID",
    required=True,
    help="Erase the images with this Patient ID (0010,0020). Write - to have it read from standard input.",
)
@click.option("--dry-run", is_flag=True, help="Count the images, and erase nothing. Default: erase them.")
@config_option
@json_option
def purge(patient: str, dry_run: bool, config: Path | None, as_json: bool) -> None:
    """Erase every image of one patient from this node: received, derived, set aside. The service may run.

    The command reads the header of every file. Jobs and deliveries of these images are cancelled; while one is being
    received or sent, the command refuses. What the PACS has got stays there.
    """
    patient_id = (sys.stdin.readline() if patient == "-" else patient).strip()
    if not patient_id:
        raise InputError(
            "The Patient ID is empty; nothing was erased.", hint="Images without a Patient ID are not found."
        )
    settings = load_settings(config)
    from dicomnode import purge as room
    from dicomnode.archive.store import Archive

    files = Archive(settings.node.data.absolute())
    began_s = time.monotonic()
    with writer(config) as ledger, output.progress_bar("purge", quiet=as_json) as progress:
        found = room.find_patient(
            files, patient_id, read=lambda count: progress(f"{count // 1000 * 1000} headers", 0.0)
        )
        wanted = room.by_source(ledger, found)
        peers = ledger.removals.receivers(wanted)
        if dry_run:
            room.refuse_in_use(ledger, wanted)
            erased = room.Erased(
                series=tuple(sorted(wanted)), instances=found.instances, set_aside=len(found.aside), left=()
            )
        else:
            erased = room.erase(files, ledger, found, operator())
    purged = Purged(
        erased=not dry_run,
        series=erased.series,
        instances=erased.instances,
        set_aside=erased.set_aside,
        peers=peers,
        unreadable=tuple(found.unreadable),
        left=erased.left,
        headers=found.read,
        seconds=round(time.monotonic() - began_s, 1),
    )
    output.print_facts(purged, as_json=as_json)
    if not as_json:
        for sentence in _sentences(purged):
            output.say(sentence)


def _sentences(purged: Purged) -> list[str]:
    if not (purged.series or purged.set_aside):
        return ["No image has this Patient ID.", *_doubts(purged)]
    said = ["The images were erased from this node." if purged.erased else "Nothing was erased: this was a dry run."]
    if purged.peers:
        said.append(f"{', '.join(purged.peers)} got images of the patient from this node, and must erase them there.")
    said.append("A backup holds them until `dicomnode db backup` has run into its folder again.")
    return said + _doubts(purged)


def _doubts(purged: Purged) -> list[str]:
    said = []
    if purged.unreadable:
        said.append(f"{len(purged.unreadable)} files have no header that can be read: look whose they are.")
    if purged.left:
        said.append(f"{len(purged.left)} files have no row and stay: run the command again after a restart.")
    return said
