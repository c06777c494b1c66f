"""What the executor of this machine knows of a cluster: since when it has offered nothing."""

from __future__ import annotations

from pathlib import Path

from dicomnode.work.child import Setup
from dicomnode.work.cluster import Cluster
from dicomnode.work.local import LocalExecutor
from dicomnode.work.orders import Offer
from tests.ledger.scene import FakeClock

NOTHING = Offer(digests=(), sentence="The scheduler does not answer.")


def test_a_cluster_is_lost_when_it_has_offered_nothing_for_long_enough(tmp_path: Path) -> None:
    """The offers are handed in; no child is started."""
    clock = FakeClock()
    setup = Setup(
        data=tmp_path, device="auto", models=(), timed=None, log_level="info", log_format="text",
        cluster=Cluster(address="tls://127.0.0.1:1", ca="", cert="", key=""),
    )  # fmt: skip
    executor = LocalExecutor(setup, time_limit_s=1.0, memory_limit_mb=0, clock=clock)
    assert executor.lost(0.0) == "", "it has not said yet"
    executor._hear(NOTHING)
    clock.advance(200)
    executor._hear(NOTHING)
    assert executor.lost(300.0) == ""
    clock.advance(100)
    assert executor.lost(300.0) == NOTHING.sentence
    executor._hear(Offer(digests=("d1",), sentence=""))
    assert executor.lost(0.0) == ""
