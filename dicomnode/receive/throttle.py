"""A throttle writes one log line a minute for each cause, so that no client can fill a disk with log lines."""

from __future__ import annotations

import threading

from dicomnode.seams import SYSTEM_CLOCK, Clock

INTERVAL_S = 60.0
MAX_KEYS = 1024  # a scan over a whole network costs one more line, and no more memory


class Throttle:
    """Counts events by key, and decides when the next line is due."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[float, int]] = {}

    def count(self, key: str) -> int:
        """Count one event; return the number to report now, itself included, or 0 to stay silent."""
        now = self._clock.monotonic()
        with self._lock:
            due_at, waiting = self._seen.get(key, (now, 0))
            if now < due_at:
                self._seen[key] = (due_at, waiting + 1)
                return 0
            if len(self._seen) >= MAX_KEYS:
                self._seen.clear()
            self._seen[key] = (now + INTERVAL_S, 0)
            return waiting + 1
