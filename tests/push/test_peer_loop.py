"""Deliveries reach the peer whole, each answer in the ledger before the next send, whatever the peer does."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from dicomnode.push import peer_loop
from dicomnode.push.peer_loop import ABORTS_BEFORE_HOLD, backoff_s
from dicomnode.seams import set_checkpoint_hook
from dicomnode.settings.models import PushSettings
from dicomnode.wire import IMPLICIT, MR_IMAGE, STATUSES, VERIFICATION, Action
from tests.support.dcmtk import free_port, needs_dcmtk, storescp
from tests.support.dicom import dataset_bytes
from tests.support.due_delivery import SWIFT, Node
from tests.support.misbehaving_pacs import MisbehavingPacs, Trick, silent_listener
from tests.support.orthanc import needs_orthanc, orthanc
from tests.support.wait import wait_until

TIRELESS = SWIFT.model_copy(update={"backoff_min_s": 0.01, "backoff_max_s": 0.02})
# Soon tired of a peer that hangs, and still patient with one that answers on a loaded machine.
HASTY = SWIFT.model_copy(update={"connect_timeout_s": 10.0, "response_timeout_s": 2.5})


@pytest.fixture
def pacs() -> Iterator[MisbehavingPacs]:
    with MisbehavingPacs() as running:
        yield running


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    opened = Node(tmp_path / "node")
    yield opened
    opened.close()


def test_a_due_delivery_arrives_whole_in_order_over_one_association(node: Node, pacs: MisbehavingPacs) -> None:
    derived = node.derive("pacs", instances=5)
    node.push_to("pacs", pacs.port)
    sent = node.wait_for("sent")
    assert (sent.acknowledged, sent.items, sent.proof, sent.attempts) == (5, 5, "acknowledged", 1)
    assert {arrival.sop_instance_uid: arrival.sha256 for arrival in pacs.arrivals} == derived.sha256
    assert [arrival.sop_instance_uid for arrival in pacs.arrivals] == list(derived.sha256)
    assert pacs.requested == 1


@pytest.mark.parametrize(("trick", "reason"), [(Trick.ABORT, "aborted"), (Trick.LOSE_ANSWER, "lost")])
def test_an_instance_at_which_the_peer_always_breaks_off_is_not_tried_for_ever(
    node: Node, pacs: MisbehavingPacs, trick: Trick, reason: str
) -> None:
    derived = node.derive("pacs", instances=3)
    pacs.answers.append(0)
    pacs.answers.extend([trick] * 40)
    node.push_to("pacs", pacs.port, TIRELESS)
    held = node.wait_for("held")
    assert (held.reason, held.acknowledged, held.attempts) == (reason, 1, ABORTS_BEFORE_HOLD + 1)
    assert f"It did so {ABORTS_BEFORE_HOLD} times in a row, at the same instance." in held.sentence
    assert {arrival.sop_instance_uid for arrival in pacs.arrivals[1:]} == {list(derived.sha256)[1]}


def test_a_peer_that_breaks_off_after_each_instance_gets_them_all(node: Node, pacs: MisbehavingPacs) -> None:
    node.derive("pacs", instances=12)
    for _ in range(12):
        pacs.answers.extend([0, Trick.ABORT])
    node.push_to("pacs", pacs.port, TIRELESS)
    assert node.wait_for("sent").acknowledged == 12


def test_a_wake_up_sends_at_once(node: Node, pacs: MisbehavingPacs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_loop, "POLL_S", 600.0)
    loop = node.push_to("pacs", pacs.port)
    node.derive("pacs")
    loop.wake()
    node.wait_for("sent")


def test_without_a_wake_up_the_loop_looks_by_itself(
    node: Node, pacs: MisbehavingPacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_loop, "POLL_S", 0.2)
    node.push_to("pacs", pacs.port)
    node.derive("pacs")
    node.wait_for("sent")


def test_each_answer_is_committed_before_the_next_instance_is_sent(node: Node, pacs: MisbehavingPacs) -> None:
    derived = node.derive("pacs", instances=3)
    acknowledged_before: list[int] = []

    def look(name: str) -> None:
        if name == "push.sent":
            acknowledged_before.append(node.delivery().acknowledged)

    set_checkpoint_hook(look)
    try:
        node.push_to("pacs", pacs.port)
        node.wait_for("sent")
    finally:
        set_checkpoint_hook(None)
    assert acknowledged_before == [0, 1, 2]
    assert len(derived.sha256) == 3


SETTLING = {
    Action.ACCEPT: ("sent", 3, None),
    Action.WARN: ("sent", 3, None),
    Action.REFUSE: ("held", 2, "refused"),
    Action.DUPLICATE: ("held", 2, "refused"),  # never sent before
    Action.HOLD: ("held", 0, "not_supported"),
    Action.HOLD_PENDING: ("held", 0, "not_authorised"),
}


@pytest.mark.parametrize(
    ("status", "action"),
    [(one, entry.action) for entry in STATUSES for one in {entry.first, entry.last} if entry.action in SETTLING],
)
def test_a_status_that_settles_the_instance(node: Node, pacs: MisbehavingPacs, status: int, action: Action) -> None:
    """One row of docs/protocol.md#answers-of-a-peer each: the first of three instances gets the status."""
    node.derive("pacs", instances=3)
    pacs.answers.append(status)
    node.push_to("pacs", pacs.port)
    state, acknowledged, reason = SETTLING[action]
    delivery = node.wait_for(state)
    assert (delivery.acknowledged, delivery.reason) == (acknowledged, reason)
    assert f"{status:04X}" in {answer.status for answer in delivery.answers} or action is Action.HOLD_PENDING
    if state == "held":
        assert f"{status:04X}" in delivery.sentence


