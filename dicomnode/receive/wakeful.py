"""Waiting for an event instead of asking for one a thousand times a second.

The library's two threads of an association poll their queues and their socket every millisecond: fifty silent
sockets cost a whole core (measured on pynetdicom 3.0.4), and each poll takes the interpreter from a thread that has
bytes to move. Here the reading thread sleeps on its socket and a bell, which rings when something is to be sent;
the other one sleeps on its queue of messages, into which every upper-layer primitive puts a wake-up.
"""

from __future__ import annotations

import os
import queue
import select
import socket
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

TICK_S = 0.2  # both threads look at their timers so often; the shortest timer is some seconds


class Bell:
    """Wakes one waiting thread; may be rung from any thread, and after it is gone."""

    def __init__(self) -> None:
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()

    def ring(self) -> None:
        """Wake the waiting thread, or the next one to wait."""
        with self._lock:  # the number of a closed descriptor may be somebody else's by now
            if self._descriptor >= 0:
                os.eventfd_write(self._descriptor, 1)

    def wait(self, connection: socket.socket | None, limit_s: float) -> bool:
        """Sleep until the bell rings, the time is over, or the connection has bytes or an end to read: is it that?

        Raises OSError or ValueError where the connection is closed on our side.
        """
        waiting = select.poll()
        waiting.register(self._descriptor, select.POLLIN)
        if connection is not None:
            waiting.register(connection, select.POLLIN)
        found = {descriptor for descriptor, _ in waiting.poll(limit_s * 1000)}
        if self._descriptor in found:
            os.eventfd_read(self._descriptor)
            found.remove(self._descriptor)
        return bool(found)

    def close(self) -> None:
        """Give the descriptor back; only after the waiting thread has ended."""
        with self._lock:
            os.close(self._descriptor)
            self._descriptor = -1


class AnnouncedQueue(queue.Queue[T]):
    """A queue that tells somebody after each put."""

    def __init__(self, announce: Callable[[], None]) -> None:
        super().__init__()
        self._announce = announce

    def put(self, item: T, block: bool = True, timeout: float | None = None) -> None:
        """Put, then announce."""
        super().put(item, block, timeout)
        self._announce()
