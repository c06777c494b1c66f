"""The executor, which runs an order: what the supervisor asks of it, and what it promises.

The supervisor has the ledger, the lease and the commit; an executor has the processes, and the limits of their time and
memory. It is given files and an order, and answers with a manifest. It never sees the ledger or the archive, so that
another one (a cluster of other machines, say) is a new file beside ``local`` and nothing else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from dicomnode.work.orders import Answer, Order

POLL_S = 0.5  # ``cancel`` is asked at least this often, since it also renews the lease of the job

Progress = Callable[[str, float], None]  # stage, share of it that is done


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenUp:
    """The run came to no answer: why, and whether that counts against the job."""

    sentence: str
    counts: bool


CANCELLED = GivenUp(sentence="The run was cancelled.", counts=False)


class Executor(Protocol):
    """Runs one order at a time. Every call comes from one thread, the supervisor's, which outlives what is run."""

    def ready(self, stopping: threading.Event) -> bool:
        """Become able to take an order at once. Only then is a job claimed, so a failure here costs none an attempt.

        False: not now; the executor has waited as long as makes sense before the next try, or ``stopping`` was set.
        """

    @property
    def offered(self) -> Collection[str] | None:
        """The digests of the models that can be run, as ``ready`` found them last; None: the model of any order."""

    def run(self, order: Order, *, progress: Progress, cancel: Callable[[], bool]) -> Answer | GivenUp:
        """Run the order once, within the limits of time and memory; the files are in its output folder afterwards.

        ``cancel`` is called in this thread, at least every ``POLL_S``; once it says True, the run is ended and the
        answer is ``CANCELLED``, unless another one was there already. When this returns or raises, nothing of the run
        goes on, and nothing writes into the output folder any more.
        """

    def close(self) -> None:
        """End whatever is kept warm. ``ready`` may follow."""
