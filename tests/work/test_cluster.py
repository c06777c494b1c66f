"""What node and worker agree on: the form of a call, and which worker may run it."""

from __future__ import annotations

import pytest

from dicomnode.work import cluster
from dicomnode.work.cluster import Call, Outcome, Reply

CALL = Call(
    key="0123456789ab/4/2/1", model="thin", model_digest="d" * 64, sharpness=0.25, ratio=3,
    slice_spacing_mm=4.400000000000001, slice_thickness_mm=4.0, sha256="0" * 64,
)  # fmt: skip


def test_a_call_and_its_reply_come_out_of_their_text_as_they_went_in() -> None:
    made = Reply(
        key=CALL.key, outcome=Outcome.MADE, network_share=1 / 3, thin_shape=(18, 4, 5), thin_sha256="1" * 64,
        missing_shape=(6, 2, 3), missing_sha256="2" * 64,
    )  # fmt: skip
    refused = Reply(key=CALL.key, outcome=Outcome.REFUSED, sentence="größer")
    assert Call.decode(CALL.encode()) == CALL, "the spacing to its last bit: it decides the bits of the result"
    assert [Reply.decode(reply.encode()) for reply in (made, refused)] == [made, refused]


@pytest.mark.parametrize(
    ("node", "worker", "is_offered"),
    [("auto", "cpu", True), ("auto", "cuda", True), ("cpu", "cuda", False), ("cuda:1", "cuda", True),
     ("cuda", "cpu", False)],
)  # fmt: skip
def test_a_node_takes_results_from_the_kind_of_device_that_it_asks_for(
    node: str, worker: str, is_offered: bool
) -> None:
    labels = cluster.worker_labels(worker, ("cubic-dc/1", "d" * 64))
    wanted = cluster.call_labels(node, "d" * 64)
    assert (wanted.keys() <= labels.keys()) is is_offered, "as the scheduler compares them"
    assert cluster.offered_digests(labels, node) == ({"cubic-dc/1", "d" * 64} if is_offered else set())


def test_a_worker_of_another_version_offers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = cluster.worker_labels("cpu", ("cubic-dc/1",))
    monkeypatch.setattr(cluster, "contract", lambda: "another")
    assert cluster.offered_digests(labels, "auto") == frozenset()
    assert not cluster.call_labels("auto", "cubic-dc/1").keys() <= labels.keys()
