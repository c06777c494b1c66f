"""The counters: events since the start of the service, counted where they are logged.

In: the events of the log, also those below its level. Out: metrics of a Prometheus registry. Their labels are the names
of events, levels, stages, the names of peers in the settings, and the addresses of the workers of a cluster, of which
there are ``MOST_WORKERS`` at the most. No other field of an event becomes a label.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from dicomnode.log import Value

_STAGES: Final = {
    "association_ended": "receive",
    "series_judged": "judge",
    "job_done": "derive",
    "delivery_sent": "push",
}
"""The events that end a stage: they hold its seconds and, for receive and push, the peer and its instances."""

MOST_WORKERS: Final = 64  # with labels of their own; machines that come and go would add labels for ever
OTHERS: Final = "others"
NOBODY: Final = "none"  # label of a call that no worker had begun

_CALL: Final = "cluster_call"
_ADDRESS: Final = re.compile(r"[A-Za-z0-9.:\[\]-]{1,64}")
_BUCKETS: Final = (0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 600, 1800, 3600)  # seconds


class Counters:
    """Counts the events that ``count`` is called with, from any thread."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._events = Counter(
            "dicomnode_events", "Lines of the log, also those below its level.", ["event", "level"], registry=registry
        )
        self._received = Counter(
            "dicomnode_received_instances", "Instances that a peer sent and the node acknowledged.", ["peer"],
            registry=registry,
        )  # fmt: skip
        self._sent = Counter(
            "dicomnode_sent_instances", "Instances of finished deliveries that a peer acknowledged.", ["peer"],
            registry=registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "dicomnode_stage_seconds", "Time of one association, verdict, job, or attempt of a delivery.", ["stage"],
            buckets=_BUCKETS, registry=registry,
        )  # fmt: skip
        self._last = Gauge(
            "dicomnode_last_timestamp_seconds", "When a stage last ended for a peer; judge and derive have none.",
            ["stage", "peer"], registry=registry,
        )  # fmt: skip

        self._calls = Counter(
            "dicomnode_cluster_calls", "Calls that a worker of the cluster ended, or that were lost with it.",
            ["worker", "outcome"], registry=registry,
        )  # fmt: skip
        self._call_seconds = Counter(
            "dicomnode_cluster_call_seconds", "Time of the calls on the worker.", ["worker"], registry=registry
        )
        self._memory = Gauge(
            "dicomnode_cluster_memory_bytes", "The most memory that the worker's process had during its last call.",
            ["worker"], registry=registry,
        )  # fmt: skip
        self._workers: set[str] = set()
        self._lock = threading.Lock()  # guards the set of workers

    def count(self, name: str, level: int, fields: Mapping[str, Value]) -> None:
        """Count one event."""
        self._events.labels(event=name, level=logging.getLevelName(level).lower()).inc()
        if name == _CALL:
            self._count_call(fields)
            return
        stage, seconds = _STAGES.get(name), fields.get("seconds")
        if stage is None or not isinstance(seconds, int | float):
            return
        peer, instances = str(fields.get("peer") or ""), fields.get("instances")
        self._seconds.labels(stage=stage).observe(seconds)
        if stage == "receive":
            if not instances:
                return  # the association stored nothing, such as one for a C-ECHO
            self._received.labels(peer=peer).inc(int(instances))
        elif stage == "push":
            self._sent.labels(peer=peer).inc(int(instances or 0))
        self._last.labels(stage=stage, peer=peer).set(time.time())

    def _count_call(self, fields: Mapping[str, Value]) -> None:
        worker = self._label_of(str(fields.get("address") or ""))
        self._calls.labels(worker=worker, outcome=str(fields.get("state"))).inc()
        seconds, memory_mb = fields.get("seconds"), fields.get("memory_mb")
        if isinstance(seconds, int | float):
            self._call_seconds.labels(worker=worker).inc(max(0.0, seconds))
        if isinstance(memory_mb, int | float) and memory_mb > 0:
            self._memory.labels(worker=worker).set(memory_mb * 2**20)

    def _label_of(self, address: str) -> str:
        """Return the label of a worker. Workers beyond ``MOST_WORKERS`` and those with no valid address share one."""
        if not address:
            return NOBODY
        with self._lock:
            if address not in self._workers:
                if len(self._workers) >= MOST_WORKERS or not _ADDRESS.fullmatch(address):
                    return OTHERS
                self._workers.add(address)
        return address
