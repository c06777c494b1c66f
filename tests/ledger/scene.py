"""A ledger with a clock that stands still, and short ways to bring it where a test begins."""

from __future__ import annotations

import itertools
import sqlite3
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dicomnode.derivation import DerivationParameters, DerivedInstance, DerivedSeries, GateFigure
from dicomnode.ids import SeriesId, digest, file_stem, new_instance_id
from dicomnode.ledger.states import DeliveryState
from dicomnode.ledger.store import Ledger
from dicomnode.ledger.values import (
    Condition,
    Delivery,
    ImportedModel,
    Job,
    ModelId,
    PlannedJob,
    Priority,
    StoredInstance,
    StoreOutcome,
)

MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"
ROOT = "1.2.826.0.1.3680043.10.999"
LEASE_S = 60.0

_numbers = itertools.count(1)


@dataclass
class FakeClock:
    """Time that passes when a test says so."""

    moment: datetime = field(default_factory=lambda: datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC))
    elapsed_s: float = 0.0

    def now(self) -> datetime:
        return self.moment

    def monotonic(self) -> float:
        return self.elapsed_s

    def advance(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)
        self.elapsed_s += seconds

    def step(self, seconds: float) -> None:
        """Somebody sets the wall clock."""
        self.moment += timedelta(seconds=seconds)


def new_uid() -> str:
    return f"{ROOT}.{next(_numbers)}"


def stored(
    series: SeriesId,
    *,
    uid: str | None = None,
    content: str = "pixels",
    syntax: str = EXPLICIT,
    at: datetime | None = None,
    peer: str = "mr1",
) -> StoredInstance:
    """An instance as the receiver hands it in."""
    own_id = new_instance_id()
    return StoredInstance(
        id=own_id,
        series=series,
        sop_class_uid=MR_IMAGE,
        sop_instance_uid=uid or new_uid(),
        transfer_syntax_uid=syntax,
        size_bytes=len(content),
        sha256=digest(content.encode()),
        file=f"{series}/{file_stem(own_id)}.dcm",
        peer=peer,
        received_at=at or datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC),
    )


def plan_for(*peers: str, model: str = "thin", digest_of_model: str = "d1", rule: str = "thick T2") -> PlannedJob:
    """A verdict to derive."""
    return PlannedJob(
        parameters=DerivationParameters(rule=rule, model=model, model_digest=digest_of_model, ratio=4),
        deliver_to=peers,
        sentence="24 slices, 4.0 mm apart, 4.0 mm thick → 96 slices of 1.0 mm by rule thick T2.",
    )


def figure(check: str, share: float, *, is_least: bool = False) -> GateFigure:
    """What the result gate measured in a check whose limit is 0.5."""
    measured = 0.5 / share if is_least else 0.5 * share
    return GateFigure(check=check, measured=measured, limit=0.5, is_least=is_least, share=share, holds=share > 1)


def derived(images: int = 3, *, notes: tuple[str, ...] = ()) -> DerivedSeries:
    """What a child made."""
    return DerivedSeries(
        series_uid=new_uid(),
        instances=tuple(
            DerivedInstance(
                id=(own_id := new_instance_id()),
                file_name=f"{file_stem(own_id)}.dcm",
                sop_instance_uid=new_uid(),
                sop_class_uid=MR_IMAGE,
                transfer_syntax_uid=EXPLICIT,
                size_bytes=7,
                sha256=digest(b"derived"),
            )
            for _ in range(images)
        ),
        notes=notes,
        seconds=12.5,
    )


