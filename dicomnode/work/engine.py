"""The engine of the cluster, Dask's ``distributed``, as node, worker and scheduler set it up.

Only a node's child, the commands ``worker`` and ``scheduler``, and what looks at a cluster import this module: the
service itself never loads the engine. Whoever can connect may have each of these processes run code, because the engine
unpickles what it is sent. The certificates decide who can connect (SECURITY.md).
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from typing import TYPE_CHECKING, Any, Final

import dask
import distributed
from distributed.security import Security

from dicomnode.work.cluster import Cluster

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CONNECT_S = 10.0
RUNNER = "dicomnode"  # name of the worker's plugin that runs calls
BEGUN, SHARE = "begun", "share"  # what a worker tells of a call, under the topic of its node

# Whatever files or variables of the user say: the same on each machine. No key is left to be set by hand.
_CONFIGURATION: Final[dict[str, object]] = {
    "distributed.scheduler.allowed-failures": 0,  # a call whose worker died is not run on the next one
    "distributed.scheduler.worker-ttl": "30s",
    "distributed.scheduler.work-stealing": True,  # without it, a call waits behind a long one beside an idle worker
    "distributed.scheduler.active-memory-manager.start": False,
    "distributed.scheduler.no-workers-timeout": None,
    "distributed.scheduler.preload": [],
    "distributed.scheduler.http.routes": [],
    "distributed.worker.memory.target": False,  # pixels are never spilled to a disk
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    "distributed.worker.memory.transfer": False,
    "distributed.worker.profile.enabled": False,
    "distributed.worker.preload": [],
    "distributed.worker.http.routes": [],
    "distributed.worker.resources": {},
    "distributed.client.preload": [],
    "distributed.comm.require-encryption": True,
    "distributed.comm.tls.min-version": 1.3,
    "distributed.comm.compression": False,
    "distributed.comm.timeouts.connect": f"{CONNECT_S:g}s",
    "distributed.comm.timeouts.tcp": "30s",
    "distributed.admin.low-level-log-length": 1000,  # of events and transitions that are kept: memory, over months
    "distributed.diagnostics.nvml": False,
}


def set_up() -> None:
    """Configure the engine in this process, and have it log as we do: warnings and errors only."""
    dask.config.set(_CONFIGURATION)
    for name in ("distributed", "distributed.client", "distributed.gc", "tornado", "tornado.application", "bokeh"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.ERROR if name.startswith("tornado") else logging.WARNING)


def security(cluster: Cluster) -> Security:
    """Mutual TLS with one certificate for whatever this machine does in the cluster."""
    files = {f"tls_{role}_{part}": path for role in ("client", "worker", "scheduler")
             for part, path in (("cert", cluster.cert), ("key", cluster.key))}  # fmt: skip
    return Security(require_encryption=True, tls_ca_file=cluster.ca, **files)


def told_to_stop() -> asyncio.Event:
    """An event that the first SIGTERM or SIGINT sets; the second ends the process at once. Called where a loop runs."""
    stopping = asyncio.Event()

    def handle(number: int) -> None:
        if stopping.is_set():
            os._exit(128 + number)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, handle, number)
    return stopping


def topic_of(key: str) -> str:
    """The topic on which the workers tell a node of its calls; the key of a call begins with the node."""
    return f"{RUNNER}/{key.partition('/')[0]}"


def named(address: str) -> str:
    """Host and port of the engine's address of a worker."""
    return address.removeprefix("tls://")


def run_call(call: str, thick: NDArray[np.float32]) -> tuple[Any, ...]:
    """The function that nodes hand in: has the worker on which it is called run the call.

    Returns the reply as JSON, the thin stack, and what its averages lacked.
    """
    runner: Any = distributed.get_worker().plugins[RUNNER]
    answer: tuple[Any, ...] = runner.run(call, thick)
    return answer