@pytest.mark.parametrize("status", [0xA700, 0xA7FF, 0x0213])
def test_a_peer_without_room_is_left_alone_and_then_gets_the_rest(
    node: Node, pacs: MisbehavingPacs, status: int
) -> None:
    derived = node.derive("pacs", instances=3)
    pacs.answers.extend([0x0000, status])
    node.push_to("pacs", pacs.port)
    sent = node.wait_for("sent")
    assert (sent.attempts, sent.acknowledged) == (2, 3)
    order = list(derived.sha256)
    assert [arrival.sop_instance_uid for arrival in pacs.arrivals] == [order[0], order[1], order[1], order[2]]
    assert [arrival.association for arrival in pacs.arrivals] == [1, 1, 2, 2]


@pytest.mark.parametrize("status", [0x0110, 0xFE00, 0xFF00, 0x4321])
def test_a_processing_failure_is_tried_three_times_and_then_counts_as_refused(
    node: Node, pacs: MisbehavingPacs, status: int
) -> None:
    derived = node.derive("pacs", instances=2)
    pacs.answers.extend([status, 0x0000, status, status])
    node.push_to("pacs", pacs.port)
    held = node.wait_for("held")
    assert (held.acknowledged, held.refused, held.reason) == (1, 1, "refused")
    first = next(iter(derived.sha256))
    assert [arrival.sop_instance_uid == first for arrival in pacs.arrivals] == [True, False, True, True]


def test_a_processing_failure_that_passes_leaves_no_trace(node: Node, pacs: MisbehavingPacs) -> None:
    node.derive("pacs", instances=2)
    pacs.answers.extend([0x0110, 0x0000, 0x0110])
    node.push_to("pacs", pacs.port)
    assert node.wait_for("sent").acknowledged == 2


@pytest.mark.parametrize("status", [0x0210, 0x0211, 0x0212])
def test_a_protocol_error_gets_a_second_association_once_and_is_held_then(
    node: Node, pacs: MisbehavingPacs, status: int
) -> None:
    node.derive("pacs", instances=2)
    pacs.answers.append(status)
    node.push_to("pacs", pacs.port)
    assert (node.wait_for("sent").attempts, pacs.requested) == (1, 2)
    pacs.answers.extend([status, status])
    node.derive("again", instances=2)
    node.push_to("again", pacs.port)
    held = node.wait_for("held", "again")
    assert (held.reason, held.attempts, held.acknowledged, pacs.requested) == ("protocol_error", 1, 0, 4)


