"""Series that hold a concatenation of which parts have not come, and how long they wait.

The parts of an Enhanced object (PS3.3 C.7.6.16.2.2.4) say how many they are, so a series in which some are absent is
not complete however quiet it is. It stays settled for ``settle.parts_wait_s`` and has no verdict meanwhile. A part that
comes opens a new revision, whose wait begins anew. The wait is measured on the monotonic clock, and again from the
beginning after a restart. Nothing is written here.
"""

from __future__ import annotations

from dicomnode.ids import SeriesId
from dicomnode.ledger.values import SettledSeries
from dicomnode.seams import Clock

MOST = 1_000  # series remembered; a forgotten one waits once more if an operator has it judged again


class PartsWatch:
    """The series that wait for parts, or have waited. Used by one thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since: dict[SeriesId, tuple[int, float]] = {}  # its revision, and when the wait began; the oldest first

    def begin(self, series: SettledSeries) -> bool:
        """Begin the wait of this revision of a series. False: it has waited before, and waits no more."""
        revision, _ = self._since.get(series.id, (0, 0.0))
        if revision == series.revision:
            return False
        self._since.pop(series.id, None)
        self._since[series.id] = (series.revision, self._clock.monotonic())
        if len(self._since) > MOST:
            del self._since[next(iter(self._since))]
        return True

    def holds(self, series: SettledSeries, *, wait_s: float) -> bool:
        """Does this revision of a series wait, and for less than ``wait_s`` so far?"""
        revision, since_s = self._since.get(series.id, (0, 0.0))
        return revision == series.revision and self._clock.monotonic() - since_s < wait_s
