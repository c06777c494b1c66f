"""The monitor as one part of the service: figures and counters in one registry, served while the node runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics

from dicomnode import log
from dicomnode.ledger.queries import open_reader
from dicomnode.monitor.counters import Counters
from dicomnode.monitor.figures import Figures, Parts
from dicomnode.monitor.server import serving
from dicomnode.seams import SYSTEM_CLOCK, Clock
from dicomnode.settings.models import Settings

LOGGER = logging.getLogger(__name__)


@contextmanager
def monitored(current: Callable[[], Settings], parts: Parts, *, clock: Clock = SYSTEM_CLOCK) -> Iterator[int]:
    """Serve at ``metrics.listen`` as long as the block runs, and yield the port. ``current``: the settings in use.

    Raises SettingsError where it cannot listen there, LedgerError where there is no ledger.
    """
    disable_created_metrics()  # type: ignore[no-untyped-call]  # they would add a gauge beside each counter
    settings = current()
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    with (
        closing(open_reader(settings.ledger_url, peers=lambda: current().reachable_peers)) as reader,
        log.observed(Counters(registry).count),
    ):
        registry.register(Figures(current, reader, parts, clock))
        listening = settings.metrics
        with serving(listening.host, listening.port, live=parts.ended, ready=parts.unready, registry=registry) as port:
            log.event(LOGGER, "monitor_listening", host=listening.host, port=port)
            yield port
