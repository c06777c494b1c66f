"""The part of the ledger that the supervisor of jobs uses."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

from dicomnode.derivation import DerivedSeries
from dicomnode.ids import JobId
from dicomnode.ledger import jobs, verdicts
from dicomnode.ledger.access import Access
from dicomnode.ledger.states import JobState
from dicomnode.ledger.values import ArchivedInstance, Job, Priority


class Jobs:
    """A supervisor claims jobs here, and records how each attempt ended."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def claim(
        self,
        owner: str,
        *,
        lease_s: float,
        but: Collection[JobId] = (),
        models: Collection[str] | None = None,
        least: Priority = Priority.OFF_PEAK,
    ) -> Job | None:
        """Claim the next job by priority and waiting time, but none of ``but``, under a lease.

        ``models``: only a job that needs a model with one of these digests. None: any job. ``least``: none that is
        less urgent.
        """
        with self._access.writing("claim_job", owner) as transaction:
            until = transaction.now + timedelta(seconds=lease_s)
            return jobs.claim(transaction, owner, until, but, models, least)

    def sources(self, job: Job) -> list[ArchivedInstance]:
        """List the instances from which a job derives."""
        with self._access.reading() as connection:
            return verdicts.instances_of(connection, job.series, job.revision)

    def state_of(self, job: JobId) -> JobState:
        """Return the state of a job."""
        with self._access.reading() as connection:
            return jobs.state_of(connection, job)

    def is_ours(self, job: Job) -> bool:
        """Does the claim hold, as seen without a lock? It ends when its lease is lost or an operator cancels it."""
        with self._access.reading() as connection:
            return jobs.is_ours(connection, job)

    def beat(self, job: Job, *, lease_s: float) -> bool:
        """Renew the lease. False: the holder stops, and discards what it made."""
        with self._access.writing("beat_job", is_relaxed=True) as transaction:
            return jobs.beat(transaction, job, transaction.now + timedelta(seconds=lease_s))

    def finish(self, job: Job, derived: DerivedSeries) -> bool:
        """End a job whose derived files are flushed and in their folder."""
        with self._access.writing("finish_job") as transaction:
            return jobs.finish(transaction, job, derived)

    def give_back(self, job: Job, *, detail: str, counts: bool) -> JobState | None:
        """Give a job back; ``counts``: it cost an attempt. Return its state now; None: it was no longer ours."""
        with self._access.writing("return_job") as transaction:
            return jobs.give_back(transaction, job, detail=detail, counts=counts)

    def hold(self, job: Job, *, reason: str, sentence: str) -> bool:
        """Hold a job that cannot go on without an operator."""
        with self._access.writing("hold_job") as transaction:
            return jobs.hold(transaction, job, reason=reason, sentence=sentence)
