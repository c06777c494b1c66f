"""A limit on the memory of all data sets that are being received at the same moment.

A limit on each object alone would let all associations together fill any memory. While the budget is spent, sockets
are not read, and TCP holds the peers back: they lose time and no object. The object that began first never waits, so
one association always goes on, whatever the others hold, and what is held is at most the budget and one object more.
If the peer of that object sends too slowly while others wait, its association is ended.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

EXEMPT_BYTES = 1 << 20  # of each object at the most: an ordinary slice never asks
EXEMPT_SHARE = 64  # and never more than this part of the budget: as many associations as are allowed by default
LOOK_S = 0.5  # how soon an association that waits for room notices that it was ended
TURN_BYTES = 1 << 20  # within ``turn_s``: 0.4 Mbit/s at the default of 20 s, below any network that images go over


@dataclass(slots=True)
class _Object:
    size_bytes: int = 0
    turn_until_s: float = 0.0  # by when it has to have grown, if others wait
    turn_bytes: int = 0  # how large it was when its time was last prolonged


class ByteBudget:
    """The budget that all associations of a listener share. Safe to use from many threads."""

    def __init__(self, limit_bytes: int, *, turn_s: float) -> None:
        self.exempt_bytes = min(EXEMPT_BYTES, limit_bytes // EXEMPT_SHARE)
        self._limit_bytes = limit_bytes
        self._turn_s = turn_s
        self._objects: dict[int, _Object] = {}  # by holder, in the order in which they began
        self._changed = threading.Condition()
        self.waiting = 0  # holders that wait for room

    @property
    def held_bytes(self) -> int:
        """The bytes that all objects hold together; objects below the exemption do not count."""
        with self._changed:
            return sum(one.size_bytes for one in self._objects.values())

    def hold(self, holder: int, size_bytes: int, wait_s: float) -> bool:
        """Raise a holder's reservation to ``size_bytes``; False: there was no room within ``wait_s``, ask again."""
        if size_bytes <= self.exempt_bytes:
            return True
        with self._changed:
            one = self._objects.setdefault(holder, _Object())
            self.waiting += 1
            try:
                if not self._changed.wait_for(lambda: self._has_room(holder, size_bytes), wait_s):
                    return False
            finally:
                self.waiting -= 1
            one.size_bytes = size_bytes
            if self._is_first(holder) and (not one.turn_until_s or size_bytes - one.turn_bytes >= TURN_BYTES):
                one.turn_until_s, one.turn_bytes = time.monotonic() + self._turn_s, size_bytes
            return True

    def is_late(self, holder: int) -> bool:
        """Does this holder have the first object, send it too slowly, and make others wait?"""
        with self._changed:
            one = self._objects.get(holder)
            if one is None or not self._is_first(holder) or not self.waiting:
                return False
            return 0.0 < one.turn_until_s < time.monotonic()

    def give_back(self, holder: int) -> None:
        """Free the bytes of a holder, whose object is stored or given up."""
        with self._changed:
            if self._objects.pop(holder, None) is not None:
                self._changed.notify_all()

    def _is_first(self, holder: int) -> bool:
        return next(iter(self._objects)) == holder

    def _has_room(self, holder: int, size_bytes: int) -> bool:
        if self._is_first(holder):
            return True
        others = sum(one.size_bytes for number, one in self._objects.items() if number != holder)
        return others + size_bytes <= self._limit_bytes
