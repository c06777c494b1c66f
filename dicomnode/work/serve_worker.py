"""A worker of the cluster: it offers the models of this machine under labels, and runs one call at a time.

It registers with the scheduler, and again when the scheduler was gone; its models stay warm meanwhile. When it is told
to stop it takes no further call, finishes the one that runs, waits until the node has fetched the answer, and ends. A
call whose node is gone, or gave it up, is ended at once.

It reads no patient data, writes no file but in a temporary folder, and opens one port.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import platform
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import numpy as np
from distributed import Status, Worker, WorkerPlugin
from numpy.typing import NDArray

from dicomnode import __version__, log
from dicomnode.work import engine
from dicomnode.work.cluster import Call, Cluster, contract, worker_labels
from dicomnode.work.warm import Warm, WarmProcess, WarmSetup

LOGGER = logging.getLogger(__name__)

RETRY_S = 5.0  # before the scheduler is tried again
REGISTER_S = 60.0  # of trying to reach the scheduler, before the log says that it cannot be reached
FETCH_S = 60.0  # for a node to fetch its answer, when the worker is to end
POLL_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSetup:
    """The settings of a worker."""

    cluster: Cluster
    host: str
    port: int
    warm: WarmSetup
    time_limit_s: float  # of a call
    memory_limit_mb: float  # 0: three quarters of the machine


def serve_worker(setup: WorkerSetup, *, ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT. ``ready`` is called once the models are warm. Raises ModelError."""
    engine.set_up()
    warm = WarmProcess(setup.warm, time_limit_s=setup.time_limit_s, memory_limit_mb=setup.memory_limit_mb)
    try:
        found = warm.start()
        log.event(LOGGER, "worker_warm", device=found.kind, count=len(found.digests))
        ready()
        asyncio.run(_serve(setup, warm, found))
    finally:
        warm.close()


async def _serve(setup: WorkerSetup, warm: WarmProcess, found: Warm) -> None:
    stopping = engine.told_to_stop()
    while not stopping.is_set():
        with tempfile.TemporaryDirectory(prefix="dicomnode-worker-") as folder:
            worker = _new_worker(setup, warm, found, folder)
            if not await _registered(worker, stopping):
                continue
            log.event(LOGGER, "worker_registered", address=worker.address, host=setup.cluster.address)
            await _first(worker.finished(), stopping.wait())
            if stopping.is_set():
                log.event(LOGGER, "stopping")
                await _drain(worker, setup.time_limit_s + FETCH_S)
            else:
                log.event(
                    LOGGER,
                    "cluster_lost",
                    level=logging.WARNING,
                    sentence="The scheduler is gone, or gave this worker up.",
                )
            await worker.close(reason="stopped")
    log.event(LOGGER, "stopped")


async def _registered(worker: Worker, stopping: asyncio.Event) -> bool:
    """Register with the scheduler. False: it could not be reached, or the worker is to stop."""
    starting = asyncio.ensure_future(worker.start())
    try:
        await _first(starting, stopping.wait())
        if starting.done():
            starting.result()
            return True
        starting.cancel()
    except (OSError, TimeoutError, ValueError, RuntimeError) as exc:
        log.event(LOGGER, "cluster_unreachable", level=logging.WARNING, error=type(exc).__name__, detail=str(exc))
    with contextlib.suppress(OSError, TimeoutError, asyncio.TimeoutError, asyncio.CancelledError):
        await worker.close(reason="not registered")
    await _first(stopping.wait(), asyncio.sleep(RETRY_S))
    return False


async def _drain(worker: Worker, limit_s: float) -> None:
    """Take no further call, and wait until the one that runs has ended and its answer was fetched."""
    worker.status = Status.paused  # closing_gracefully would have the scheduler run the call again elsewhere
    begun = time.monotonic()
    while (worker.state.executing_count or worker.data) and time.monotonic() - begun < limit_s:
        await asyncio.sleep(POLL_S)


class _Worker(Worker):
    """The engine's worker without its HTTP server."""

    def start_http_server(self, *_args: object, **_options: object) -> None:
        """Start none: it listens without TLS."""


class _Runner(WorkerPlugin):
    """Runs calls in the warm process, and ends those that nobody wants any more."""

    name = engine.RUNNER

    def __init__(self, warm: WarmProcess) -> None:
        self._warm = warm
        self._worker: Worker | None = None

    def setup(self, worker: Worker) -> None:
        """Called by the engine before the worker registers."""
        self._worker = worker

    def teardown(self, worker: Worker) -> None:  # noqa: ARG002 (the engine's signature)
        """Called by the engine when the worker closes: nobody could fetch the answer of a call that still runs."""
        self._warm.end()

    def transition(self, key: object, start: str, finish: str, **_: object) -> None:
        """Called by the engine; a call is released while it runs if its node is gone, or gave it up."""
        if start == "executing" and finish == "released":
            self._warm.end(str(key))

    def run(self, text: str, thick: NDArray[np.float32]) -> tuple[Any, ...]:
        """Run a call, in a thread of the engine's."""
        call = Call.decode(text)

        def tell(what: str, value: float) -> None:
            assert self._worker is not None
            self._worker.log_event(engine.topic_of(call.key), {"key": call.key, what: value})

        def begun() -> None:
            log.event(LOGGER, "call_begun", call=call.key, model=call.model)
            tell(engine.BEGUN, 1.0)

        began_s = time.monotonic()
        reply, thin, missing = self._warm.run(call, thick, begun=begun, share=lambda share: tell(engine.SHARE, share))
        assert self._worker is not None
        worker, seconds = engine.named(self._worker.address), time.monotonic() - began_s
        reply = replace(reply, worker=worker, seconds=seconds, memory_mb=self._warm.peak_mb)
        log.event(
            LOGGER, "call_ended", call=call.key, state=reply.outcome, model=call.model, seconds=seconds,
            memory_mb=reply.memory_mb,
        )  # fmt: skip
        return reply.encode(), thin, missing


def _new_worker(setup: WorkerSetup, warm: WarmProcess, found: Warm, folder: str) -> Worker:
    facts = {
        "version": __version__, "contract": contract(), "torch": version("torch"), "device": found.kind,
        "python": platform.python_version(), "engine": version("distributed"), "models": found.digests,
    }  # fmt: skip
    return _Worker(
        setup.cluster.address,
        host=setup.host,
        port=setup.port,
        protocol="tls",
        security=engine.security(setup.cluster),
        nthreads=1,
        memory_limit=0,
        local_directory=folder,
        resources=worker_labels(found.kind, found.digests),
        plugins=(_Runner(warm),),
        startup_information={engine.RUNNER: lambda _worker: facts},
        death_timeout=REGISTER_S,
        dashboard=False,
    )


async def _first(*waited: Awaitable[object]) -> None:
    """Wait until one of them is done; the others are cancelled, unless they are futures of somebody else."""
    futures = [asyncio.ensure_future(one) for one in waited]
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
    for future, one in zip(futures, waited, strict=True):
        if future is not one:
            future.cancel()
