"""The signals that end the node or have it read its settings anew, as entries of one queue.

It is a SimpleQueue because only that may be used in a signal handler that interrupts its own ``get``; an Event may
deadlock. The queue also takes an error that the service cannot survive.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from types import FrameType

from dicomnode.errors import NodeError

SIGNAL_POLL_S = 1.0

Asked = SimpleQueue[int | NodeError]


@contextmanager
def signals(asked: Asked) -> Iterator[None]:
    """Put each SIGHUP into the queue, and the first SIGTERM or SIGINT. The second one ends the process at once."""

    def handle_hangup(number: int, _frame: FrameType | None) -> None:
        asked.put(number)

    def handle(number: int, _frame: FrameType | None) -> None:
        if was_asked:
            os._exit(128 + number)
        was_asked.append(number)
        asked.put(number)

    was_asked: list[int] = []
    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    before[signal.SIGHUP] = signal.signal(signal.SIGHUP, handle_hangup)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wait_for_next(asked: Asked) -> int | NodeError:
    """Return the next signal that arrives, or an error that the node cannot survive.

    Each wait is short. A signal that arrives just before the main thread begins to wait does not interrupt the wait; in
    a wait without limit, its handler would run only after the next signal (seen in bench/kill.py).
    """
    while True:
        try:
            return asked.get(timeout=SIGNAL_POLL_S)
        except Empty:
            continue
