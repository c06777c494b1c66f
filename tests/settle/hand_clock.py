"""A clock that a test moves by hand."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


@dataclass
class HandClock:
    """A clock that a test moves; ``step_s`` is what somebody set the wall clock by."""

    elapsed_s: float = 0.0
    step_s: float = 0.0

    def now(self) -> datetime:
        return NOON + timedelta(seconds=self.elapsed_s + self.step_s)

    def monotonic(self) -> float:
        return 1000.0 + self.elapsed_s
