"""Ticks: a scheduler that calls wake functions, and nothing more.

The workers drain the ledger by themselves: each waits a few seconds at most on the monotonic clock, so a tick that
comes late, or never, costs nothing but time. APScheduler plans by the wall clock: set back an hour, it is silent for
an hour. A watch on the monotonic clock sees such a step and plans the ticks anew (NODE 5.5, measured there).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from apscheduler.schedulers.background import BackgroundScheduler  # type: ignore[import-untyped]

from dicomnode import log
from dicomnode.seams import SYSTEM_CLOCK, Clock

LOGGER = logging.getLogger(__name__)

TICK_S = 5.0
STEP_S = 2.0  # drift of the wall clock against the monotonic one that counts as a step; NTP slews far less
WATCH_S = 1.0  # how often the two clocks are compared
STOP_LIMIT_S = 5.0


class Ticks:
    """Calls every wake function every ``every_s`` seconds, from one thread of the scheduler.

    A wake function must be short (set an ``Event``): stopping waits for a running one. One that raises is counted
    in ``failures`` and called again at the next tick. ``stepped`` hears by how many seconds the clock was set.
    """

    def __init__(
        self,
        wakes: Mapping[str, Callable[[], None]],
        *,
        every_s: float = TICK_S,
        clock: Clock = SYSTEM_CLOCK,
        stepped: Callable[[float], None] | None = None,
    ) -> None:
        self._wakes = dict(wakes)
        self._every_s = every_s
        self._clock = clock
        self._stepped = stepped
        self._failures = dict.fromkeys(self._wakes, 0)
        self._stop = threading.Event()
        self._watch = threading.Thread(target=self._watch_clock, name="clock-watch")
        # One thread is enough for functions that only set an event; UTC spares the look-up of a local zone.
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={"default": {"type": "threadpool", "max_workers": 1}},
            # The defaults skip a tick that is later than 1 s: after a suspend none would come until the next one.
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )

    @property
    def failures(self) -> Mapping[str, int]:
        """How often each wake function raised since the start."""
        return dict(self._failures)

    def start(self) -> None:
        """Begin to tick; the first tick comes at once."""
        for name in self._wakes:
            self._scheduler.add_job(
                self._tick,
                "interval",
                seconds=self._every_s,
                args=(name,),
                id=name,
                name=name,
                next_run_time=datetime.now(UTC),
            )
        self._scheduler.start()
        self._watch.start()

    def stop(self) -> None:
        """Stop; a running tick is waited for."""
        self._stop.set()
        self._scheduler.shutdown(wait=True)
        self._watch.join(STOP_LIMIT_S)

    def _tick(self, name: str) -> None:
        """Border: an exception here would only reach APScheduler's own log."""
        try:
            self._wakes[name]()
        except Exception:  # noqa: BLE001 (border: scheduler tick)
            self._failures[name] += 1
            log.failure(LOGGER, "tick_failed", stage=name, count=self._failures[name])

    def _watch_clock(self) -> None:
        offset_s = self._wall_offset_s()
        while not self._stop.wait(WATCH_S):
            drift_s = self._wall_offset_s() - offset_s
            if abs(drift_s) > STEP_S:
                offset_s += drift_s
                self._rearm(drift_s)

    def _wall_offset_s(self) -> float:
        return self._clock.now().timestamp() - self._clock.monotonic()

    def _rearm(self, drift_s: float) -> None:
        """Plan all ticks from now on: ``wakeup()`` would only re-read the old plan."""
        log.event(LOGGER, "clock_stepped", level=logging.WARNING, seconds=drift_s)
        for name in self._wakes:
            self._scheduler.modify_job(name, next_run_time=datetime.now(UTC))
        if self._stepped is not None:
            try:
                self._stepped(drift_s)
            except Exception:  # noqa: BLE001 (border: scheduler tick)
                log.failure(LOGGER, "tick_failed", stage="clock-watch")
