"""Counters that follow log events: calls by worker of a cluster, with a bounded number of labels."""

from __future__ import annotations

import logging

import pytest
from prometheus_client import CollectorRegistry

from dicomnode import log
from dicomnode.monitor import counters
from dicomnode.monitor.counters import Counters

LOGGER = logging.getLogger(__name__)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def call(registry: CollectorRegistry, *calls: tuple[str, str, float, float]) -> None:
    """Log such calls: worker, outcome, seconds, memory."""
    with log.observed(Counters(registry).count):
        for address, state, seconds, memory_mb in calls:
            log.event(LOGGER, "cluster_call", job=1, address=address, state=state, seconds=seconds, memory_mb=memory_mb)


def calls_of(registry: CollectorRegistry) -> dict[tuple[str, str], float]:
    return {
        (sample.labels["worker"], sample.labels["outcome"]): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "dicomnode_cluster_calls_total"
    }


def test_calls_seconds_and_memory_are_told_by_worker(registry: CollectorRegistry) -> None:
    call(
        registry, ("10.1.0.7:8790", "made", 2.5, 300.0), ("10.1.0.7:8790", "made", 1.5, 200.0),
        ("[fd00::8]:8790", "failed", 4.0, 0.0), ("", "lost", 3.0, 0.0),
    )  # fmt: skip
    assert calls_of(registry) == {
        ("10.1.0.7:8790", "made"): 2, ("[fd00::8]:8790", "failed"): 1, ("none", "lost"): 1,
    }  # fmt: skip

    def value(name: str, worker: str) -> float | None:
        return registry.get_sample_value(name, {"worker": worker})

    assert value("dicomnode_cluster_call_seconds_total", "10.1.0.7:8790") == 4.0
    assert value("dicomnode_cluster_memory_bytes", "10.1.0.7:8790") == 200 * 2**20
    assert value("dicomnode_cluster_memory_bytes", "[fd00::8]:8790") is None, "not known"


def test_machines_that_come_and_go_share_one_label_in_the_end(
    registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counters, "MOST_WORKERS", 3)
    call(registry, *((f"10.1.0.{number}:8790", "made", 1.0, 0.0) for number in range(9)))
    assert calls_of(registry) == {
        **{(f"10.1.0.{number}:8790", "made"): 1.0 for number in range(3)},
        ("others", "made"): 6.0,
    }


def test_what_is_no_address_becomes_no_label(registry: CollectorRegistry) -> None:
    call(registry, ('SENTINEL^<b>"', "made", 1.0, 0.0), ("a" * 65, "made", 1.0, 0.0))
    assert calls_of(registry) == {("others", "made"): 2.0}
