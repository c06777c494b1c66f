"""The calendar: the jobs that the node does at a time of the day, and the watch over the wall clock.

In: jobs, each with its time of day, a weekly one with its day too, in the time zone of this machine or in a named one.
Each is called when its moment comes, one at a time, from one thread. A moment that passed unnoticed (the machine was
suspended, the clock was set forward) is made up for at once, and once, however many of them passed. No job is called
twice for one moment, also where the clock shows an hour twice.

The workers are not called from here: each takes from the ledger what is due, at the latest every five seconds on the
monotonic clock, so a step of the wall clock does not delay them. The plan is not kept over a restart: the start of the
service does the work of every job that is due (``sweep``).

This thread compares the wall clock with the monotonic one each second and reports a step. A calendar that sleeps
until its next moment would come late by as much as the clock is set forward meanwhile; one that looks does not.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta, tzinfo

from dicomnode import log
from dicomnode.seams import SYSTEM_CLOCK, Clock

LOGGER = logging.getLogger(__name__)

LOOK_S = 1.0  # how often the clocks are read
STEP_S = 2.0  # drift of the wall clock against the monotonic one that counts as a step; NTP slews far less
STOP_LIMIT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CalendarJob:
    """Work with a time of day. ``run`` must be short: long work is to begin in a thread of its own."""

    name: str
    at: time
    run: Callable[[], None]
    day: int | None = None  # day of the week, Monday is 0; None: every day
    zone: tzinfo | None = None  # time zone of ``at`` and ``day``; None: that of this machine

    def next_after(self, moment: datetime) -> datetime:
        """Return the first moment after this one at which the job is to be called."""
        return next_moment(self.at, moment, day=self.day, zone=self.zone)


class Calendar:
    """Calls each job at its time of day. One that raises is counted in ``failures`` and called again the next time."""

    def __init__(
        self,
        jobs: Sequence[CalendarJob],
        *,
        stepped: Callable[[float], None],  # called with the seconds by which the wall clock was set
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._jobs = tuple(jobs)
        self._next_jobs: Sequence[CalendarJob] | None = None  # to be used from the next look on
        self._stepped = stepped
        self._clock = clock
        self._offset_s = self._wall_offset_s()
        self._next_at = {job.name: job.next_after(clock.now()) for job in jobs}
        self._failures = {job.name: 0 for job in jobs}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="calendar")

    @property
    def failures(self) -> Mapping[str, int]:
        """The number of times that each job raised since the start."""
        return dict(self._failures)

    def take(self, jobs: Sequence[CalendarJob]) -> None:
        """Use these jobs from the next look on. A job that is there with the same name and time stays planned."""
        self._next_jobs = tuple(jobs)

    def start(self) -> None:
        """Begin to look at the clocks."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, and wait for a job that is being called."""
        self._stopping.set()
        self._thread.join(STOP_LIMIT_S)

    def look(self) -> None:
        """Report a step of the clock, and call the jobs whose moment has come. For one thread."""
        self._change_jobs()
        drift_s = self._wall_offset_s() - self._offset_s
        if abs(drift_s) > STEP_S:
            self._offset_s += drift_s
            self._tell_step(drift_s)
        for job in self._jobs:
            now, planned = self._clock.now(), self._next_at[job.name]
            following = job.next_after(now)
            if now >= planned:
                self._next_at[job.name] = following
                self._call(job)
            elif planned > job.next_after(following):
                # The clock was set back by days: with the old plan the job would be left undone until that moment.
                self._next_at[job.name] = following

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_S):
            self.look()

    def _change_jobs(self) -> None:
        jobs, self._next_jobs = self._next_jobs, None
        if jobs is None:
            return
        planned = {(job.name, job.at, job.day, job.zone): self._next_at[job.name] for job in self._jobs}
        now = self._clock.now()
        times = {job.name: planned.get((job.name, job.at, job.day, job.zone)) for job in jobs}
        self._next_at = {job.name: times[job.name] or job.next_after(now) for job in jobs}
        self._failures = {job.name: self._failures.get(job.name, 0) for job in jobs}
        self._jobs = tuple(jobs)

    def _wall_offset_s(self) -> float:
        return self._clock.now().timestamp() - self._clock.monotonic()

    def _tell_step(self, drift_s: float) -> None:
        log.event(LOGGER, "clock_stepped", level=logging.WARNING, seconds=drift_s)
        try:
            self._stepped(drift_s)
        except Exception:  # noqa: BLE001 (border: calendar)
            log.failure(LOGGER, "clock_step_not_noted")

    def _call(self, job: CalendarJob) -> None:
        """Border: an error of one job must stop neither the other jobs nor the watch over the clock."""
        try:
            job.run()
        except Exception:  # noqa: BLE001 (border: calendar)
            self._failures[job.name] += 1
            log.failure(LOGGER, "calendar_job_failed", stage=job.name, count=self._failures[job.name])


def next_moment(at: time, after: datetime, *, day: int | None = None, zone: tzinfo | None = None) -> datetime:
    """Return the first moment later than ``after`` at which the clocks of a zone show ``at``, on this day of the week.

    Where the clocks show an hour twice, the first one counts. A time that is skipped in spring comes an hour earlier
    that day by the clocks of this machine, and an hour later by those of a named zone.
    """
    date = after.astimezone(zone).date()
    while (moment := datetime.combine(date, at, zone).astimezone(zone)) <= after or day not in (None, date.weekday()):
        date += timedelta(days=1)
    return moment
