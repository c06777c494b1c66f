"""``dicomnode pull`` fetches studies from a peer into the archive."""

from __future__ import annotations

from pathlib import Path

import click

from dicomnode.cli import output
from dicomnode.cli.options import config_option, find_peer, json_option, load_settings, operator, writer
from dicomnode.errors import InputError, PeerError


@click.command(short_help="Fetch studies from a peer.")
@click.argument("peer")
@click.option("--study", metavar="UID", multiple=True, help="Fetch the study with this UID. May be given again.")
@click.option("--patient", metavar="ID", default="", help="Fetch the studies of this patient.")
@click.option(
    "--since", metavar="DAYS", type=click.IntRange(0, 36_500), help="Fetch the studies of the last DAYS days."
)
@click.option(
    "--match",
    metavar="KEYWORD=PATTERN",
    multiple=True,
    help="Fetch only series with such a value, such as SeriesDescription=*T2*. May be given again. Default: every MR "
    "series.",
)
@click.option("--dry-run", is_flag=True, help="Count what is there, and fetch nothing.")
@click.option("--process", is_flag=True, help="Have the rules take what came. Default: it is kept as it is.")
@config_option
@json_option
def pull(
    peer: str,
    study: tuple[str, ...],
    patient: str,
    since: int | None,
    match: tuple[str, ...],
    dry_run: bool,
    process: bool,
    config: Path | None,
    as_json: bool,
) -> None:
    """Fetch MR series of studies from PEER, the name of a peer in the settings, while the service runs.

    The peer is asked by C-FIND and brings what is absent here by C-MOVE, or by C-GET where it refuses that; one with a
    url is asked by QIDO-RS and WADO-RS. What came is counted in the ledger; what did not is fetched one by one. Exit
    code 4 if an instance is absent.
    """
    settings = load_settings(config)
    chosen = find_peer(settings, peer)
    if bool(study) == bool(patient or since is not None):
        raise InputError("Which studies?", hint="Name --study, or --patient and --since, one of them at least.")
    from dicomnode.ids import SeriesId
    from dicomnode.pull import fetch
    from dicomnode.pull.opened import opened
    from dicomnode.seams import SYSTEM_CLOCK

    now = SYSTEM_CLOCK.now()
    day = None if since is None else fetch.since(since, now)
    wish = fetch.Wish(studies=study, patient=patient, since=day, matches=fetch.patterns(match))
    rows = []
    with writer(config) as ledger, opened(settings, chosen) as source:
        for found in fetch.find_series(source, wish):
            fetch.refuse_in(chosen.pull_blackout, peer, SYSTEM_CLOCK.now())
            row = fetch.look_up(ledger, found) if dry_run else fetch.fetch(source, ledger, found)
            rows.append(row)
            if process and row.series is not None and row.here > row.before:
                ledger.operator.release_series(SeriesId(row.series), operator())
    columns = {"series": "series", "wanted": "there", "before": "before", "here": "here", "others": "other classes",
               "sentence": "what is wrong"}  # fmt: skip
    output.print_rows(rows, columns, as_json=as_json, none="The peer has no such series.")
    absent = sum(row.wanted - row.here for row in rows)
    if absent and not dry_run:
        raise PeerError(f"{absent} of {sum(row.wanted for row in rows)} instances did not come from {peer}.")
