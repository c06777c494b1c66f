"""The tables of states as data, and the page that is drawn from them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from dicomnode.ledger import states
from dicomnode.ledger.states import BIRTHS, JOB_TRANSITIONS, TRANSITIONS, Event, JobState, step

PAGE_MAKER = Path(__file__).parents[2] / "docs" / "make_states.py"


@pytest.mark.parametrize("table", list(TRANSITIONS))
def test_every_state_can_be_reached_from_a_birth(table: str) -> None:
    reached = {str(state) for state in BIRTHS[table]}
    moves = {(source, target) for name, source, target in states.changes() if name == table and source}
    while new := {target for source, target in moves if source in reached} - reached:
        reached |= new
    assert reached == {str(state) for state in TRANSITIONS[table]}


@pytest.mark.parametrize("table", list(TRANSITIONS))
def test_an_event_leads_to_one_state_of_a_table(table: str) -> None:
    events = {event for outcomes in TRANSITIONS[table].values() for event in outcomes}
    for event in events:
        sources, target = step(table, event)
        assert sources
        assert target in TRANSITIONS[table]


def test_an_event_that_a_table_does_not_know_is_our_mistake() -> None:
    with pytest.raises(AssertionError):
        step("series", Event.ACKNOWLEDGE)


def test_what_is_done_stays_done() -> None:
    assert JOB_TRANSITIONS[JobState.DONE] == {}


def test_the_page_of_states_is_as_the_tables_are() -> None:
    spec = importlib.util.spec_from_file_location("make_states", PAGE_MAKER)
    assert spec is not None
    assert spec.loader is not None
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    assert maker.PAGE.read_text(encoding="utf-8") == maker.render(), "run `python docs/make_states.py`"
