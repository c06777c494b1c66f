"""The pages that change nothing: today, the lists, one series, the passport. Each is a function of one visit."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlencode

from dicomnode.acts import ON_DELIVERY, ON_SERIES, is_refreshable
from dicomnode.errors import InputError
from dicomnode.ledger.lists import Wanted
from dicomnode.ledger.states import DeliveryState, JobState, SeriesState
from dicomnode.ledger.views import JobLine, SeriesDetail
from dicomnode.passport import Passport, as_json, passport
from dicomnode.web import render
from dicomnode.web.commands import Commands
from dicomnode.web.entry import Entry, Person, clean_name
from dicomnode.web.exchange import JSON, Answer, Request, see_other
from dicomnode.web.node import Node
from dicomnode.web.render import page

ROWS: Final = 50  # on one page of a list
SERIES_STATES: Final = (*SeriesState, *JobState)

_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}")
_FILTERS: Final = ("state", "reason", "peer", "from", "to", "derived")


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One request of one person to one node."""

    request: Request
    person: Person
    node: Node
    entry: Entry

    def show(self, template: str, *, status: HTTPStatus = HTTPStatus.OK, **values: Any) -> Answer:
        """Render a template, with the values that every page shows."""
        web = self.node.settings.web
        body = page(
            template,
            nonce=self.request.nonce,
            node=self.node.settings.node.ae_title,
            now=self.node.clock.now(),
            person=self.person,
            has_token=self.entry.has_token,
            may_act=web.actions,
            has_runs=bool(web.runs),
            form_key=self.entry.form_key(self.person),
            path=self.request.path,
            **values,
        )
        return Answer(status=status, body=body)

    def refuse_without_actions(self) -> None:
        """Raise InputError where the settings let nobody change anything on the page."""
        if not self.node.settings.web.actions:
            raise InputError("Nothing can be changed on this page.", hint="The key web.actions is false.")

    def signed(self) -> str:
        """Return the name of the person who acts, for the record. Raises InputError where none is given."""
        person = self.person.name or clean_name(self.request.filled("name"))
        if not person:
            raise InputError("A name is needed, for the record; nothing was done.", hint="Letters, digits and blanks.")
        return person

    def begin(self, commands: Commands, on: str, words: Sequence[str], *, said: str = "") -> None:
        """Begin a command with the settings file of the page. Raises InputError where that is not possible now.

        ``said`` is its standard input: what no list of processes is to show.
        """
        file = self.node.current.file
        if file is None:
            raise InputError(
                "The page has no settings file to begin a command with; nothing was begun.",
                hint="Start it with `dicomnode web --config FILE`.",
            )
        if not commands.begin(on, words, file, self.node.clock.now(), said):
            raise InputError(f"A {commands.what} is under way; nothing was begun.", hint="Wait until it has ended.")


def today(visit: Visit) -> Answer:
    """Show the first page."""
    return visit.show("today.html", today=visit.node.today(), knows_peers=visit.node.settings.names_peers)


def today_live(visit: Visit) -> Answer:
    """Show the part of the first page that its script asks for again and again."""
    return visit.show("live.html", today=visit.node.today())


def series_list(visit: Visit) -> Answer:
    """Show the list of the series, or go to the one whose number was asked for."""
    number = visit.request.asked("number")
    if number.isascii() and number.isdigit() and len(number) < 10:
        return see_other(f"/series/{int(number)}")
    reader = visit.node.reader
    wanted = _wanted(visit.request, SERIES_STATES)
    rows = reader.series_list(wanted, derived=visit.request.asked("derived") == "yes")
    return _list(visit, "series.html", rows, wanted, SERIES_STATES, sorted(reader.kept()))


def deliveries_list(visit: Visit) -> Answer:
    """Show the list of the deliveries."""
    wanted = _wanted(visit.request, tuple(DeliveryState))
    rows = visit.node.reader.deliveries_list(wanted)
    return _list(visit, "deliveries.html", rows, wanted, tuple(DeliveryState), [])


