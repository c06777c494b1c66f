"""Daily work comes at its local time, once, whatever becomes of the clock, and a step of the clock is told."""

from __future__ import annotations

import threading
import time as system_time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from dicomnode import schedule
from dicomnode.schedule import Calendar, CalendarJob, next_moment
from dicomnode.seams import SystemClock
from tests.support.wait import wait_until

FOUR = time(4)
HALF_PAST_TWO = time(2, 30)


@pytest.fixture(autouse=True)
def _berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The machine's time zone: two hours ahead of UTC in summer, one in winter."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Europe/Berlin")
        system_time.tzset()
        yield
    system_time.tzset()


@dataclass
class HandClock:
    """A machine whose wall clock is set by hand while its other clock runs on."""

    wall: datetime
    elapsed_s: float = 0.0

    def now(self) -> datetime:
        return self.wall

    def monotonic(self) -> float:
        return self.elapsed_s

    def pass_by(self, **span: float) -> None:
        self.wall += timedelta(**span)
        self.elapsed_s += timedelta(**span).total_seconds()

    def set_by(self, **span: float) -> None:
        self.wall += timedelta(**span)


class Life:
    """A calendar with one job, and what came of it."""

    def __init__(self, wall: str, at: time) -> None:
        self.clock = HandClock(datetime.fromisoformat(wall).astimezone(UTC))
        self.ran: list[str] = []  # by the local clock
        self.steps: list[float] = []
        job = CalendarJob(name="sweep", at=at, run=self._run)
        self.calendar = Calendar([job], stepped=self.steps.append, clock=self.clock)

    def _run(self) -> None:
        self.ran.append(f"{self.clock.now().astimezone():%d %H:%M}")

    def pass_by(self, minutes: int) -> None:
        """With a look each minute."""
        for _ in range(minutes):
            self.clock.pass_by(minutes=1)
            self.calendar.look()


def test_a_job_comes_each_day_at_its_local_time() -> None:
    life = Life("2026-06-10T12:00", FOUR)
    life.pass_by(3 * 24 * 60)
    assert life.ran == ["11 04:00", "12 04:00", "13 04:00"]
    assert life.steps == []


def test_a_job_of_today_is_not_made_up_for_at_the_start() -> None:
    life = Life("2026-06-10T04:01", FOUR)
    life.pass_by(60)
    assert life.ran == []


@pytest.mark.parametrize(
    ("noon_before", "days"),
    [("2026-03-28T12:00", ["29 01:30", "30 02:30"]), ("2026-10-24T12:00", ["25 02:30", "26 02:30"])],
    ids=["the hour is skipped", "the hour comes twice"],
)
def test_a_change_between_summer_and_winter_time_costs_and_repeats_no_job(noon_before: str, days: list[str]) -> None:
    life = Life(noon_before, HALF_PAST_TWO)
    life.pass_by(2 * 24 * 60)
    assert life.ran == days


def test_moments_that_passed_unnoticed_are_made_up_for_once() -> None:
    life = Life("2026-06-10T12:00", FOUR)
    life.clock.pass_by(days=5)  # suspended: nobody looked
    life.pass_by(24 * 60)
    assert life.ran == ["15 12:01", "16 04:00"]


def test_a_clock_set_forward_over_a_moment_calls_the_job_at_once_and_is_told() -> None:
    life = Life("2026-06-10T12:00", FOUR)
    life.clock.set_by(hours=17)
    life.pass_by(24 * 60)
    assert life.ran == ["11 05:01", "12 04:00"]
    assert life.steps == [pytest.approx(17 * 3600)]


def test_a_clock_set_back_an_hour_does_not_repeat_the_job_and_is_told() -> None:
    life = Life("2026-06-10T12:00", FOUR)
    life.pass_by(16 * 60 + 10)
    life.clock.set_by(hours=-1)
    life.pass_by(24 * 60)
    assert life.ran == ["11 04:00"]
    life.pass_by(60)
    assert life.ran == ["11 04:00", "12 04:00"]
    assert life.steps == [pytest.approx(-3600)]


def test_a_clock_set_back_by_a_year_plans_anew() -> None:
    life = Life("2026-06-10T12:00", FOUR)
    life.clock.set_by(days=-365)
    life.pass_by(24 * 60)
    assert life.ran == ["11 04:00"]


def test_a_clock_that_drifts_as_ntp_lets_it_is_not_told() -> None:
    life = Life("2026-06-10T12:00", FOUR)
    life.clock.set_by(seconds=1.5)
    life.pass_by(10)
    assert life.steps == []


def test_a_weekly_job_comes_on_its_day_in_its_time_zone() -> None:
    """Monday 7:00 in Tokyo is the Sunday evening before in UTC; the machine is in Berlin."""
    tokyo = ZoneInfo("Asia/Tokyo")
    sunday = datetime(2026, 6, 7, 22, tzinfo=UTC)
    assert next_moment(time(7), sunday - timedelta(minutes=1), day=0, zone=tokyo) == sunday
    assert next_moment(time(7), sunday, day=0, zone=tokyo) == sunday + timedelta(days=7)
    assert next_moment(time(7), sunday, day=0) == datetime(2026, 6, 8, 5, tzinfo=UTC), "7:00 in Berlin"


def test_the_next_moment_is_later_than_the_moment_itself() -> None:
    four = datetime(2026, 6, 11, 2, tzinfo=UTC)
    assert next_moment(FOUR, four - timedelta(seconds=1)) == four
    assert next_moment(FOUR, four) == four + timedelta(days=1)


class SoonClock(SystemClock):
    """The machine's clock, until a test sets its wall side forward by a day."""

    ahead = timedelta()

    def now(self) -> datetime:
        return super().now() + self.ahead


def test_a_job_that_raises_is_counted_and_logged_and_the_others_are_called(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its own thread, by the machine's clock."""

    def fail() -> None:
        raise OSError("no matter")

    monkeypatch.setattr(schedule, "LOOK_S", 0.02)
    clock, called, steps = SoonClock(), threading.Event(), list[float]()

    def step(by_s: float) -> None:
        steps.append(by_s)
        raise OSError("the ledger is locked")

    jobs = [CalendarJob(name="sweep", at=FOUR, run=fail), CalendarJob(name="letter", at=FOUR, run=called.set)]
    calendar = Calendar(jobs, stepped=step, clock=clock)
    calendar.start()
    try:
        clock.ahead = timedelta(days=1)
        assert called.wait(30)
        wait_until(lambda: calendar.failures["sweep"])
    finally:
        calendar.stop()
    assert calendar.failures == {"sweep": 1, "letter": 0}
    assert steps == [pytest.approx(86400, abs=1)]
    said = [record.getMessage() for record in caplog.records if record.name == schedule.__name__]
    assert said == ["clock_stepped", "clock_step_not_noted", "calendar_job_failed"]


def test_new_jobs_are_planned_from_now_on_and_those_that_stay_keep_their_moment() -> None:
    life = Life("2026-06-10T03:30", FOUR)
    (sweep,) = life.calendar._jobs
    letters: list[str] = []
    letter = CalendarJob(name="letter", at=time(3, 45), run=lambda: letters.append("written"))
    life.calendar.take([sweep, letter])
    life.pass_by(40)
    assert (life.ran, letters) == (["10 04:00"], ["written"])
    life.calendar.take([replace(sweep, at=time(4, 30))])
    life.pass_by(24 * 60)
    assert (life.ran, letters) == (["10 04:00", "10 04:30"], ["written"])
    assert life.calendar.failures == {"sweep": 0}
