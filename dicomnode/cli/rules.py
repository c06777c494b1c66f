"""``dicomnode rules test`` says which rule takes a series, why the others do not, and what the verdict would be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dicomnode.cli import output
from dicomnode.cli.options import config_option, json_option, load_settings
from dicomnode.errors import InputError

if TYPE_CHECKING:
    from dicomnode.rules import Reception
    from dicomnode.settings.models import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesTest:
    """The rule and the verdict that the node would give one series."""

    series: int  # from 1, in the order in which the series were found
    files: int
    first: Path
    rule: str | None  # None: no rule takes it
    passed_over: tuple[str, ...]  # a sentence for each rule that was tried before
    model: str
    process: bool
    reason: str
    sentence: str
    notes: tuple[str, ...]
    deliver_to: tuple[str, ...]
    release: str  # auto, review, shadow
    forward_originals: tuple[str, ...]


@click.group(short_help="Try the rules of the settings on files.")
def rules() -> None:
    """Try the rules of the settings on files, before a scanner sends the like."""


@rules.command(short_help="Say which rule takes the series of these files, and why the others do not.")
@click.argument("sources", metavar="FILE…", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--called-ae",
    metavar="TITLE",
    help="Test as if the sender had called this AE title of the node. Default: node.ae_title.",
)
@click.option(
    "--at",
    metavar="HH:MM",
    type=click.DateTime(["%H:%M"]),
    help="Test as if the series came at this time of the day, by this machine's clock. Default: now.",
)
@config_option
@json_option
def test(
    sources: tuple[Path, ...], called_ae: str | None, at: datetime | None, config: Path | None, as_json: bool
) -> None:
    """Say for each series in FILE… (files, or folders with all below) which rule takes it and what would become of it.

    The command reads headers only. It needs neither the service nor a PACS and changes nothing. It takes what it is
    given for the whole series: with a few slices only the rule is right, not the verdict. A rule that derives one
    series of each study chooses among the series that are given.
    """
    settings = load_settings(config)
    from dicomnode.pipeline import series_in
    from dicomnode.rules import Reception

    title = called_ae or settings.node.ae_title
    if title not in settings.node.titles:
        raise InputError(
            f"The node has no AE title {title}, so it refuses whoever calls it.",
            hint=f"It has {', '.join(settings.node.titles)} (node.ae_title, node.ae_titles).",
        )
    now = datetime.now().astimezone()
    received = Reception(called_ae=title, at=now.replace(hour=at.hour, minute=at.minute) if at else now)
    passed_over: list[str] = []
    series = series_in(*sources, note=passed_over.append)
    for line in passed_over:
        output.say(line, err=True)
    if not series:
        raise InputError("There is no DICOM series in these files.", hint="Name files or folders of MR images.")
    tested = _tested(list(series.values()), settings, received)
    if as_json:
        output.print_json(tested)
        return
    for one in tested:
        _print(one)


def _tested(series: Sequence[Sequence[Path]], settings: Settings, received: Reception) -> list[SeriesTest]:
    """Judge each series by the rules; where a rule derives one of a study, the others of that study are kept."""
    from dicomnode.checks.models import catalog_of
    from dicomnode.imaging.frame import read_frames
    from dicomnode.rules import judge_by_rules, study_of
    from dicomnode.settle.selection import most_slices

    catalog = catalog_of(settings)
    tested = []
    groups: list[tuple[object, int]] = []  # sets of series among which a rule chooses, with the number of slices
    for number, paths in enumerate(series, 1):
        frames = read_frames(paths)
        judged = judge_by_rules(frames, settings.rule, model_of=catalog.model_of, received=[received])
        rule, verdict = judged.choice.rule, judged.verdict
        tested.append(
            SeriesTest(
                series=number, files=len(paths), first=paths[0], rule=rule.name if rule else None,
                passed_over=judged.choice.passed_over, model=judged.model.name, process=verdict.process,
                reason=verdict.reason, sentence=verdict.sentence,
                notes=(*judged.choice.conflicts, *verdict.notes, *judged.broken),
                deliver_to=rule.deliver_to if rule else (), release=rule.release if rule else "auto",
                forward_originals=rule.forward_originals if rule else (),
            )
        )  # fmt: skip
        chooses = rule is not None and rule.select == "most_slices" and verdict.process
        groups.append(((tested[-1].rule, study_of(frames)) if chooses else number, verdict.slices))
    return [
        one if place == chosen else _unselected(one, groups[place][1], tested[chosen], groups[chosen][1])
        for place, (one, chosen) in enumerate(zip(tested, most_slices(groups), strict=True))
    ]


def _unselected(one: SeriesTest, slices: int, chosen: SeriesTest, most: int) -> SeriesTest:
    """Change the test of a series whose rule chooses another one of the same study."""
    from dicomnode.ledger.values import NOT_SELECTED
    from dicomnode.settle.selection import not_selected

    assert one.rule is not None
    sentence = not_selected(one.rule, slices, chosen.series, most)
    return replace(one, process=False, reason=NOT_SELECTED, sentence=sentence, notes=(one.sentence, *one.notes))


def _print(one: SeriesTest) -> None:
    """Print one series as a paragraph."""
    taken = "no rule takes it" if one.rule is None else f"rule {one.rule} takes it, with model {one.model}"
    output.say(f"Series {one.series} ({one.files} files, {one.first} first): {taken}.")
    for sentence in (*one.passed_over, one.sentence, *one.notes):
        output.say(f"  {sentence}")
    if one.process:
        peers = ", ".join(one.deliver_to)
        reviewed = " after a person has accepted it" if one.release == "review" else ""
        is_sent = peers and one.release != "shadow"
        output.say(f"  The result goes to {peers}{reviewed}." if is_sent else "  The result stays in the archive.")
    if one.forward_originals and one.reason != "own_output":
        output.say(f"  The series itself goes to {', '.join(one.forward_originals)}, unchanged.")
