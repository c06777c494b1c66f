"""Proofs under any order of answers: a PACS that loses images and reports late, in part, twice, for nobody, as another.

The machine keeps what the PACS truly holds and what it has said. The ledger must never call a delivery committed, or
found by a query, on less than the PACS said of every image, never send an image again that the PACS did not deny or
hide, and never send anything again for ever.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dicomnode.errors import InputError
from dicomnode.ids import DeliveryId
from dicomnode.ledger.commitments import RESEND_AFTER_S
from dicomnode.ledger.states import DeliveryState
from dicomnode.ledger.store import Ledger, open_ledger
from dicomnode.ledger.values import Commitment
from tests.ledger.scene import LEASE_S, FakeClock, Scene
from tests.ledger.test_machine import MEMORY
from tests.support.thorough import times

IMAGES = 3
WAIT_S = 3600.0
A_DAY_S = 86_400.0
NO_SUCH_INSTANCE, CLASS_NOT_SUPPORTED = 0x0112, 0x0122
some = st.sets(st.integers(min_value=0, max_value=IMAGES - 1))
pick = st.integers(min_value=0, max_value=1000)


class CommitmentMachine(RuleBasedStateMachine):
    """One delivery of three images, the PACS that got it, an operator and a power switch."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="proofs-", dir=MEMORY if MEMORY.is_dir() else None)
        self.generation = 0
        self.clock = FakeClock()
        self.path = Path(self.folder.name) / "0.sqlite"
        self.scene: Scene
        self.delivery: DeliveryId
        self.uids: list[str] = []
        self.held: set[str] = set()  # by the PACS
        self.said: set[str] = set()  # that the PACS keeps it, in a report
        self.denied: set[str] = set()  # in a report, or by a query that did not show it
        self.asked: list[Commitment] = []
        self.open()  # not in ``start``: hypothesis may give a history up before that has its values

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

    @initialize(lost=some)
    def start(self, lost: set[int]) -> None:
        self.scene.queued("pacs")
        self.delivery = self.scene.committing(IMAGES).id
        self.uids = [str(uid) for (uid,) in self.scene.ask("SELECT sop_instance_uid FROM instance WHERE job_id = 1")]
        assert len(self.uids) == IMAGES
        self.held = {uid for number, uid in enumerate(self.uids) if number not in lost}

    @rule()
    def crash(self) -> None:
        old, self.generation = self.path, self.generation + 1
        self.path = old.with_name(f"{self.generation}.sqlite")
        for ending in ("", "-wal"):
            shutil.copyfile(f"{old}{ending}", f"{self.path}{ending}")
        self.scene.close()
        self.open()

    @rule(seconds=st.sampled_from([1.0, LEASE_S + 1, max(RESEND_AFTER_S), WAIT_S, 3 * A_DAY_S]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    # The node.

    @rule(lost=some)
    def send(self, lost: set[int]) -> None:
        """Whatever is pending; the PACS acknowledges it and perhaps loses it once more."""
        delivery = self.ledger.deliveries.claim("pacs", f"boot {self.generation}", lease_s=LEASE_S)
        if delivery is None:
            return
        items = self.ledger.deliveries.pending_items(delivery)
        pending = {item.sop_instance_uid for item in items}
        assert pending <= self.denied, "only what the PACS does not have is sent again"
        for item in items:
            assert self.ledger.deliveries.acknowledge(delivery, item, status=0)
        self.held |= {uid for number, uid in enumerate(self.uids) if uid in pending and number not in lost}
        assert self.ledger.deliveries.finish(delivery, committer="pacs") is DeliveryState.SENT

    @rule()
    def ask_for_commitment(self) -> None:
        one = self.ledger.commitments.next_one("pacs")
        if one is None or one.is_asked:
            return
        assert one.transaction_uid not in {earlier.transaction_uid for earlier in self.asked}
        assert self.ledger.commitments.ask(one, "pacs", wait_s=WAIT_S)
        self.asked.append(one)

    @rule(sees=st.booleans())
    def query(self, sees: bool) -> None:
        """After the wait; a PACS that indexes slowly shows nothing yet."""
        one = self.ledger.commitments.next_one("pacs")
        if one is None or not one.is_asked:
            return
        found = self.held if sees else set()
        absent = {item.sop_instance_uid for item in one.items} - found
        again = self.ledger.commitments.queried(one, found)
        if again:
            self.denied |= set(self.uids) - found
        assert again <= IMAGES
        assert bool(again) == bool(absent)

    @rule()
    def give_up(self) -> None:
        if (one := self.ledger.commitments.next_one("pacs")) is not None:
            self.ledger.commitments.give_up(one, "neither commitment nor C-FIND")

    # The PACS.

    @precondition(lambda self: self.asked)
    @rule(
        which=pick,
        left_out=some,
        peer=st.sampled_from(["pacs", "pacs", "archive"]),
        reason=st.sampled_from([NO_SUCH_INSTANCE, NO_SUCH_INSTANCE, CLASS_NOT_SUPPORTED]),
    )
    def report(self, which: int, left_out: set[int], peer: str, reason: int) -> None:
        """On a request of any age, whole or in part, as the PACS or as another application, any number of times."""
        one = self.asked[which % len(self.asked)]
        told = {item.sop_instance_uid for number, item in enumerate(one.items) if number not in left_out}
        committed, failed = told & self.held, told - self.held
        assert self.ledger.commitments.take_report(
            one.transaction_uid, peer=peer, committed=committed, failed=dict.fromkeys(failed, reason)
        )
        self.said |= committed
        self.denied |= failed

    @rule()
    def report_for_nobody(self) -> None:
        before = self.scene.ask("SELECT state, proof, changes.n FROM delivery, (SELECT count(*) n FROM event) changes")
        failed = dict.fromkeys(self.uids, NO_SUCH_INSTANCE)
        assert not self.ledger.commitments.take_report("1.2.3.4", peer="pacs", committed=(), failed=failed)
        after = self.scene.ask("SELECT state, proof, changes.n FROM delivery, (SELECT count(*) n FROM event) changes")
        assert before == after

    # The operator.

    @rule(verb=st.sampled_from(["retry", "release"]))
    def operate(self, verb: str) -> None:
        with suppress(InputError):
            getattr(self.ledger.operator, f"{verb}_delivery")(self.delivery, "operator")

    # What always holds.

    @invariant()
    def a_proof_rests_on_what_the_pacs_said(self) -> None:
        ((state, proof),) = self.scene.ask("SELECT state, proof FROM delivery")
        items = self.scene.ask(
            "SELECT i.sop_instance_uid, d.state, d.committed_at FROM delivery_item d JOIN instance i "
            "ON i.id = d.instance_id"
        )
        assert {uid for uid, _, at in items if at is not None} <= self.said
        assert (proof is not None) == (state == "sent")
        if proof == "committed":
            assert all(item_state == "acknowledged" and at is not None for _, item_state, at in items)
            assert set(self.uids) <= self.said

    @invariant()
    def nothing_is_sent_again_for_ever(self) -> None:
        ((resends,),) = self.scene.ask("SELECT resends FROM delivery")
        assert isinstance(resends, int)
        assert resends <= len(RESEND_AFTER_S)

    @invariant()
    def one_request_at_the_most_waits(self) -> None:
        assert len(self.scene.ask("SELECT 1 FROM commitment WHERE state IN ('wanted', 'asked')")) <= 1

    @invariant()
    def what_is_held_says_why(self) -> None:
        for reason, sentence in self.scene.ask("SELECT reason, sentence FROM delivery WHERE state = 'held'"):
            assert reason == "not_committed"
            assert sentence


TestCommitmentMachine = pytest.mark.faults(pytest.mark.timeout(times(900, 3600))(CommitmentMachine.TestCase))
TestCommitmentMachine.settings = settings(
    max_examples=times(20, 2_000),
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