@dataclass
class Scene:
    """The ledger under test."""

    ledger: Ledger
    clock: FakeClock
    path: Path
    _eye: sqlite3.Connection | None = None

    def receive(self, series: SeriesId | None = None, images: int = 5) -> SeriesId:
        """Instances of a series, a new one by default."""
        series = self.ledger.intake.series_for(new_uid()) if series is None else series
        outcomes = self.ledger.intake.accept([stored(series, at=self.clock.now()) for _ in range(images)])
        assert outcomes == [StoreOutcome.STORED] * images
        return series

    def settled(self, images: int = 5) -> SeriesId:
        series = self.receive(images=images)
        assert self.ledger.settling.settle(series, 1, note="quiet")
        return series

    def queued(self, *peers: str) -> SeriesId:
        series = self.settled()
        assert self.ledger.settling.plan(series, 1, plan_for(*peers)) is not None
        return series

    def replan(self, series: SeriesId, revision: int, *peers: str) -> None:
        """Let a later revision go through settle and verdict."""
        assert self.ledger.settling.settle(series, revision, note="quiet")
        assert self.ledger.settling.plan(series, revision, plan_for(*peers)) is not None

    def replan_first(self, series: SeriesId, *peers: str) -> None:
        """A new verdict on the first revision, after the operator's retry."""
        assert self.ledger.settling.plan(series, 1, plan_for(*peers)) is not None

    def claim_job(self) -> Job:
        job = self.ledger.jobs.claim("boot1:host:1", lease_s=LEASE_S)
        assert job is not None
        return job

    def finish_job(self, images: int = 3) -> Job:
        job = self.claim_job()
        assert self.ledger.jobs.finish(job, derived(images))
        return job

    def claim_delivery(self, peer: str = "pacs") -> Delivery:
        delivery = self.ledger.deliveries.claim(peer, "boot1:host:1", lease_s=LEASE_S)
        assert delivery is not None
        return delivery

    def send_all(self, delivery: Delivery) -> None:
        for item in self.ledger.deliveries.pending_items(delivery):
            assert self.ledger.deliveries.acknowledge(delivery, item, status=0)

    def committing(self, images: int = 1, *, peer: str = "pacs") -> Delivery:
        """A delivery that is sent, and whose peer is to commit to it."""
        self.finish_job(images)
        delivery = self.claim_delivery(peer)
        self.send_all(delivery)
        assert self.ledger.deliveries.finish(delivery, committer=peer) is DeliveryState.SENT
        return delivery

    def ask(self, question: str, *parameters: object) -> list[tuple[object, ...]]:
        """Look at the rows past our own code."""
        if self._eye is None:
            self._eye = sqlite3.connect(self.path, isolation_level=None)
        return self._eye.execute(question, parameters).fetchall()

    def imported(self, name: str = "thin", content: str = "weights") -> ModelId:
        """A model that was imported and is not active."""
        model = ImportedModel(name=name, digest=digest(content.encode()), kind="thin", ratios=(2, 6))
        number, _ = self.ledger.models.take_in(model, "operator")
        return number

    def alerted(self) -> None:
        """An alert that is to be sent by mail."""
        condition = Condition(name="disk", sentence="The disk is full.", number=1, is_error=True)
        self.ledger.alerts.observe("mail", [condition], (), again_s=0)

    def set_priority(self, series: SeriesId, priority: Priority) -> None:
        """Change the priority of the jobs of a series."""
        self.ask("UPDATE job SET priority = ? WHERE series_id = ?", int(priority), series)

    def close(self) -> None:
        self.ledger.close()
        if self._eye is not None:
            self._eye.close()

    def state(self, table: str, row: int) -> str:
        ((state,),) = self.ask(f"SELECT state FROM {table} WHERE id = ?", row)  # noqa: S608 (our own names)
        assert isinstance(state, str)
        return state

    def states(self, table: str) -> list[str]:
        return [str(state) for (state,) in self.ask(f"SELECT state FROM {table} ORDER BY id")]  # noqa: S608 (our own names)

    def kinds(self, table: str, row: int) -> list[str]:
        """What happened to a row, in order."""
        rows = self.ask("SELECT kind FROM event WHERE table_name = ? AND row_id = ? ORDER BY id", table, row)
        return [str(kind) for (kind,) in rows]
