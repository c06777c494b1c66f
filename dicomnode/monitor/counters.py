"""The counters: what happened since the start, counted where it is logged.

In: the events of the log, also those below its level. Out: metrics of a Prometheus registry. Their labels are the names
of events, levels, stages, and the names of peers in the settings. No other field of an event becomes a label.
"""

from __future__ import annotations

import logging
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
"""The events that end a stage, which tell its seconds and, of receive and push, the peer and its instances."""

_BUCKETS: Final = (0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 600, 1800, 3600)  # seconds


class Counters:
    """Counts the events that it is told of, from any thread."""

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

    def count(self, name: str, level: int, fields: Mapping[str, Value]) -> None:
        """Count one event."""
        self._events.labels(event=name, level=logging.getLevelName(level).lower()).inc()
        stage, seconds = _STAGES.get(name), fields.get("seconds")
        if stage is None or not isinstance(seconds, int | float):
            return
        peer, instances = str(fields.get("peer") or ""), fields.get("instances")
        self._seconds.labels(stage=stage).observe(seconds)
        if stage == "receive":
            if not instances:
                return  # an echo is not an object
            self._received.labels(peer=peer).inc(int(instances))
        elif stage == "push":
            self._sent.labels(peer=peer).inc(int(instances or 0))
        self._last.labels(stage=stage, peer=peer).set(time.time())
