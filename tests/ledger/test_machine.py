"""The ledger under any order of acts, with a crash as one of them.

A crash copies the database and its write-ahead log as they lie on disk, and opens the copy: what ``kill -9`` leaves.
Claims of before the crash are kept and used after it, as a worker does that nobody told.

After every step the rows are read past our own code. The strongest check replays the events of each row: they must
form a chain from its birth to the state it is in. Beside it stands what a hospital would ask: is every acknowledged
image there, was nothing acknowledged twice, is no half series of an old revision opened, is nothing stuck.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dicomnode.errors import InputError
from dicomnode.ids import DeliveryId, SeriesId
from dicomnode.ledger.states import BIRTHS, TRANSITIONS
from dicomnode.ledger.store import Ledger, open_ledger
from dicomnode.ledger.values import Delivery, Examined, Finding, Forward, Job, Release, StoreOutcome
from tests.ledger.scene import LEASE_S, FakeClock, Scene, derived, new_uid, plan_for, stored
from tests.support.thorough import times

MEMORY = Path("/dev/shm")  # noqa: S108 - thousands of flushes: on a disk they would take all the time
PEERS = ("pacs", "workstation")
pick = st.integers(min_value=0, max_value=1000)


class LedgerMachine(RuleBasedStateMachine):
    """Four workers, an operator and a power switch."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="ledger-machine-", dir=MEMORY if MEMORY.is_dir() else None)
        self.generation = 0
        self.clock = FakeClock()
        self.path = Path(self.folder.name) / "0.sqlite"
        self.scene: Scene
        self.series: list[SeriesId] = []
        self.accepted: dict[str, SeriesId] = {}
        self.aside: dict[str, SeriesId] = {}
        self.jobs: list[Job] = []
        self.deliveries: list[Delivery] = []
        self.acknowledged: Counter[int] = Counter()

    @property
    def ledger(self) -> Ledger:
        return self.scene.ledger

    def open(self) -> None:
        ledger = open_ledger(f"sqlite:///{self.path}", clock=self.clock)
        self.scene = Scene(ledger=ledger, clock=self.clock, path=self.path)
        ledger.boots.begin(pid=self.generation, host="h")

    def teardown(self) -> None:
        self.scene.close()
        self.folder.cleanup()

    @initialize()
    def start(self) -> None:
        self.open()

    # The machine's own rules.

    @rule()
    def crash(self) -> None:
        old, self.generation = self.path, self.generation + 1
        self.path = old.with_name(f"{self.generation}.sqlite")
        for ending in ("", "-wal"):
            shutil.copyfile(f"{old}{ending}", f"{self.path}{ending}")
        self.scene.close()
        self.open()

    @rule(seconds=st.sampled_from([1, 30, LEASE_S + 1]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    # Receive.

    @rule(which=pick, images=st.integers(min_value=1, max_value=3))
    def receive(self, which: int, images: int) -> None:
        """A new series, or more of one that is there: before, during or after all that follows."""
        if not self.series or which % 3 == 0:
            self.series.append(self.ledger.intake.series_for(new_uid()))
        series = self.series[which % len(self.series)]
        batch = [stored(series, at=self.clock.now()) for _ in range(images)]
        assert self.ledger.intake.accept([*batch, batch[0]]) == [StoreOutcome.STORED] * (images + 1)
        self.accepted |= {one.sop_instance_uid: series for one in batch}

    @precondition(lambda self: self.accepted)
    @rule(which=pick, content=st.sampled_from(["pixels", "other pixels"]))
    def receive_again(self, which: int, content: str) -> None:
        uid = list(self.accepted)[which % len(self.accepted)]
        before = self.scene.states("series")
        (outcome,) = self.ledger.intake.accept([stored(self.accepted[uid], uid=uid, content=content)])
        if content == "pixels":
            assert outcome == StoreOutcome.DUPLICATE
        else:
            assert outcome == (StoreOutcome.ASIDE_ALREADY if uid in self.aside else StoreOutcome.CONFLICT)
            self.aside[uid] = self.accepted[uid]
        assert self.scene.states("series") == before

    @precondition(lambda self: self.accepted)
    @rule(which=pick)
    def receive_a_copy_of_a_series(self, which: int) -> None:
        """Another series bears the UID of an image that is there; perhaps nothing else ever comes of it."""
        uid = list(self.accepted)[which % len(self.accepted)]
        series = self.ledger.intake.series_for(new_uid())
        (outcome,) = self.ledger.intake.accept([stored(series, uid=uid, content=f"copy {which} in {series}")])
        assert outcome == StoreOutcome.CONFLICT

    @rule(finding=st.sampled_from([Finding.SAME, Finding.OTHER_CONTENT]))
    def examine_all(self, finding: Finding) -> None:
        for series in self.ledger.quarantine.waiting_series():
            found = [Examined(id=one.id, finding=finding) for one in self.ledger.quarantine.unexamined(series)]
            self.ledger.quarantine.examined(series, found)

    @rule(which=pick)
    def see(self, which: int) -> None:
        rows = self.scene.ask("SELECT id FROM quarantine ORDER BY id")
        if rows:
            (number,) = rows[which % len(rows)]
            assert isinstance(number, int)
            self.ledger.operator.see_quarantine([number], "operator")

    # Settle.

    @rule()
    def settle_all(self) -> None:
        for line in self.ledger.settling.receiving():
            assert self.ledger.settling.settle(line.id, line.revision, note="quiet", seen_at=line.last_at)

    @rule(
        model=st.sampled_from(["d1", "d1", "d2"]),
        keeps=st.booleans(),
        delivers=st.booleans(),
        forwards=st.booleans(),
        release=st.sampled_from(Release),
    )
    def judge_all(self, model: str, keeps: bool, delivers: bool, forwards: bool, release: Release) -> None:
        forward = Forward(peers=PEERS if forwards else ())
        for line in self.ledger.settling.settled():
            if keeps:
                reason = "set_aside" if self.ledger.quarantine.unexamined(line.id) else "gaps"
                assert self.ledger.settling.keep(
                    line.id, line.revision, reason=reason, sentence="Kept.", forward=forward
                )
            else:
                planned = replace(plan_for(*(PEERS if delivers else ()), digest_of_model=model), release=release)
                assert self.ledger.settling.plan(line.id, line.revision, planned, forward=forward) is not None
            for peer in forward.peers:
                forgotten = self.scene.ask(
                    "SELECT 1 FROM instance WHERE series_id = ? AND id NOT IN (SELECT instance_id FROM delivery_item "
                    "JOIN delivery ON delivery.id = delivery_id WHERE job_id IS NULL AND delivery.peer = ?)",
                    line.id,
                    peer,
                )
                assert not forgotten, "each image goes to each peer"

    # Work.

    @rule()
    def claim_job(self) -> None:
        job = self.ledger.jobs.claim(f"boot {self.generation}", lease_s=LEASE_S)
        if job is not None:
            self.jobs.append(job)

    @precondition(lambda self: self.jobs)
    @rule(which=pick, end=st.sampled_from(["finish", "return", "spend", "hold"]))
    def end_job(self, which: int, end: str) -> None:
        """Also with a claim that somebody else has long since taken over."""
        job = self.jobs[which % len(self.jobs)]
        before = self.scene.ask("SELECT state, lease_token FROM job WHERE id = ?", job.id)
        ours = before == [("running", job.lease_token)]
        deliveries = len(self.scene.states("delivery"))
        if end == "finish":
            assert self.ledger.jobs.finish(job, derived(2)) == ours
            ((revision,),) = self.scene.ask("SELECT revision FROM series WHERE id = ?", job.series)
            opens = ours and revision == job.revision and job.planned.release is not Release.SHADOW
            expected = deliveries + (len(job.planned.deliver_to) if opens else 0)
            assert len(self.scene.states("delivery")) == expected
        elif end == "hold":
            assert self.ledger.jobs.hold(job, reason="input", sentence="no pixels") == ours
        else:
            self.ledger.jobs.give_back(job, detail="died", counts=end == "spend")
        after = self.scene.ask("SELECT state, lease_token FROM job WHERE id = ?", job.id)
        assert (after != before) == ours

    # Push.

    @rule(peer=st.sampled_from(PEERS))
    def claim_delivery(self, peer: str) -> None:
        delivery = self.ledger.deliveries.claim(peer, f"boot {self.generation}", lease_s=LEASE_S)
        if delivery is not None:
            self.deliveries.append(delivery)

    @precondition(lambda self: self.deliveries)
    @rule(which=pick, answer=st.sampled_from(["acknowledge", "acknowledge", "refuse", "fail"]))
    def answer_item(self, which: int, answer: str) -> None:
        delivery = self.deliveries[which % len(self.deliveries)]
        items = self.ledger.deliveries.pending_items(delivery)
        if not items:
            return
        ours, is_written = self._is_ours(delivery), self._is_answer_written(delivery)
        if answer == "acknowledge":
            assert self.ledger.deliveries.acknowledge(delivery, items[0], status=0) == ours
            if is_written:
                self.acknowledged[items[0].id] += 1
        elif answer == "refuse":
            assert self.ledger.deliveries.refuse(delivery, items[0], status=0xA900) == ours
        else:
            assert self.ledger.deliveries.fail_item(delivery, items[0], status=0x0110) == items[0].tries + is_written

    @precondition(lambda self: self.deliveries)
    @rule(which=pick, end=st.sampled_from(["finish", "defer", "hold", "release"]))
    def end_delivery(self, which: int, end: str) -> None:
        delivery = self.deliveries[which % len(self.deliveries)]
        ours = self._is_ours(delivery)
        if end == "finish":
            if not self.ledger.deliveries.pending_items(delivery):
                refused = self.scene.ask(
                    "SELECT 1 FROM delivery_item WHERE delivery_id = ? AND state = 'refused'", delivery.id
                )
                end_state = "held" if refused else "sent"
                assert self.ledger.deliveries.finish(delivery) == (end_state if ours else None)
        elif end == "defer":
            assert self.ledger.deliveries.defer(delivery, wait_s=30, reason="no_answer", sentence="x") == ours
        elif end == "hold":
            assert self.ledger.deliveries.hold(delivery, reason="no_context", sentence="x") == ours
        else:
            assert self.ledger.deliveries.release_claim(delivery) == ours

    # The operator.

    @precondition(lambda self: self.series)
    @rule(which=pick, verb=st.sampled_from(["retry", "release", "cancel"]))
    def operate_series(self, which: int, verb: str) -> None:
        series = self.series[which % len(self.series)]
        try:
            getattr(self.ledger.operator, f"{verb}_series")(series, "operator")
        except InputError:
            return  # a verb that means nothing here changes nothing: the invariants look

    @rule(which=pick, verb=st.sampled_from(["retry", "release", "cancel"]))
    def operate_delivery(self, which: int, verb: str) -> None:
        with suppress(InputError):
            getattr(self.ledger.operator, f"{verb}_delivery")(self._some_delivery(which), "operator")

    @rule(which=pick, peer=st.sampled_from(PEERS))
    def send_delivery_to(self, which: int, peer: str) -> None:
        """What was not sent is given up in favour of the other peer; what was stays sent."""
        number = self._some_delivery(which)
        before = self.scene.ask("SELECT state, peer FROM delivery WHERE id = ?", number)
        try:
            there = self.ledger.operator.send_delivery_to(number, peer, "operator")
        except InputError:
            assert self.scene.ask("SELECT state, peer FROM delivery WHERE id = ?", number) == before
            return
        assert self.scene.ask("SELECT state, peer FROM delivery WHERE id = ?", there) == [("due", peer)]
        if there != number:
            assert self.scene.state("delivery", number) == ("sent" if before[0][0] == "sent" else "cancelled")

    # What always holds.

    @invariant()
    def every_row_is_where_its_events_lead(self) -> None:
        chains: defaultdict[tuple[object, object], list[tuple[object, object]]] = defaultdict(list)
        for table, row, source, target in self.scene.ask(
            "SELECT table_name, row_id, from_state, to_state FROM event WHERE to_state IS NOT NULL ORDER BY id"
        ):
            chains[table, row].append((source, target))
        for table in TRANSITIONS:
            for row, state in self.scene.ask(f"SELECT id, state FROM {table}"):  # noqa: S608 (our own names)
                chain = chains.pop((table, row), [])
                here: object = str(BIRTHS[table][0]) if table == "delivery_item" else None
                for source, target in chain:
                    assert source == here
                    here = target
                assert here == state
        assert not chains

    @invariant()
    def every_accepted_image_has_its_row(self) -> None:
        rows = self.scene.ask("SELECT sop_instance_uid FROM instance WHERE origin = 'received'")
        assert {uid for (uid,) in rows} == set(self.accepted)

    @invariant()
    def every_image_that_was_set_aside_has_its_row_and_series(self) -> None:
        rows = self.scene.ask("SELECT 1 FROM quarantine WHERE series_id IS NULL")
        assert not rows
        own = self.scene.ask(
            "SELECT sop_instance_uid FROM quarantine JOIN instance ON instance.id = instance_id "
            "WHERE quarantine.series_id = instance.series_id"
        )
        assert {uid for (uid,) in own} == set(self.aside)
        assert len(own) == len(self.aside), "each once"

    @invariant()
    def nothing_begins_while_its_series_is_in_doubt(self) -> None:
        """But what a person let go, or had begun before."""
        doubtful = (
            "SELECT id FROM delivery WHERE state = 'due' AND attempts = 0 AND series_id IN (SELECT series_id "
            "FROM quarantine WHERE seen_at IS NULL AND coalesce(finding, '') <> 'same')"
        )
        for (number,) in self.scene.ask(doubtful):
            assert isinstance(number, int)
            assert {"release", "retry"} & set(self.scene.kinds("delivery", number))

    @invariant()
    def nothing_under_review_begins_without_a_person(self) -> None:
        begun = (
            "SELECT delivery.id FROM delivery JOIN job ON job.id = job_id "
            "WHERE job.release = 'review' AND delivery.attempts > 0"
        )
        for (number,) in self.scene.ask(begun):
            assert isinstance(number, int)
            assert {"release", "retry"} & set(self.scene.kinds("delivery", number))

    @invariant()
    def nothing_is_acknowledged_twice_or_forgotten(self) -> None:
        assert all(times == 1 for times in self.acknowledged.values())
        rows = self.scene.ask("SELECT id FROM delivery_item WHERE state = 'acknowledged'")
        assert {row for (row,) in rows} == set(self.acknowledged)

    @invariant()
    def one_job_of_a_revision_and_model_is_live(self) -> None:
        assert not self.scene.ask(
            "SELECT 1 FROM job WHERE state IN ('queued', 'running', 'held') "
            "GROUP BY series_id, revision, model HAVING count(*) > 1"
        )

    @invariant()
    def nothing_of_an_old_revision_waits(self) -> None:
        old = "JOIN series ON series.id = job.series_id WHERE job.revision < series.revision"
        assert not self.scene.ask(f"SELECT 1 FROM job {old} AND job.state IN ('queued', 'held')")  # noqa: S608 (our own names)

    @invariant()
    def a_planned_series_has_a_job(self) -> None:
        assert not self.scene.ask(
            "SELECT 1 FROM series WHERE state = 'planned' AND NOT EXISTS ("
            "SELECT 1 FROM job WHERE job.series_id = series.id AND job.revision = series.revision "
            "AND (job.state NOT IN ('superseded', 'cancelled') OR job.reason = 'operator'))"
        )

    @invariant()
    def a_delivery_has_all_images_of_its_job(self) -> None:
        assert not self.scene.ask(
            "SELECT 1 FROM delivery WHERE job_id IS NOT NULL "
            "AND (SELECT count(*) FROM delivery_item WHERE delivery_id = delivery.id) <> "
            "(SELECT count(*) FROM instance WHERE instance.job_id = delivery.job_id)"
        )

    def _is_ours(self, delivery: Delivery) -> bool:
        row = self.scene.ask("SELECT state, lease_token FROM delivery WHERE id = ?", delivery.id)
        return row == [("sending", delivery.lease_token)]

    def _is_answer_written(self, delivery: Delivery) -> bool:
        """Also of what was on its way when an operator cancelled the delivery."""
        row = self.scene.ask("SELECT state, state_cause, lease_token FROM delivery WHERE id = ?", delivery.id)
        return self._is_ours(delivery) or row == [("cancelled", "cancel", delivery.lease_token)]

    def _some_delivery(self, which: int) -> DeliveryId:
        """One that is there, or the number behind the last."""
        return DeliveryId(1 + which % (len(self.scene.states("delivery")) + 1))


TestLedgerMachine = pytest.mark.faults(pytest.mark.timeout(times(900, 3600))(LedgerMachine.TestCase))
TestLedgerMachine.settings = settings(
    max_examples=times(50, 2_000),
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