@pytest.mark.parametrize("trick", list(Trick))
def test_an_instance_whose_answer_is_lost_goes_again_with_the_same_bytes_and_counts_once(
    node: Node, pacs: MisbehavingPacs, trick: Trick
) -> None:
    derived = node.derive("pacs", instances=3)
    pacs.answers.extend([0x0000, trick])
    node.push_to("pacs", pacs.port, HASTY)
    sent = node.wait_for("sent")
    assert (sent.acknowledged, sent.attempts) == (3, 2)
    assert pacs.digests() == {uid: {sha256} for uid, sha256 in derived.sha256.items()}
    order = list(derived.sha256)
    assert [arrival.sop_instance_uid for arrival in pacs.arrivals] == [order[0], order[1], order[1], order[2]]
    assert [event.count for event in node.events(derived) if event.kind == "repeated"] == [1]


def test_a_duplicate_is_acknowledged_when_we_sent_it_before(node: Node, pacs: MisbehavingPacs) -> None:
    node.derive("pacs", instances=2)
    pacs.answers.extend([Trick.LOSE_ANSWER, 0x0111])
    node.push_to("pacs", pacs.port)
    sent = node.wait_for("sent")
    assert sent.acknowledged == 2
    assert {answer.status for answer in sent.answers} == {"0111", "0000"}


@contextmanager
def _killed_in_flight(folder: Path, pacs: MisbehavingPacs, *, instances: int) -> Iterator[Node]:
    """The second process; the first one sent the second instance and ended without hearing the answer."""
    before = Node(folder)
    before.derive("pacs", instances=instances)
    pacs.answers.extend([0x0000, Trick.HANG])
    loop = before.push_to("pacs", pacs.port, SWIFT.model_copy(update={"response_timeout_s": 60.0}))
    wait_until(lambda: len(pacs.arrivals) == 2)
    loop.stop(0.1)
    pacs.let_go.set()
    before.close()
    after = Node(folder)
    yield after
    after.close()


def test_after_a_restart_only_the_instance_that_was_in_flight_may_be_there_already(
    pacs: MisbehavingPacs, tmp_path: Path
) -> None:
    """The peer answers 0111 for all that is left: one can be ours, the others came to it from elsewhere."""
    with _killed_in_flight(tmp_path, pacs, instances=4) as node:
        pacs.answers.extend([0x0111, 0x0111, 0x0111])
        node.push_to("pacs", pacs.port)
        held = node.wait_for("held")
    assert (held.acknowledged, held.refused, held.reason) == (2, 2, "refused")
    assert "0111" in held.sentence


def test_what_was_in_flight_may_still_be_there_when_the_first_association_after_a_restart_fails(
    pacs: MisbehavingPacs, tmp_path: Path
) -> None:
    with _killed_in_flight(tmp_path, pacs, instances=3) as node:
        pacs.rejections.append((2, 3, 2))
        pacs.answers.extend([0x0111, 0x0000])
        node.push_to("pacs", pacs.port)
        assert node.wait_for("sent").acknowledged == 3


@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_duplicate_that_was_refused_stays_refused_however_often_it_is_tried_again(
    pacs: MisbehavingPacs, tmp_path: Path, is_restarted: bool
) -> None:
    """The peer held the UID before us: what it has under it, nobody here knows. A failure between changes nothing."""
    node = Node(tmp_path)
    node.derive("pacs", instances=2)
    pacs.answers.extend([0x0111, 0x0000])
    loop = node.push_to("pacs", pacs.port)
    assert node.wait_for("held").refused == 1
    if is_restarted:
        node.close()
        node = Node(tmp_path)
        loop = node.push_to("pacs", pacs.port)
    pacs.answers.extend([0x0110, Trick.LOSE_ANSWER, 0x0111])
    node.retry()
    loop.wake()
    wait_until(lambda: len(pacs.arrivals) == 5)
    held = node.wait_for("held")
    assert (held.acknowledged, held.refused) == (1, 1)
    node.close()


