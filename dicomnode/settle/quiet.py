"""Finds the series that count as complete: no instance has arrived for a while. DICOM has no other sign.

A series is due ``settle.quiet_s`` after its last instance, but not while an association that stored into it is open. If
its last association was aborted, the wait is ``settle.aborted_wait_s``, because the sender may try again. In every case
it is due ``settle.max_wait_s`` after its first instance.

The waits are measured with the monotonic clock, because the times in the ledger would be wrong after the wall clock was
set. After a restart the wait of a series begins again; it is then at most ``quiet_s`` longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime

from dicomnode.ids import SeriesId
from dicomnode.ledger.values import ReceivingSeries
from dicomnode.seams import Clock
from dicomnode.settings.models import SettleSettings

TICK_S = 5.0  # the longest wait when no wake comes
OPEN_POLL_S = 1.0  # how often a series that would be quiet but for an open association is looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A series that is to be settled now."""

    series: ReceivingSeries
    note: str = ""  # why it is settled now, if the usual quiet time is not the reason
    is_quiet: bool = True  # False: instances still arrive; those that have arrived by then belong to the revision


@dataclass(frozen=True, slots=True, kw_only=True)
class _Timing:
    """A series in state ``receiving`` as last read, and when, on the monotonic clock, it began and last changed."""

    seen: ReceivingSeries
    began: float
    changed: float


class QuietWatch:
    """Measures how long each series in state ``receiving`` has been quiet. Used by one thread."""

    def __init__(self, settings: SettleSettings, clock: Clock) -> None:
        self.settings = settings
        self._clock = clock
        self._timings: dict[SeriesId, _Timing] = {}
        self._looked_at = clock.monotonic()  # the quiet time of a series cannot begin before this

    def look(self, receiving: Sequence[ReceivingSeries], open_series: AbstractSet[SeriesId]) -> tuple[list[Due], float]:
        """Return the series that are to be settled now, and the seconds until the next one may be."""
        now = self._clock.monotonic()
        self._timings = {one.id: self._timing(one, now) for one in receiving}
        self._looked_at = now
        due: list[Due] = []
        next_s = TICK_S
        for one in receiving:
            answer = self._due(self._timings[one.id], now, is_open=one.id in open_series)
            if isinstance(answer, Due):
                due.append(answer)
            else:
                next_s = min(next_s, answer)
        return due, next_s

    def _timing(self, seen: ReceivingSeries, now: float) -> _Timing:
        before = self._timings.get(seen.id)
        if before is not None and before.seen == seen:
            return before
        is_known = before is not None and before.seen.revision == seen.revision
        began = before.began if before is not None and is_known else now - self._age(seen.first_at, now)
        return _Timing(seen=seen, began=began, changed=now - self._age(seen.last_at, now))

    def _age(self, moment: datetime, now: float) -> float:
        """Return the seconds since a stored time, but at most those since the last call of ``look``."""
        return min(max((self._clock.now() - moment).total_seconds(), 0.0), now - self._looked_at)

    def _due(self, timing: _Timing, now: float, *, is_open: bool) -> Due | float:
        """Return the series if it is to be settled now, else the seconds until it may be."""
        settings, series = self.settings, timing.seen
        longest_s = settings.max_wait_s - (now - timing.began)
        wait_s = settings.aborted_wait_s if series.aborted else settings.quiet_s
        quiet_in_s = wait_s - (now - timing.changed)
        if quiet_in_s <= 0 and not is_open:
            note = f"Its last association broke off: settled {wait_s:g} s later (settle.aborted_wait_s)."
            return Due(series=series, note=note if series.aborted else "")
        if longest_s <= 0:
            note = f"Settled after {settings.max_wait_s:g} s without a quiet moment (settle.max_wait_s)."
            return Due(series=series, note=note, is_quiet=False)
        return min(longest_s, max(quiet_in_s, OPEN_POLL_S) if is_open else quiet_in_s)
