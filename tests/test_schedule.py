"""Ticks wake and nothing more; late, stepped and failing ones do no harm."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from dicomnode.schedule import Ticks
from tests.support.wait import wait_until


class SteppedClock:
    """The machine's clock, its wall side moved by hand."""

    def __init__(self) -> None:
        self.step_s = 0.0

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.step_s)

    def monotonic(self) -> float:
        return time.monotonic()


def test_every_wake_function_is_called_again_and_again() -> None:
    calls = {"settle": 0, "push": 0}

    def wake(name: str) -> None:
        calls[name] += 1

    ticks = Ticks({name: lambda name=name: wake(name) for name in calls}, every_s=0.05)  # type: ignore[misc]
    ticks.start()
    try:
        wait_until(lambda: min(calls.values()) >= 3)
    finally:
        ticks.stop()
    assert ticks.failures == {"settle": 0, "push": 0}


def test_the_first_tick_does_not_wait_for_the_interval() -> None:
    woken = threading.Event()
    ticks = Ticks({"push": woken.set}, every_s=3600)
    ticks.start()
    try:
        assert woken.wait(5)
    finally:
        ticks.stop()


def test_a_wake_function_that_raises_is_counted_logged_and_called_again(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise OSError("no matter")

    ticks = Ticks({"work": fail}, every_s=0.05)
    ticks.start()
    try:
        wait_until(lambda: ticks.failures["work"] >= 2)
    finally:
        ticks.stop()
    assert {record.getMessage() for record in caplog.records if record.name == "dicomnode.schedule"} == {"tick_failed"}


@pytest.mark.parametrize("step_s", [-3600.0, 3600.0], ids=["back", "forward"])
def test_a_step_of_the_clock_plans_the_ticks_anew_and_is_told(step_s: float) -> None:
    """The interval of an hour stands for the silence that a clock set back an hour brings: only the watch ends it."""
    clock, calls, steps = SteppedClock(), [0], list[float]()

    def wake() -> None:
        calls[0] += 1

    ticks = Ticks({"settle": wake}, every_s=3600, clock=clock, stepped=steps.append)
    ticks.start()
    try:
        wait_until(lambda: calls[0] == 1)
        clock.step_s = step_s
        wait_until(lambda: calls[0] == 2)
        wait_until(lambda: steps)
    finally:
        ticks.stop()
    assert steps == [pytest.approx(step_s, abs=0.1)]


STOPPED_CHILD = """
import sys
from dicomnode.schedule import Ticks
ticks = Ticks({"push": lambda: print("tick", flush=True)}, every_s=0.25)
ticks.start()
sys.stdin.read()
ticks.stop()
"""


def test_ticks_missed_while_the_process_was_stopped_come_as_one() -> None:
    """A real SIGSTOP of eight intervals: with ``coalesce`` off this prints eight lines at once."""
    child = subprocess.Popen(
        [sys.executable, "-c", STOPPED_CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdin is not None
    moments: list[float] = []

    def read() -> None:
        assert child.stdout is not None
        for _ in child.stdout:
            moments.append(time.monotonic())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        wait_until(lambda: len(moments) >= 2)
        child.send_signal(signal.SIGSTOP)
        stopped_at = time.monotonic()
        wait_until(lambda: time.monotonic() - stopped_at > 2.0)
        before = len(moments)
        child.send_signal(signal.SIGCONT)
        resumed_at = time.monotonic()
        wait_until(lambda: len(moments) >= before + 2)
    finally:
        child.send_signal(signal.SIGCONT)
        child.stdin.close()
        child.wait(10)
        reader.join(10)
        child.stdout.close()
    late = [moment for moment in moments if resumed_at <= moment < resumed_at + 0.2]
    assert len(late) <= 2  # the one that was due all the time, and perhaps the next one on the plan
