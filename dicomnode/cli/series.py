"""``dicomnode series list|show|explain|retry|release``: what was received, and what became of it."""

from __future__ import annotations

from pathlib import Path

import click

from dicomnode.cli import output
from dicomnode.cli.identity import find_identity
from dicomnode.cli.options import config_option, id_argument, json_option, operator, reader, writer
from dicomnode.ids import SeriesId

identify_option = click.option("--identify", is_flag=True, help="Show UIDs and the patient's and series' texts too.")


@click.group(short_help="What was received, and why it was derived or not.")
def series() -> None:
    """What was received, why it was derived or not, and the operator's verbs."""


@series.command("list")
@click.option("--derived", is_flag=True, help="The series that this node made as well.")
@config_option
@json_option
def list_series(derived: bool, config: Path | None, as_json: bool) -> None:
    """List the series, the oldest first."""
    with reader(config) as ledger:
        rows = ledger.series_list(derived=derived)
    columns = {name: name for name in ("id", "state", "revision", "reason", "instances", "job_state", "last_at")}
    columns |= {"source": "made from"} if derived else {}
    output.print_rows(rows, columns, as_json=as_json, none="No series yet.")


@series.command()
@id_argument
@identify_option
@config_option
@json_option
def show(number: int, identify: bool, config: Path | None, as_json: bool) -> None:
    """Show series ID: its files, jobs and deliveries."""
    with reader(config) as ledger:
        found = ledger.series_show(number, identify=identify)
        identity = find_identity(ledger, number, config) if identify else None
    output.print_facts(found, as_json=as_json, identity=identity)


@series.command()
@id_argument
@identify_option
@config_option
@json_option
def explain(number: int, identify: bool, config: Path | None, as_json: bool) -> None:
    """Say why series ID was derived, or why not, and what happened since."""
    with reader(config) as ledger:
        found = ledger.series_explain(number, identify=identify)
        identity = find_identity(ledger, number, config) if identify else None
    if as_json:
        output.print_facts(found, as_json=True, identity=identity)
        return
    output.say(f"Series {found.id}, revision {found.revision}: {found.state}")
    for sentence in found.sentences:
        output.say(f"  {sentence}")
    if identity:
        output.print_facts(identity, as_json=False, series_instance_uid=found.series_uid)
    output.say("")
    columns = {name: name for name in ("at", "table", "row", "kind", "from_state", "to_state", "by", "count", "detail")}
    output.print_rows(found.events, columns, as_json=False, none="No events.")


@series.command()
@id_argument
@config_option
@json_option
def retry(number: int, config: Path | None, as_json: bool) -> None:
    """Judge series ID again now; a held or failed job begins anew, a done one gets a successor."""
    with writer(config) as ledger:
        ledger.retry_series(SeriesId(number), operator())
    output.print_done(f"Series {number} is judged again.", row=number, as_json=as_json)


@series.command()
@id_argument
@config_option
@json_option
def release(number: int, config: Path | None, as_json: bool) -> None:
    """Let series ID go on as it is: what was set aside of it counts as seen, its alert ends, a held job goes on."""
    with writer(config) as ledger:
        ledger.release_series(SeriesId(number), operator())
    output.print_done(f"Series {number} goes on as it is.", row=number, as_json=as_json)
