"""One thread that does its work in turns, waits between them, can be woken, and is stopped in order.

The worker decides what a turn does and how long the thread may then wait. This file does what all workers need: a
wake-up that comes while a turn goes on is not lost, an error does not end the thread, and a stop ends every wait.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from dicomnode import log
from dicomnode.errors import NodeError

_MAX_DOUBLINGS = 64  # any wait has reached its longest by then; a larger power would overflow


class WorkerThread:
    """A thread of the service. Started once, stopped once; every method may be called by any thread."""

    def __init__(
        self,
        turn: Callable[[], float],
        *,
        name: str,
        events: str,
        logger: logging.Logger,
        pause_s: float,
        fields: dict[str, log.Value] | None = None,
        ended: Callable[[], None] = lambda: None,
        is_daemon: bool = False,
    ) -> None:
        """``turn`` does a piece of work and returns the seconds until the next turn, where nobody wakes the thread.

        An exception is logged with ``fields``: an error of the node, such as a locked ledger, as ``EVENTS_paused``,
        any other with its traceback as ``EVENTS_failed``. The next turn then comes after ``pause_s``.
        ``ended`` is called in the thread when it ends.
        """
        self.stopping = threading.Event()  # for code that waits within a turn
        self._turn = turn
        self._events = events
        self._logger = logger
        self._pause_s = pause_s
        self._fields = fields or {}
        self._ended = ended
        self._wake = threading.Event()
        self._is_last_turn = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=is_daemon)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Begin the next turn now: there may be something to do."""
        self._wake.set()

    def retire(self) -> None:
        """End after the present turn."""
        self._is_last_turn = True
        self._wake.set()

    def pause(self, seconds: float) -> None:
        """Wait within a turn; a stop ends the wait."""
        self.stopping.wait(seconds)

    def stop(self, limit_s: float) -> bool:
        """Stop after the present turn, for which ``limit_s`` is waited. Return whether the thread has ended."""
        self.stopping.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(limit_s)
        return not self._thread.is_alive()

    @property
    def is_alive(self) -> bool:
        """True while the thread runs."""
        return self._thread.is_alive()

    @property
    def is_ending(self) -> bool:
        """True if the present turn is the last one."""
        return self.stopping.is_set() or self._is_last_turn

    def _run(self) -> None:
        """Border: the thread goes on after any exception. If it ended, the node would do only a part of its work."""
        try:
            while not self.is_ending:
                self._wake.clear()  # before the turn, so that a wake-up while it goes on is not lost
                wait_s = self._turn_or_pause()
                if not self.is_ending:
                    self._wake.wait(wait_s)
        finally:
            self._ended()

    def _turn_or_pause(self) -> float:
        try:
            return self._turn()
        except NodeError as exc:
            log.event(
                self._logger, f"{self._events}_paused", level=logging.ERROR, code=exc.code, sentence=exc.sentence,
                **self._fields,
            )  # fmt: skip
        except Exception:  # noqa: BLE001 (border: a worker's turn)
            log.failure(self._logger, f"{self._events}_failed", **self._fields)
        return self._pause_s


def doubled_s(shortest_s: float, longest_s: float, failures: int) -> float:
    """Return how long to wait before another try: twice as long after each failure in a row.

    >>> [doubled_s(5.0, 60.0, failures) for failures in (0, 1, 2, 3, 4, 5000)]
    [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]
    """
    return min(longest_s, shortest_s * 2.0 ** min(failures, _MAX_DOUBLINGS))
