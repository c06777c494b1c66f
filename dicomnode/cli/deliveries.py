"""``dicomnode deliveries`` lists deliveries and lets an operator retry, release or cancel one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

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
from dicomnode.errors import InputError
from dicomnode.ids import DeliveryId

if TYPE_CHECKING:
    from dicomnode.settings.models import Settings

MOST_SIGNS: Final = 500  # longest name or note


@dataclass(frozen=True, slots=True, kw_only=True)
class PatientLine:
    """One attribute of the patient, in the output of ``release --refresh --dry-run``."""

    attribute: str  # keyword
    here: str
    peer: str
    derived: str


class Word(click.ParamType[str]):
    """A line of text that the ledger keeps."""

    name = "TEXT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text without blanks at its ends; refuse what is too long."""
        text = str(value).strip()
        if len(text) > MOST_SIGNS:
            self.fail(f"It has {len(text)} signs; at most {MOST_SIGNS} are kept.", param, ctx)
        return text


class Note(Word):
    """A word, or ``-`` for the text of the standard input, which no list of processes shows."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text, as ``Word`` does."""
        return super().convert(sys.stdin.read() if value == "-" else value, param, ctx)


@click.group(short_help="List deliveries; retry, release or cancel one.")
def deliveries() -> None:
    """List deliveries; retry, release or cancel one.

    A delivery sends the derived series of one job, or a series as it was received, to one peer.
    """


@deliveries.command("list", short_help="List the deliveries.")
@list_options(DELIVERY_STATES)
@config_option
@json_option
def list_deliveries(config: Path | None, as_json: bool, **filters: Any) -> None:
    """List the deliveries, the newest first.

    --peer takes the peer that a delivery goes to. --since takes deliveries that entered their present state since WHEN.
    """
    want = wanted(**filters, as_json=as_json)
    with reader(config) as ledger:
        require_known("reason of a delivery", want.reasons, reasons_of_deliveries)
        require_known("peer", want.peers, lambda: configured_peers(config), ledger.receivers)
        rows = ledger.deliveries_list(want)
        total = ledger.count_deliveries(want) if len(rows) == want.limit else len(rows)
    names = (
        "id",
        "state",
        "peer",
        "series",
        "content",
        "items",
        "acknowledged",
        "refused",
        "proof",
        "next_at",
        "reason",
        "sentence",
    )
    none = "No deliveries." if want.is_narrow else "No deliveries yet."
    output.print_rows(rows, {name: name for name in names}, as_json=as_json, none=none)
    output.print_cut(len(rows), total, "deliveries")


@deliveries.command(short_help="Send a delivery now, or to another peer.")
@id_argument
@click.option(
    "--to", "peer", metavar="PEER", help="Send all instances to PEER instead. Default: the peer of the delivery."
)
@config_option
@json_option
def retry(number: int, peer: str | None, config: Path | None, as_json: bool) -> None:
    """Send delivery ID now, together with the instances that the peer refused before.

    With --to, a new delivery sends all instances to another peer of the settings. Delivery ID is then cancelled unless
    it was sent already.
    """
    settings = load_settings(config)
    if peer is not None:
        find_peer(settings, peer)
    from dicomnode import acts

    with writer(config) as ledger:
        if peer is None:
            done, there = acts.retry_delivery(ledger.operator, number, operator(), settings.reachable_peers), number
        else:
            there = ledger.operator.send_delivery_to(DeliveryId(number), peer, operator())
            done = f"Delivery {there} to {peer} is due now."
    output.print_done(done, row=there, as_json=as_json)


def word_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options with which a person signs a decision on a delivery."""
    by = click.option(
        "--by",
        "person",
        metavar="NAME",
        type=Word(),
        help="Record NAME beside the user of this machine. Default: none.",
    )
    note = click.option(
        "--note",
        default="",
        metavar="TEXT|-",
        type=Note(),
        help="Record why; -: as the standard input says. Default: nothing.",
    )
    return by(note(command))


@deliveries.command(short_help="Send a delivery that is held; of one under review, accept the result.")
@id_argument
@click.option(
    "--refresh",
    is_flag=True,
    help="Do not send it, but derive the series anew under the patient whom the peer has. Needs --by.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="With --refresh, show the patient here and at the peer, and change nothing. Default: change it.",
)
@word_options
@config_option
@json_option
def release(
    number: int, refresh: bool, dry_run: bool, person: str | None, note: str, config: Path | None, as_json: bool
) -> None:
    """Send delivery ID, which is held.

    If the delivery waits for review, this accepts the result.

    With --refresh the peer is asked whose the study is, and a new job derives a new series under that patient for the
    peers that have nothing of this result; the old series is never sent.
    """
    settings = load_settings(config)
    if refresh:
        _refresh(settings, DeliveryId(number), person, note, config, dry_run=dry_run, as_json=as_json)
        return
    if dry_run:
        raise InputError("--dry-run has no effect without --refresh.", hint="Leave it out.")
    from dicomnode import acts

    with writer(config) as ledger:
        done = acts.release_delivery(ledger.operator, number, signed(person), settings.reachable_peers, note=note)
    output.print_done(done, row=number, as_json=as_json)


def _refresh(
    settings: Settings,
    number: DeliveryId,
    person: str | None,
    note: str,
    config: Path | None,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    if person is None and not dry_run:
        raise InputError(
            "Whoever puts images under another patient signs; nothing was changed.",
            hint=f"`dicomnode deliveries release {number} --refresh --by NAME`; with --dry-run it shows both patients.",
        )
    from dicomnode.archive.store import Archive
    from dicomnode.push import refresh as room
    from dicomnode.push.carriers import carriers_of
    from dicomnode.push.witness import Witness

    archive = Archive(settings.node.data.absolute())
    with writer(config) as ledger:
        wanted = ledger.refreshes.wanted(number)
        peer = find_peer(settings, wanted.peer)
        found = room.compare(archive, wanted, peer, Witness(carriers_of(settings)))
        if dry_run:
            output.print_rows(
                [PatientLine(attribute=one, here=found.ours[one], peer=found.theirs[one], derived=found.wanted[one])
                 for one in found.wanted],
                {"attribute": "attribute", "here": "here", "peer": "at the peer", "derived": "as it would be derived"},
                as_json=as_json, none="",
            )  # fmt: skip
            return
        job = room.refresh(ledger, archive, number, found, by=signed(person), note=note)
    output.print_done(
        f"Job {job} derives the series anew under the patient whom {peer.name} names ({', '.join(found.differing)} "
        f"differ{'s' if len(found.differing) == 1 else ''}); delivery {number} is never sent.",
        row=job,
        as_json=as_json,
    )


@deliveries.command(short_help="Send no further instance of a delivery; of one under review, reject the result.")
@id_argument
@word_options
@config_option
@json_option
def cancel(number: int, person: str | None, note: str, config: Path | None, as_json: bool) -> None:
    """Send no further instance of delivery ID.

    The peer keeps the instances that it has. `deliveries retry` takes the cancellation back.

    If the delivery waits for review, this rejects the result, and --note is required. Later derivations of the same
    images are not sent to this peer either.
    """
    from dicomnode import acts

    with writer(config) as ledger:
        done = acts.cancel_delivery(ledger.operator, number, signed(person), note=note)
    output.print_done(done, row=number, as_json=as_json)


def signed(person: str | None) -> str:
    """Return who decides: the user of this machine, and the name that this user gave."""
    return operator() if person is None else f"{operator()} ({person})"