def test_a_duplicate_is_acknowledged_after_a_restart_when_the_peer_had_failed_to_process_it(
    pacs: MisbehavingPacs, tmp_path: Path
) -> None:
    """Its first answer was 0110 and not 0111: it did not hold the instance before we sent it."""
    before = Node(tmp_path)
    before.derive("pacs", instances=2)
    pacs.answers.append(0x0110)
    patient = SWIFT.model_copy(update={"backoff_min_s": 300.0, "backoff_max_s": 900.0})
    before.push_to("pacs", pacs.port, patient)
    wait_until(lambda: before.delivery().failures == 1)
    before.close()
    after = Node(tmp_path)
    pacs.answers.append(0x0111)
    after.retry()
    after.push_to("pacs", pacs.port)
    assert after.wait_for("sent").acknowledged == 2
    after.close()


def test_a_change_of_patient_at_the_peer_is_written_down_by_keyword(node: Node, pacs: MisbehavingPacs) -> None:
    answer = Dataset()
    answer.Status = 0xB000
    answer.OffendingElement = [0x00100020, 0x00080070]
    derived = node.derive("pacs", instances=2)
    pacs.answers.extend([answer, answer])
    node.push_to("pacs", pacs.port)
    assert node.wait_for("sent").acknowledged == 2
    assert [(event.detail, event.count) for event in node.events(derived) if event.kind == "identity"] == [
        ("the peer changed PatientID", 1)
    ]


@pytest.mark.parametrize("code", [(1, 1, 3), (1, 1, 7)])
def test_a_permanent_rejection_is_held_after_three_tries_never_hot(
    node: Node, pacs: MisbehavingPacs, code: tuple[int, int, int]
) -> None:
    node.derive("pacs")
    pacs.rejections.extend([code] * 9)
    began_s = time.monotonic()
    node.push_to("pacs", pacs.port)
    held = node.wait_for("held")
    assert (held.reason, held.attempts, pacs.requested) == ("rejected", 3, 3)
    assert "/".join(map(str, code)) in held.sentence
    assert time.monotonic() - began_s >= 2 * SWIFT.backoff_max_s  # the wait between rejections is the longest one


def test_a_rejection_that_ends_lets_the_delivery_through(node: Node, pacs: MisbehavingPacs) -> None:
    node.derive("pacs")
    pacs.rejections.extend([(1, 1, 3), (1, 1, 3), (2, 3, 2), (2, 1, 1)])
    node.push_to("pacs", pacs.port)
    assert node.wait_for("sent").attempts == 5


def test_many_deliveries_to_a_peer_that_rejects_are_not_tried_in_a_burst(node: Node, pacs: MisbehavingPacs) -> None:
    patient = SWIFT.model_copy(update={"backoff_min_s": 0.5, "backoff_max_s": 60.0})
    for _ in range(4):
        node.derive("pacs")
    pacs.rejections.extend([(1, 1, 3)] * 99)
    began_s = time.monotonic()
    node.push_to("pacs", pacs.port, patient)
    wait_until(lambda: pacs.requested == 4)
    assert time.monotonic() - began_s >= 3 * 0.5


def test_no_common_context_is_held_and_lists_what_was_offered(node: Node) -> None:
    node.derive("pacs")
    with MisbehavingPacs(accepts=[(VERIFICATION, [IMPLICIT])]) as pacs:
        node.push_to("pacs", pacs.port)
        held = node.wait_for("held")
    assert (held.reason, held.attempts) == ("no_context", 1)
    assert "MR Image Storage (Implicit VR Little Endian, Explicit VR Little Endian)" in held.sentence


