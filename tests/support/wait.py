"""Waiting for a condition, with a limit, instead of sleeping.

A limit costs nothing where the condition comes true; it is there for a loaded machine, not for a fast one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_S = 0.02


def wait_until(condition: Callable[[], T], limit_s: float = 60.0, what: str = "") -> T:
    """The first true value of the condition; fails the test when the limit passes."""
    deadline = time.monotonic() + limit_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {limit_s} s: {what or condition}")
        time.sleep(POLL_S)
    return value
