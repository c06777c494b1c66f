"""``dicomnode series`` lists and explains series, and lets an operator retry, release or cancel one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dicomnode.cli import output
from dicomnode.cli.filters import SERIES_STATES, list_options, reasons_of_series, require_known, wanted
from dicomnode.cli.identity import find_identity
from dicomnode.cli.options import (
    config_option,
    configured_peers,
    id_argument,
    json_option,
    load_settings,
    operator,
    reader,
    writer,
)

identify_option = click.option(
    "--identify",
    is_flag=True,
    help="Also show UIDs, and texts about patient, study and series. Default: only the node's own ids.",
)


@click.group(short_help="List and explain series; retry, release or cancel one.")
def series() -> None:
    """List and explain the series that were received; retry, release or cancel one."""


@series.command("list", short_help="List the series.")
@click.option("--derived", is_flag=True, help="Also list the series that this node derived. Default: received series.")
@list_options(SERIES_STATES)
@config_option
@json_option
def list_series(derived: bool, config: Path | None, as_json: bool, **filters: Any) -> None:
    """List the series, the newest first.

    --state and --reason take those of the series or of its last job. --peer takes the sender of an instance. --since
    takes series whose last instance arrived since WHEN.
    """
    want = wanted(**filters, as_json=as_json)
    with reader(config) as ledger:
        require_known("reason of a series", want.reasons, reasons_of_series)
        require_known("peer", want.peers, lambda: configured_peers(config), ledger.senders)
        rows = ledger.series_list(want, derived=derived)
        total = ledger.count_series(want, derived=derived) if len(rows) == want.limit else len(rows)
    columns = {name: name for name in ("id", "state", "revision", "reason", "instances", "job_state", "last_at")}
    columns |= {"source": "made from"} if derived else {}
    output.print_rows(rows, columns, as_json=as_json, none="No series." if want.is_narrow else "No series yet.")
    output.print_cut(len(rows), total, "series")


@series.command(short_help="Show one series with its files, jobs and deliveries.")
@id_argument
@identify_option
@config_option
@json_option
def show(number: int, identify: bool, config: Path | None, as_json: bool) -> None:
    """Show series ID with its files, jobs and deliveries."""
    with reader(config) as ledger:
        found = ledger.series_show(number, identify=identify)
        identity = find_identity(ledger, number, config) if identify else None
    output.print_facts(found, as_json=as_json, identity=identity)


@series.command(short_help="Explain why a series was derived, or why not.")
@id_argument
@identify_option
@config_option
@json_option
def explain(number: int, identify: bool, config: Path | None, as_json: bool) -> None:
    """Explain why series ID was derived, or why not, and list what has happened to it."""
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


@series.command(short_help="Print the passport of a series.")
@id_argument
@click.option("--html", is_flag=True, help="Print a page of HTML for reading and printing. Default: text.")
@click.option("--identify", is_flag=True, help="Also show UIDs. Default: only the node's own ids.")
@config_option
@json_option
def passport(number: int, html: bool, identify: bool, config: Path | None, as_json: bool) -> None:
    """Print everything that is known of how the series derived from series ID came to be, and where it went.

    These are the digests of the received and derived files, the verdict, each job with its model, parameters and result
    gate, each delivery with the proof of the peer, and every event. It holds no text about the patient.
    """
    if html and as_json:
        raise click.UsageError("--html and --json exclude each other.")
    data = load_settings(config).node.data
    from dicomnode import passport as passports
    from dicomnode.seams import SYSTEM_CLOCK

    with reader(config) as ledger:
        found = passports.passport(ledger, number, data, SYSTEM_CLOCK.now(), identify=identify)
    if html:
        from dicomnode.web.render import passport_page

        output.say_lines(passport_page(found).decode())
    elif as_json:
        output.say_lines(passports.as_json(found))
    else:
        output.print_facts(found, as_json=False)


@series.command(short_help="Judge a series again.")
@id_argument
@config_option
@json_option
def retry(number: int, config: Path | None, as_json: bool) -> None:
    """Judge series ID again now, with the present settings.

    A job that is held or failed starts again. After a job that is done, a new job derives the series once more.
    """
    from dicomnode import acts

    with writer(config) as ledger:
        done = acts.retry_series(ledger.operator, number, operator())
    output.print_done(done, row=number, as_json=as_json)


@series.command(short_help="Derive a series without what was set aside, or go on with its held job.")
@id_argument
@config_option
@json_option
def release(number: int, config: Path | None, as_json: bool) -> None:
    """Go on with series ID as it is.

    What was set aside of it counts as seen, and its alert ends. A held job runs, a series that was kept because of what
    was set aside is judged without it, and one that was pulled is judged like one that was sent. A series whose rule
    chose another one of the study is derived, too.
    """
    from dicomnode import acts

    with writer(config) as ledger:
        done = acts.release_series(ledger.operator, number, operator())
    output.print_done(done, row=number, as_json=as_json)


@series.command(short_help="Cancel the jobs of a series.")
@id_argument
@config_option
@json_option
def cancel(number: int, config: Path | None, as_json: bool) -> None:
    """Cancel the jobs of series ID that wait, run, are held or failed.

    A running job is stopped within seconds. `series retry` judges the series again and plans a new job.
    """
    from dicomnode import acts

    with writer(config) as ledger:
        done = acts.cancel_series(ledger.operator, number, operator())
    output.print_done(done, row=number, as_json=as_json)