def test_a_peer_that_takes_implicit_only_gets_the_series(node: Node) -> None:
    derived = node.derive("pacs")
    with MisbehavingPacs(accepts=[(MR_IMAGE, [IMPLICIT])]) as pacs:
        node.push_to("pacs", pacs.port)
        node.wait_for("sent")
        assert {arrival.sop_instance_uid for arrival in pacs.arrivals} == set(derived.sha256)
        assert {arrival.transfer_syntax_uid for arrival in pacs.arrivals} == {IMPLICIT}


@pytest.mark.parametrize("harm", ["altered", "missing"])
def test_a_file_that_is_not_what_the_job_wrote_holds_the_delivery_and_nothing_is_sent(
    node: Node, pacs: MisbehavingPacs, harm: str
) -> None:
    derived = node.derive("pacs", instances=3)
    path = derived.files[2]  # the last one: it must be found before the first one goes out
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    node.push_to("pacs", pacs.port)
    held = node.wait_for("held")
    assert held.reason == harm
    assert path.name in held.sentence
    assert pacs.requested == 0


def test_a_peer_that_is_off_gets_the_series_when_it_comes_back(node: Node) -> None:
    port = free_port()
    derived = node.derive("pacs")
    node.push_to("pacs", port)
    wait_until(lambda: node.delivery().failures >= 2)
    assert node.delivery().reason == "unreachable"
    with MisbehavingPacs(port=port) as pacs:
        node.wait_for("sent")
        assert {arrival.sop_instance_uid for arrival in pacs.arrivals} == set(derived.sha256)


def test_the_wait_after_a_failure_survives_a_restart(tmp_path: Path) -> None:
    """The first process fails and dies with the wait before it; the second neither tries at once nor counts anew."""
    patient = SWIFT.model_copy(update={"backoff_min_s": 300.0, "backoff_max_s": 900.0})
    port = free_port()
    before = Node(tmp_path)
    before.derive("pacs")
    before.push_to("pacs", port, patient)
    wait_until(lambda: before.delivery().failures == 1)
    next_at = before.delivery().next_at
    before.close()
    after = Node(tmp_path)
    with MisbehavingPacs(port=port) as pacs:
        loop = after.push_to("pacs", port, patient)
        loop.wake()
        assert after.ledger.deliveries.claim("pacs", "other", lease_s=60) is None
        delivery = after.delivery()
        assert (delivery.state, delivery.failures, delivery.next_at) == ("due", 1, next_at)
        after.retry()  # the operator does not wait
        loop.wake()
        after.wait_for("sent")
        assert pacs.requested == 1
        after.close()


def test_a_hanging_peer_does_not_delay_another(node: Node, pacs: MisbehavingPacs) -> None:
    patient = SWIFT.model_copy(update={"response_timeout_s": 60.0, "connect_timeout_s": 30.0})
    pacs.answers.append(Trick.HANG)
    node.derive("hanging", "silent", "well")
    with MisbehavingPacs() as well, silent_listener() as silent_port:
        node.push_to("hanging", pacs.port, patient)
        node.push_to("silent", silent_port, SWIFT)
        wait_until(lambda: pacs.arrivals)
        node.push_to("well", well.port, patient)
        node.wait_for("sent", "well", limit_s=25)  # less than either of the others may take
    assert node.delivery("hanging").state == "sending"
    pacs.let_go.set()
    node.wait_for("sent", "hanging")


def test_a_stop_comes_between_two_instances_and_the_delivery_is_due_at_once(tmp_path: Path) -> None:
    node = Node(tmp_path)
    derived = node.derive("pacs", instances=4)
    with MisbehavingPacs() as pacs:
        pacs.answers.extend([0x0000, Trick.HANG])
        loop = node.push_to("pacs", pacs.port)
        wait_until(lambda: len(pacs.arrivals) == 2)
        stopper = threading.Thread(target=loop.stop, args=(10,))
        stopper.start()
        pacs.let_go.set()
        stopper.join(10)
        assert not loop.is_alive
        due = node.delivery()
        assert (due.state, due.acknowledged, due.failures) == ("due", 2, 0)
        node.close()
        after = Node(tmp_path)
        after.push_to("pacs", pacs.port)
        assert after.wait_for("sent").acknowledged == 4
        after.close()
        assert [arrival.sop_instance_uid for arrival in pacs.arrivals] == list(derived.sha256)  # each one once


