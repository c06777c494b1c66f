"""The scheduler of the cluster: it lists the labels that each worker offers, and hands each call to one of them.

It keeps nothing on a disk. When it ends, the calls that run are lost, and their jobs go back to the queues of their
nodes; workers and nodes come back when it is there again. Arrays go from node to worker and back, past it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from distributed import Scheduler

from dicomnode import log
from dicomnode.work import engine
from dicomnode.work.cluster import Cluster

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerSetup:
    """The settings of a scheduler."""

    cluster: Cluster  # its certificates; the address is not read
    host: str
    port: int


def serve_scheduler(setup: SchedulerSetup, *, ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT. ``ready`` is called once it listens."""
    engine.set_up()
    asyncio.run(_serve(setup, ready))


async def _serve(setup: SchedulerSetup, ready: Callable[[], None]) -> None:
    stopping = engine.told_to_stop()
    scheduler = _Scheduler(
        host=setup.host, port=setup.port, protocol="tls", security=engine.security(setup.cluster), dashboard=False
    )
    await scheduler
    log.event(LOGGER, "scheduler_started", address=scheduler.address)
    ready()
    await stopping.wait()
    log.event(LOGGER, "stopping")
    await scheduler.close(reason="stopped")
    log.event(LOGGER, "stopped")


class _Scheduler(Scheduler):
    """The engine's scheduler without its HTTP server."""

    def start_http_server(self, *_args: object, **_options: object) -> None:
        """Start none: it would show to whoever asks what runs, without TLS."""
