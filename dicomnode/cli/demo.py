"""``dicomnode demo`` sends two sample series through a node and a small PACS on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dicomnode.cli import output
from dicomnode.cli.options import json_option

if TYPE_CHECKING:
    from dicomnode.demo.tour import TourLine, TourReport

NOT_AS_CLAIMED = 1


@click.command(short_help="Derive two sample series on this machine.")
@click.option(
    "--out",
    metavar="FOLDER",
    default="demo-output",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Write the pictures into FOLDER; files there are never overwritten.",
)
@json_option
def demo(out: Path, as_json: bool) -> int:
    """Start a node and a small PACS on this machine, send two thick series through them, and show the results.

    Exit code 0 if both derived series are complete at the PACS and the model is better than interpolation where the
    truth is known, else 1.
    """
    from dicomnode import log
    from dicomnode.demo.tour import run_tour

    log.start_logging("warning", "auto")
    report = run_tour(out, say=lambda line: output.say(f"demo: {line}", err=True))
    if as_json:
        output.print_json(report)
    else:
        _print(report)
    return 0 if report.is_good else NOT_AS_CLAIMED


def _print(report: TourReport) -> None:
    output.say("")
    headings = ("", *(line.sample for line in report.samples))
    columns = [_facts(line) for line in report.samples]
    output.print_table([[name, *(facts[name] for facts in columns)] for name in columns[0]], headings)
    output.say("")
    for line in report.samples:
        if line.problem:
            output.say(f"{line.sample}: {line.problem}")
    for picture in report.pictures:
        output.say(f"picture: {picture}")
    output.say(f"{report.seconds:.0f} s in all, model {report.model}. Computed slices: not for primary diagnosis.")


def _facts(line: TourLine) -> dict[str, str]:
    stages = line.stages
    gain = "truth unknown" if line.gain_db is None else f"{line.gain_db:+.2f} dB"
    return {
        "slices sent": str(line.sent),
        "slices derived": str(line.derived),
        "spacing before": f"{line.spacing_before_mm:g} mm",
        "spacing after": f"{line.spacing_after_mm:g} mm",
        "receive": f"{stages.receive:.1f} s",
        "settle": f"{stages.settle:.1f} s",
        "wait for the worker": f"{stages.wait:.1f} s",
        "derive": f"{stages.derive:.1f} s",
        "deliver": f"{stages.deliver:.1f} s",
        "gain over cubic-dc": gain,
        "in the model's data": line.split,
        "at the PACS": f"{line.found} of {line.derived}" + (", identical" if line.is_whole else ""),
    }