def one_series(visit: Visit, number: int) -> Answer:
    """Show the story of a series, with its deliveries and the acts that are offered."""
    detail, told = visit.node.reader.series_show(number), visit.node.reader.series_explain(number)
    states = {told.state, *([told.job.state] if told.job is not None else [])}
    is_received = detail.source is None
    return visit.show(
        "one.html",
        detail=detail,
        told=told,
        job=done_job(detail),
        acts={
            name: act
            for name, act in ON_SERIES.items()
            if is_received and act.is_offered(states, reason=detail.reason, alert=detail.alert)
        },
        delivery_acts={
            line.id: {name: act for name, act in ON_DELIVERY.items() if act.is_offered({line.state})}
            for line in told.deliveries
        },
        refreshable=[line.id for line in told.deliveries if is_refreshable(line)],
        has_viewer=bool(visit.node.settings.web.viewer_url),
    )


def passport_page(visit: Visit, number: int) -> Answer:
    """Show the passport of a series, to be read and printed."""
    return Answer(body=render.passport_page(_passport(visit, number), nonce=visit.request.nonce))


def passport_json(visit: Visit, number: int) -> Answer:
    """Return the passport of a series as JSON, for a program."""
    return Answer(body=f"{as_json(_passport(visit, number))}\n".encode(), content_type=JSON)


def _passport(visit: Visit, number: int) -> Passport:
    node = visit.node
    return passport(node.reader, number, node.settings.node.data, node.clock.now())


def done_job(detail: SeriesDetail) -> JobLine | None:
    """Find the job that made a derived series, or the last done one of a received series; None: there is none."""
    done = [job for job in detail.jobs if job.state == JobState.DONE and job.output_series is not None]
    return next((job for job in reversed(done) if detail.id in (job.output_series, job.series)), None)


def _list(
    visit: Visit, template: str, rows: Sequence[Any], wanted: Wanted, states: Sequence[str], reasons: Sequence[str]
) -> Answer:
    asked = {name: visit.request.asked(name) for name in _FILTERS}
    filled = {name: value for name, value in asked.items() if value}
    is_more = len(rows) > ROWS
    older = urlencode({**filled, "before": rows[ROWS - 1].id}) if is_more else ""
    return visit.show(
        template,
        rows=rows[:ROWS],
        asked=asked,
        states=states,
        reasons=reasons,
        peers=[peer.name for peer in visit.node.settings.peer],
        is_narrow=wanted.is_narrow,
        older=older,
        newest=urlencode(filled) if wanted.before is not None else None,
    )


def _wanted(request: Request, states: Sequence[str]) -> Wanted:
    """Read the filter of a list from the query. Raises InputError where a field cannot be read."""
    state = request.asked("state")
    if state and state not in states:
        raise InputError("There is no such state.", hint="Choose one of the list.")
    before = request.asked("before")
    if before and not (before.isascii() and before.isdigit() and len(before) < 19):
        raise InputError("The place in the list cannot be read.", hint="Begin with the newest.")
    return Wanted(
        states=(state,) if state else (),
        reasons=(reason,) if (reason := request.asked("reason")) else (),
        peers=(peer,) if (peer := request.asked("peer")) else (),
        since=_day(request, "from"),
        until=_day(request, "to", later=1),
        before=int(before) if before else None,
        limit=ROWS + 1,
    )


def _day(request: Request, name: str, *, later: int = 0) -> datetime | None:
    """Return the begin of a day on the clock of this machine, or of the day ``later`` days after it."""
    text = request.asked(name)
    if not text:
        return None
    try:
        if not _DATE.fullmatch(text):
            raise ValueError
        return (datetime.fromisoformat(text) + timedelta(days=later)).astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise InputError("The date cannot be read.", hint="A date looks like 2026-03-04.") from exc


Page = Callable[[Visit], Answer]
