"""The two places where a test may reach into the running node: its clock and its checkpoints.

A checkpoint stands at each seam where a crash, a full disk or a delay would hurt. Nothing in the product can
set the hook: no setting, no variable. Only a wrapper module of the tests does, in the process that it starts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """A clock that gives moments for people (``now``) and durations for decisions (``monotonic``)."""

    def now(self) -> datetime:
        """The wall clock, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never step back, from an arbitrary zero."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """The wall clock, aware, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds since some moment before the process began."""
        return time.monotonic()


SYSTEM_CLOCK: Clock = SystemClock()

_hook: Callable[[str], None] | None = None


def checkpoint(name: str) -> None:
    """Mark a seam, named ``room.moment`` (``"archive.renamed"``); does nothing in the product."""
    if _hook is not None:
        _hook(name)


def set_checkpoint_hook(hook: Callable[[str], None] | None) -> None:
    """Let a test kill, fail or delay the process at a checkpoint."""
    global _hook
    _hook = hook
