"""Instances that come at the same moment share a transaction, and one that fails does not take the others with it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dicomnode.errors import LedgerError
from dicomnode.ids import SeriesId, new_instance_id
from dicomnode.ledger.engine import LedgerBusyError
from dicomnode.ledger.facades.intake import Intake
from dicomnode.ledger.store import Ledger, open_ledger
from dicomnode.ledger.values import StoredInstance, StoreOutcome
from dicomnode.receive import commit
from dicomnode.receive.commit import GroupCommit, OutcomeUnknownError
from tests.support.wait import wait_until


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = open_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    yield made
    made.close()


def instance(series: SeriesId, number: int) -> StoredInstance:
    instance_id = new_instance_id()
    return StoredInstance(
        id=instance_id,
        series=series,
        sop_class_uid="1.2",
        sop_instance_uid=f"1.2.3.{number}",
        transfer_syntax_uid="1.2.840.10008.1.2",
        size_bytes=1,
        sha256="0" * 64,
        file=f"{series}/{instance_id}.dcm",
        peer="mr1",
        received_at=datetime.now(UTC),
    )


class Gate:
    """Stands before the ledger: records batches, holds them back, is stuck at one size, fails on a poisoned one."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self.batches: list[int] = []
        self.open = threading.Event()
        self.stuck = 0
        self.unstuck = threading.Event()
        self.poison: str | None = None
        self.error: Exception = LedgerError("The ledger failed.")

    def accept(self, instances: Sequence[StoredInstance]) -> list[StoreOutcome]:
        self.batches.append(len(instances))
        self.open.wait(20)
        if len(instances) == self.stuck:
            self.unstuck.wait(20)
        if any(one.sop_instance_uid == self.poison for one in instances):
            raise self.error
        return self._intake.accept(instances)


def accept_all(gate: Gate, instances: Sequence[StoredInstance]) -> dict[str, object]:
    """Each on its own thread; the first is in its turn before the others come."""
    group = GroupCommit(gate)  # type: ignore[arg-type]  # an intake, as far as a commit needs one
    found: dict[str, object] = {}

    def run(one: StoredInstance) -> None:
        try:
            found[one.sop_instance_uid] = group.accept(one)
        except Exception as exc:  # noqa: BLE001 - what each waiting thread gets is the point
            found[one.sop_instance_uid] = exc

    threads = [threading.Thread(target=run, args=(one,)) for one in instances]
    threads[0].start()
    wait_until(lambda: len(gate.batches) == 1)
    for thread in threads[1:]:
        thread.start()
    wait_until(lambda: len(group._waiting) == len(instances) - 1)
    gate.open.set()
    for thread in threads:
        thread.join(20)
    return found


def test_those_who_wait_share_one_transaction(ledger: Ledger) -> None:
    gate = Gate(ledger.intake)
    series = ledger.intake.series_for("1.2")
    found = accept_all(gate, [instance(series, number) for number in range(8)])
    assert set(found.values()) == {StoreOutcome.STORED}
    assert gate.batches == [1, 7]
    assert len(ledger.settling.instances_of(series, 1)) == 8


def test_one_poisoned_instance_fails_alone(ledger: Ledger) -> None:
    gate = Gate(ledger.intake)
    gate.poison = "1.2.3.5"
    series = ledger.intake.series_for("1.2")
    found = accept_all(gate, [instance(series, number) for number in range(8)])
    assert isinstance(found.pop("1.2.3.5"), LedgerError)
    assert set(found.values()) == {StoreOutcome.STORED}
    assert len(ledger.settling.instances_of(series, 1)) == 7


def test_a_busy_ledger_is_not_asked_again_for_each(ledger: Ledger) -> None:
    gate = Gate(ledger.intake)
    gate.poison, gate.error = "1.2.3.5", LedgerBusyError("Another process held the ledger.")
    found = accept_all(gate, [instance(ledger.intake.series_for("1.2"), number) for number in range(8)])
    assert gate.batches == [1, 7]
    assert sum(isinstance(one, LedgerBusyError) for one in found.values()) == 7


def test_who_waits_too_long_gives_up_and_leaves_nothing_behind(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "TURN_TIMEOUT_S", 0.2)
    gate = Gate(ledger.intake)
    group = GroupCommit(gate)  # type: ignore[arg-type]  # an intake, as far as a commit needs one
    series = ledger.intake.series_for("1.2")
    first = threading.Thread(target=group.accept, args=(instance(series, 1),))
    first.start()
    wait_until(lambda: len(gate.batches) == 1)
    with pytest.raises(LedgerBusyError):
        group.accept(instance(series, 2))
    gate.open.set()
    first.join(20)
    assert [one.sop_instance_uid for one in ledger.settling.instances_of(series, 1)] == ["1.2.3.1"]


def test_whose_commit_has_begun_and_does_not_end_is_told_that_nobody_knows(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file must then stay: the row may still come."""
    monkeypatch.setattr(commit, "TURN_TIMEOUT_S", 0.5)
    gate = Gate(ledger.intake)
    gate.stuck = 2
    group = GroupCommit(gate)  # type: ignore[arg-type]  # an intake, as far as a commit needs one
    series = ledger.intake.series_for("1.2")
    found: list[str] = []

    def run(one: StoredInstance) -> None:
        try:
            group.accept(one)
        except OutcomeUnknownError:
            found.append(one.sop_instance_uid)

    threads = [threading.Thread(target=run, args=(instance(series, number),)) for number in (1, 2, 3)]
    threads[0].start()
    wait_until(lambda: gate.batches == [1])
    for waiting, thread in enumerate(threads[1:], start=1):
        thread.start()
        wait_until(lambda: len(group._waiting) == waiting)  # noqa: B023 (asked at once)
    gate.open.set()
    threads[2].join(20)
    assert found == ["1.2.3.3"]
    gate.unstuck.set()
    for thread in threads:
        thread.join(20)
    assert gate.batches == [1, 2]
    assert len(ledger.settling.instances_of(series, 1)) == 3
