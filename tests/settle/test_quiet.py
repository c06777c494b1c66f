"""When a series counts as complete."""

from __future__ import annotations

from dataclasses import replace

from dicomnode.ids import SeriesId
from dicomnode.ledger.values import ReceivingSeries
from dicomnode.settings.models import SettleSettings
from dicomnode.settle.quiet import QuietWatch
from tests.settle.hand_clock import HandClock

SETTINGS = SettleSettings(quiet_s=30, aborted_wait_s=300, max_wait_s=1800)
NOTHING_OPEN: frozenset[SeriesId] = frozenset()
SERIES = SeriesId(7)


def _series(clock: HandClock, *, instances: int = 3, aborted: bool = False) -> ReceivingSeries:
    """A series whose last instance comes now."""
    moment = clock.now()
    return ReceivingSeries(id=SERIES, revision=1, instances=instances, first_at=moment, last_at=moment, aborted=aborted)


def test_a_series_is_due_once_it_has_been_quiet_for_quiet_s() -> None:
    clock = HandClock()
    watch = QuietWatch(SETTINGS, clock)
    series = _series(clock)
    assert watch.look([series], NOTHING_OPEN) == ([], 5.0)
    clock.elapsed_s = 27
    assert watch.look([series], NOTHING_OPEN) == ([], 3.0)
    clock.elapsed_s = 30
    due, _ = watch.look([series], NOTHING_OPEN)
    assert [(one.series.id, one.note) for one in due] == [(SERIES, "")]


def test_the_time_between_two_looks_counts_as_quiet() -> None:
    clock = HandClock()
    watch = QuietWatch(SETTINGS, clock)
    series = _series(clock)
    clock.elapsed_s = 4
    watch.look([series], NOTHING_OPEN)  # first seen 4 s after its last instance
    clock.elapsed_s = 30
    assert watch.look([series], NOTHING_OPEN)[0]


def test_another_instance_starts_the_wait_anew() -> None:
    clock = HandClock()
    watch = QuietWatch(SETTINGS, clock)
    series = _series(clock)
    watch.look([series], NOTHING_OPEN)
    clock.elapsed_s = 29
    series = replace(series, instances=4, last_at=clock.now())
    watch.look([series], NOTHING_OPEN)
    clock.elapsed_s = 58
    assert watch.look([series], NOTHING_OPEN) == ([], 1.0)
    clock.elapsed_s = 59
    assert watch.look([series], NOTHING_OPEN)[0]


def test_an_open_association_that_stored_into_it_keeps_it_open() -> None:
    clock = HandClock()
    watch = QuietWatch(SETTINGS, clock)
    series = _series(clock)
    clock.elapsed_s = 40
    watch.look([series], {SERIES})
    clock.elapsed_s = 200
    assert watch.look([series], {SERIES})[0] == []
    assert watch.look([series], {SeriesId(8)})[0]


def test_after_a_broken_association_the_sender_gets_longer_to_come_again() -> None:
    clock = HandClock()
    watch = QuietWatch(SETTINGS, clock)
    series = _series(clock, aborted=True)
    watch.look([series], NOTHING_OPEN)
    clock.elapsed_s = 299
    assert watch.look([series], NOTHING_OPEN) == ([], 1.0)
    clock.elapsed_s = 300
    due, _ = watch.look([series], NOTHING_OPEN)
    assert due[0].note == "Its last association broke off: settled 300 s later (settle.aborted_wait_s)."


def test_a_series_that_never_becomes_quiet_is_settled_at_the_longest_wait_even_with_an_open_association() -> None:
    clock = HandClock()
    watch = QuietWatch(SETTINGS, clock)
    series = _series(clock)
    for second in range(0, 1800, 20):
        clock.elapsed_s = second
        series = replace(series, instances=second, last_at=clock.now())
        assert watch.look([series], {SERIES})[0] == []
    clock.elapsed_s = 1800
    due, _ = watch.look([series], {SERIES})
    assert due[0].note == "Settled after 1800 s without a quiet moment (settle.max_wait_s)."


def test_after_a_restart_the_wait_starts_anew_and_no_more_than_that() -> None:
    clock = HandClock()
    series = _series(clock)
    clock.elapsed_s = 3600  # the service was down for an hour
    watch = QuietWatch(SETTINGS, clock)
    assert watch.look([series], NOTHING_OPEN) == ([], 5.0)
    clock.elapsed_s = 3630
    assert watch.look([series], NOTHING_OPEN)[0]


def test_a_step_of_the_wall_clock_neither_settles_a_series_nor_holds_it_back() -> None:
    for step_s in (-7200.0, 7200.0):
        clock = HandClock()
        watch = QuietWatch(SETTINGS, clock)
        series = _series(clock)
        watch.look([series], NOTHING_OPEN)
        clock.elapsed_s, clock.step_s = 10, step_s
        series = replace(series, instances=4, last_at=clock.now())
        watch.look([series], NOTHING_OPEN)
        clock.elapsed_s = 39
        assert watch.look([series], NOTHING_OPEN)[0] == []
        clock.elapsed_s = 40
        assert watch.look([series], NOTHING_OPEN)[0]


def test_a_new_revision_is_timed_from_its_own_first_instance() -> None:
    clock = HandClock()
    watch = QuietWatch(SETTINGS, clock)
    watch.look([_series(clock)], NOTHING_OPEN)
    clock.elapsed_s = 1799
    second = replace(_series(clock), revision=2)
    watch.look([second], NOTHING_OPEN)
    clock.elapsed_s = 1828
    assert watch.look([second], NOTHING_OPEN) == ([], 1.0)
