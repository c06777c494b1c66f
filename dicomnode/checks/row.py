"""One line of the check sheet."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Mark(StrEnum):
    """The result of one check."""

    OK = "ok"
    WARN = "warn"  # the node would run, perhaps not as intended
    FAIL = "fail"  # the node would not start, or not do its work


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRow:
    """One line of the check sheet."""

    what: str
    mark: Mark
    sentence: str
    hint: str = ""