def test_a_stop_does_not_wait_for_an_answer_longer_than_its_limit(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.derive("pacs")
    with MisbehavingPacs() as pacs:
        pacs.answers.append(Trick.HANG)
        loop = node.push_to("pacs", pacs.port, SWIFT.model_copy(update={"response_timeout_s": 60.0}))
        wait_until(lambda: pacs.arrivals)
        began_s = time.monotonic()
        assert loop.stop(0.3)
        assert time.monotonic() - began_s < 30  # half of what the answer may take
        due = node.delivery()
        assert (due.state, due.acknowledged, due.failures) == ("due", 0, 0)
        node.close()


def test_a_delivery_that_another_took_over_is_let_go(node: Node, pacs: MisbehavingPacs) -> None:
    """The lease is lost while an answer is on its way: nothing more is sent, nothing is written."""
    node.derive("pacs", instances=3)

    def take_over(name: str) -> None:
        if name == "push.sent" and len(pacs.arrivals) == 2:
            set_checkpoint_hook(None)
            node.ledger.boots.begin(pid=1, host="other")  # returns every lease, as another service would
            assert node.ledger.deliveries.claim("pacs", "other", lease_s=60) is not None

    set_checkpoint_hook(take_over)
    try:
        node.push_to("pacs", pacs.port)
        wait_until(lambda: node.delivery().attempts == 2)
        wait_until(lambda: not [one for one in threading.enumerate() if one.name.startswith("RequestorThread")])
    finally:
        set_checkpoint_hook(None)
    delivery = node.delivery()
    assert (delivery.state, delivery.acknowledged, len(pacs.arrivals)) == ("sending", 1, 2)


def test_an_unexpected_failure_defers_the_delivery_and_the_loop_goes_on(node: Node, pacs: MisbehavingPacs) -> None:
    node.derive("pacs")
    failures = iter([RuntimeError("a mistake of ours")])

    def fail_once(name: str) -> None:
        if name == "push.associated" and (error := next(failures, None)) is not None:
            raise error

    set_checkpoint_hook(fail_once)
    try:
        node.push_to("pacs", pacs.port)
        assert node.wait_for("sent").attempts == 2
    finally:
        set_checkpoint_hook(None)


def test_the_backoff_doubles_with_full_jitter_between_its_limits() -> None:
    push = PushSettings()
    chance = random.Random(1)  # noqa: S311 (spreads retries)
    for failures in (0, 1, 4, 7, 20, 10_000):
        ceiling_s = min(900.0, 5.0 * 2 ** min(failures + 1, 30))
        waits = [backoff_s(failures, push, chance) for _ in range(2000)]
        assert 5.0 <= min(waits) < 5.0 + 0.02 * ceiling_s
        assert 0.98 * ceiling_s < max(waits) <= ceiling_s


@needs_dcmtk
def test_storescp_gets_the_delivery_byte_for_byte(node: Node, tmp_path: Path) -> None:
    derived = node.derive("pacs", instances=6, size=64)
    with storescp(tmp_path / "out", "+B") as port:
        node.push_to("pacs", port)
        node.wait_for("sent")
    stored = {dataset_bytes(path) for path in (tmp_path / "out").iterdir()}
    assert stored == {dataset_bytes(path) for path in derived.files}


@needs_orthanc
def test_orthanc_ends_with_exactly_the_delivered_series(node: Node, tmp_path: Path) -> None:
    derived = node.derive("pacs", instances=6)
    with orthanc(tmp_path / "orthanc", settings={"DicomAet": "PACS"}) as running:
        node.push_to("pacs", running.dicom_port)
        node.wait_for("sent")
        assert sorted(running.sop_instance_uids()) == sorted(derived.sha256)
