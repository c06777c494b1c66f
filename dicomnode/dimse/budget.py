"""How much of all data sets that come in at the same moment may lie in memory.

A sender that has to wait is not read from, and TCP holds it back. The object that began first never waits: so one
association always goes on, whatever the others hold, and what is held is at most the budget and one object more.
"""

from __future__ import annotations

import threading

EXEMPT_BYTES = 1 << 20  # of each object: an ordinary slice never asks, and 64 associations hold 64 MiB by this
IN_FLIGHT_BYTES = 512 << 20  # over all associations; as much as one object of the default `receive.max_instance_mb`
LOOK_S = 0.5  # how soon a waiting association notices that it was ended


class ByteBudget:
    """Shared by all associations of a listener."""

    def __init__(self, limit_bytes: int = IN_FLIGHT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._held: dict[int, int] = {}  # bytes by holder, in the order in which their objects began
        self._changed = threading.Condition()
        self.waiting = 0  # holders that want more than there is

    @property
    def held_bytes(self) -> int:
        """How much all objects together hold beyond what is exempt from asking."""
        with self._changed:
            return sum(self._held.values())

    def hold(self, holder: int, size_bytes: int, wait_s: float) -> bool:
        """Let a holder have so many bytes in all; False: not within the time, ask again."""
        if size_bytes <= EXEMPT_BYTES:
            return True
        with self._changed:
            self._held.setdefault(holder, 0)
            self.waiting += 1
            try:
                has_room = self._changed.wait_for(lambda: self._has_room(holder, size_bytes), wait_s)
            finally:
                self.waiting -= 1
            if has_room:
                self._held[holder] = size_bytes
            return has_room

    def give_back(self, holder: int) -> None:
        """The object is stored or given up."""
        with self._changed:
            if self._held.pop(holder, None) is not None:
                self._changed.notify_all()

    def _has_room(self, holder: int, size_bytes: int) -> bool:
        if next(iter(self._held)) == holder:
            return True
        others = sum(size for one, size in self._held.items() if one != holder)
        return others + size_bytes <= self._limit_bytes
