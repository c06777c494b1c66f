"""Waiting for a condition, with a limit, instead of sleeping.

A limit costs nothing where the condition comes true; it is there for a loaded machine, not for a fast one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_S, LONGEST_POLL_S = 0.02, 0.25
LATER = 0.1  # of the time waited so far: who waits long looks less often, and leaves the processor to what it waits for


def wait_until(condition: Callable[[], T], limit_s: float = 60.0, what: str = "") -> T:
    """The first true value of the condition; fails the test when the limit passes."""
    began = time.monotonic()
    while not (value := condition()):
        waited_s = time.monotonic() - began
        if waited_s > limit_s:
            raise AssertionError(f"not within {limit_s} s: {what or condition}")
        time.sleep(min(max(POLL_S, LATER * waited_s), LONGEST_POLL_S))
    return value
