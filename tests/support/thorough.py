"""The repetitions of tests that could go on for ever: kill a process, send random bytes, make up a history.

`make test` takes the small number of each such test, `make test-faults` (``pytest --thorough``) the large one. The
tests bear the mark ``faults``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class _Choice:
    is_thorough: bool = False


_CHOICE = _Choice()


def choose(*, thorough: bool) -> None:
    """Take the large numbers from now on, or the small ones. The tests' modules read them when they are imported."""
    _CHOICE.is_thorough = thorough


def times(short: int, thorough: int) -> int:
    """One of the two numbers, as ``pytest --thorough`` was asked for or not."""
    return thorough if _CHOICE.is_thorough else short
