"""A line a minute for each key, with the number of events that it stands for."""

from __future__ import annotations

from datetime import UTC, datetime

from dicomnode.receive.throttle import INTERVAL_S, MAX_KEYS, Throttle


class HandClock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)

    def monotonic(self) -> float:
        return self.seconds


def test_the_first_event_speaks_and_the_next_line_counts_the_silent_ones() -> None:
    clock = HandClock()
    throttle = Throttle(clock)
    assert [throttle.count("a") for _ in range(5)] == [1, 0, 0, 0, 0]
    assert throttle.count("b") == 1
    clock.seconds += INTERVAL_S
    assert throttle.count("a") == 5
    assert throttle.count("a") == 0


def test_a_scan_over_many_addresses_does_not_grow_without_end() -> None:
    throttle = Throttle(HandClock())
    for number in range(3 * MAX_KEYS):
        throttle.count(str(number))
    assert len(throttle._seen) <= MAX_KEYS
