"""Generators whose networks run on a cluster: the node's end, in the process of a job.

In: a thick stack and what is asked for. Out: the thin stack, checked against the digest that the worker computed. Only
arrays and a ``Call`` leave this process; ``Call`` has no place for a patient, a UID or a file.

A call that was handed in is run at most once. Its input is sent to a worker directly, and not in the call: what depends
on data that the engine cannot make again is lost with its worker, and never silently run on another one. Whatever
becomes of a call that is lost, its job goes back to the queue, and the ledger decides.

Every wait has a limit, or ends when no worker offers the model any more. The time of a call that has begun is the
supervisor's matter, which ends this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from distributed import Client, Future
from distributed.scheduler import KilledWorker
from numpy.typing import NDArray

from dicomnode import log
from dicomnode.errors import ClusterError, ModelError
from dicomnode.generators.base import Generated, Progress, no_sharpness, thin_volume
from dicomnode.generators.model_dir import ModelFacts
from dicomnode.ids import JobId, digest
from dicomnode.imaging.body import body_window
from dicomnode.imaging.profile import ThinGrid
from dicomnode.imaging.volume import Volume
from dicomnode.seams import checkpoint
from dicomnode.work import engine
from dicomnode.work.cluster import Call, Cluster, Outcome, Reply, call_labels, offered_digests
from dicomnode.work.executor import Progress as StageProgress
from dicomnode.work.orders import LOST, QUEUE, CallReport, Offer, Order

LOGGER = logging.getLogger(__name__)

T = TypeVar("T")

FloatArray = NDArray[np.float32]
Made = tuple[Reply, FloatArray, FloatArray | None]

REMOTE = "remote"  # the stage of a job whose call a worker has begun
ASK_S = 10.0  # for an answer of the scheduler
LOOK_S = 2.0  # between two looks at whether anybody offers the model, while a call waits
POLL_S = 0.05
# For sending or fetching an array: half a minute, and what it takes at 5 MB/s, less than half of a 100 Mbit network.
TRANSFER_S, TRANSFER_BYTES_PER_S = 30.0, 5e6
GONE = (OSError, TimeoutError, asyncio.TimeoutError, asyncio.CancelledError)  # what the engine raises of a lost peer


class Link:
    """The connection of this process to the cluster, made when it is needed and again when it was lost."""

    def __init__(self, cluster: Cluster) -> None:
        engine.set_up()
        self._cluster = cluster
        self._client: Client | None = None
        self._attempt = uuid.uuid4().hex  # names the attempt at a job, within the cluster
        self._calls = 0  # of the attempt
        self._progress: StageProgress = lambda _stage, _share: None
        self._job = JobId(0)
        self._ended: Callable[[CallReport], None] = lambda _report: None

    def begin(
        self, order: Order, progress: StageProgress, *, ended: Callable[[CallReport], None] = lambda _report: None
    ) -> None:
        """The calls from now on belong to this order; ``ended`` is called with the report of each."""
        self._job, self._ended = order.job, ended
        node = digest(order.node_uuid.encode())[:12]  # tells nodes apart, and is not what their UIDs are made from
        self._attempt, self._calls, self._progress = f"{node}/{order.job}/{order.token}", 0, progress

    def generator(self, facts: ModelFacts) -> RemoteGenerator:
        """The generator of a model whose card was read here and whose weights are on the workers."""
        return RemoteGenerator(
            link=self, name=facts.name, digest=facts.digest, consistency=facts.consistency, sharpness=facts.sharpness
        )

    def offer(self) -> Offer:
        """Return the models that workers can run now; a cluster that cannot be reached offers none."""
        try:
            workers = self._workers()
        except ClusterError as exc:
            return Offer(digests=(), sentence=exc.sentence)
        digests = sorted({one for labels in workers.values() for one in offered_digests(labels, self._cluster.device)})
        if digests:
            return Offer(digests=tuple(digests), sentence="")
        address = self._cluster.address
        what = f"none of its {len(workers)} workers runs this version and device" if workers else "it has no worker"
        return Offer(digests=(), sentence=f"The cluster {address} offers no model: {what}.")

    def workers_of(self, model_digest: str) -> int:
        """Count the workers that offer a model now. Raises ClusterError where the cluster cannot be reached."""
        needed = call_labels(self._cluster.device, model_digest).keys()
        return sum(needed <= labels.keys() for labels in self._workers().values())

    def run(self, call: Call, voxels: FloatArray, *, progress: Progress | None) -> Made:
        """Have a worker run the call, and return its reply with the thin stack and what its averages lacked.

        Raises ClusterError when the cluster lost the call, and ModelError when the model refused it.
        """
        self._calls += 1
        call = replace(call, key=f"{self._attempt}/{self._calls}", sha256=_sha256(voxels))
        with _Running(self._connected(), call) as running:
            try:
                running.send(voxels, self._offering(call)[0])
                running.begin(call_labels(self._cluster.device, call.model_digest))
                running.wait(self._progress, progress, still_offered=lambda: self._offering(call))
                checkpoint("remote.ended")
                return _checked(call, running.fetch(voxels.nbytes * (call.ratio + 1)), voxels)
            finally:
                self._ended(running.report(self._job))

    def close(self) -> None:
        """Give the connection up; what still runs for it is ended by its worker."""
        if self._client is not None:
            with contextlib.suppress(*GONE):
                self._client.close(timeout=ASK_S)
            self._client = None

    def _offering(self, call: Call) -> list[str]:
        """The addresses of the workers that may run the call, idle ones first; ClusterError where there are none."""
        needed = call_labels(self._cluster.device, call.model_digest).keys()
        found = [address for address, labels in self._workers().items() if needed <= labels.keys()]
        if not found:
            short = call.model_digest[:12]
            raise ClusterError(
                f"No worker of the cluster {self._cluster.address} offers model {call.model} (digest {short}…)."
            )
        return found

    def _workers(self) -> dict[str, Mapping[str, float]]:
        """The labels of each worker that takes calls, by its address; the idle ones first, in random order."""
        client = self._connected()

        async def ask() -> tuple[Any, Any]:
            scheduler: Any = client.scheduler  # calls of it are made up as they are named
            # The second answer counts calls from the moment at which they are placed. What a worker says of itself is
            # up to half a second old, and two slots would send their calls to the same worker.
            return await asyncio.gather(scheduler.identity(n_workers=-1), scheduler.processing(workers=None))

        try:
            found, placed = client.sync(ask, callback_timeout=ASK_S)
        except GONE as exc:
            raise self._unreachable() from exc
        running = [(address, one) for address, one in found["workers"].items() if one["status"] == "running"]
        random.shuffle(running)
        running.sort(key=lambda one: len(placed.get(one[0], ())))
        return {address: one["resources"] for address, one in running}

    def _connected(self) -> Client:
        if self._client is not None and self._client.status != "running":
            self.close()
        if self._client is None:
            try:
                self._client = Client(
                    self._cluster.address, security=engine.security(self._cluster), timeout=engine.CONNECT_S,
                    set_as_default=False, direct_to_workers=True,
                )  # fmt: skip
            except GONE as exc:
                raise self._unreachable() from exc
        return self._client

    def _unreachable(self) -> ClusterError:
        return ClusterError(
            f"The cluster {self._cluster.address} cannot be reached.", hint="`dicomnode check` says what is wrong."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteGenerator:
    """A generator that asks a worker of the cluster; see ``generators.base`` for what a generator is."""

    link: Link
    name: str
    digest: str
    consistency: bool
    sharpness: float | None

    def at(self, sharpness: float) -> Self:
        """The same generator with another sharpness; ModelError where there are not two sets of weights."""
        if self.sharpness is None:
            raise no_sharpness(self.name, sharpness)
        return replace(self, sharpness=sharpness)

    def generate(self, thick: Volume, grid: ThinGrid, *, device: str, progress: Progress | None = None) -> Generated:
        """``thick`` sampled on ``grid``; ``device`` was agreed on with the cluster."""
        del device
        call = Call(
            key="", sha256="", model=self.name, model_digest=self.digest, sharpness=self.sharpness, ratio=grid.ratio,
            slice_spacing_mm=thick.slice_spacing_mm, slice_thickness_mm=thick.slice_thickness_mm,
        )  # fmt: skip
        reply, thin, missing = self.link.run(call, thick.voxels, progress=progress)
        return Generated(
            thin=thin_volume(thin, thick, grid),
            missing=None if reply.missing_shape is None else missing,
            network_share=reply.network_share,
        )


class _Running:
    """One call on the cluster, from sending its input to fetching its answer; released in the end, whatever happens."""

    def __init__(self, client: Client, call: Call) -> None:
        self._client = client
        self._call = call
        self._since_s = time.monotonic()
        self._begun = 0  # how often a worker said that it has begun the call
        self._worker = ""  # the one that said it last
        self._reply: Reply | None = None
        self._share = 0.0
        self._input: Future[Any] | None = None
        self._answer: Future[Any] | None = None
        self._done = threading.Event()

    def __enter__(self) -> Self:
        self._client.subscribe_topic(engine.topic_of(self._call.key), self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for future in (self._answer, self._input):
            if future is not None:
                future.release()
        self._client.unsubscribe_topic(engine.topic_of(self._call.key))

    def send(self, voxels: FloatArray, worker: str) -> None:
        """Send the input to a worker, past the scheduler. Another worker may fetch it from there."""

        async def scatter() -> Future[Any]:
            future: Future[Any] = await self._client.scatter(
                voxels, workers=[worker], direct=True, hash=False, timeout=ASK_S, asynchronous=True
            )
            return future

        self._input = self._sync(scatter, voxels.nbytes, f"the thick stack could not be sent to the worker {worker}")

    def begin(self, labels: Mapping[str, float]) -> None:
        """Hand the call in."""
        self._answer = self._client.submit(
            engine.run_call, self._call.encode(), self._input, key=self._call.key, resources=labels, retries=0,
            pure=False,
        )  # fmt: skip
        self._answer.add_done_callback(lambda _: self._done.set())

    def wait(self, tell: StageProgress, progress: Progress | None, *, still_offered: Callable[[], object]) -> None:
        """Wait until the call has ended. ``still_offered`` raises when no worker could begin it any more."""
        assert self._answer is not None
        tell(QUEUE, 0.0)
        looked_s, is_told, shown = time.monotonic(), False, 0.0
        while not self._done.wait(POLL_S) and self._answer.status == "pending":
            if self._begun and not is_told:
                tell(REMOTE, 0.0)
                is_told = True
            if progress is not None and self._share > shown:
                shown = self._share
                progress(shown)
            if not self._begun and time.monotonic() - looked_s > LOOK_S:
                still_offered()
                looked_s = time.monotonic()
        tell(REMOTE, 1.0)  # whatever follows takes the job's time, also of a call that began and ended unseen

    def report(self, job: JobId) -> CallReport:
        """Report how the call ended, and at which worker."""
        reply = self._reply
        if reply is None:
            spent_s = time.monotonic() - self._since_s
            return CallReport(job=job, worker=self._worker, outcome=LOST, seconds=spent_s, memory_mb=0.0)
        return CallReport(
            job=job, worker=reply.worker, outcome=reply.outcome, seconds=reply.seconds, memory_mb=reply.memory_mb
        )

    def fetch(self, size_bytes: int) -> tuple[Reply, object, object]:
        """The answer of a call that has ended. Raises ClusterError where there is none."""
        assert self._answer is not None
        answer = self._answer
        if answer.status == "error":
            died = answer.exception(timeout=ASK_S)
            if isinstance(died, KilledWorker):
                raise self._lost("the worker that had it died", begun=self._begun > 0)
            raise self._lost(f"the worker failed ({type(died).__name__})", begun=True) from died
        gone = "its answer was lost with the worker or the scheduler"
        if answer.status != "finished":
            raise self._lost(gone)

        async def gather() -> tuple[str, object, object]:
            getting = asyncio.ensure_future(self._client.gather(answer, direct=True, asynchronous=True))
            while not getting.done():
                await asyncio.wait([getting], timeout=1.0)
                if answer.status != "finished" and not getting.done():  # the engine would wait for it to be run again
                    getting.cancel()
                    raise self._lost(gone)
            found: tuple[str, object, object] = getting.result()
            return found

        text, thin, missing = self._sync(gather, size_bytes, "its answer could not be fetched from the worker")
        self._reply = Reply.decode(text)
        return self._reply, thin, missing

    def _hear(self, event: tuple[float, Any]) -> None:
        """Take in a message of a worker; called in the engine's thread."""
        told = event[1]
        if not isinstance(told, dict) or told.get("key") != self._call.key:
            return
        self._worker = engine.named(str(told.get("worker", "")))  # the scheduler adds who said it
        if engine.SHARE in told:
            self._share = float(told[engine.SHARE])
        self._begun += engine.BEGUN in told
        if (
            engine.BEGUN in told and self._begun > 1
        ):  # rare and harmless: one of the two answers is taken, and the ledger has one job
            log.event(LOGGER, "call_begun_again", level=logging.WARNING, count=self._begun)

    def _sync(self, what: Callable[[], Awaitable[T]], size_bytes: int, why: str) -> T:
        limit_s = TRANSFER_S + size_bytes / TRANSFER_BYTES_PER_S
        try:
            done: T = self._client.sync(what, callback_timeout=limit_s)
        except (*GONE, KilledWorker) as exc:
            raise self._lost(why) from exc
        return done

    def _lost(self, why: str, *, begun: bool = False) -> ClusterError:
        return ClusterError(f"The cluster lost the call: {why}.", begun=begun)


def _checked(call: Call, answer: tuple[Reply, object, object], thick: FloatArray) -> Made:
    """The answer as the worker made it, or the error that it names."""
    reply, thin, missing = answer
    if reply.key != call.key:
        raise ClusterError(f"A worker of the cluster answered another call ({reply.key}).")
    match reply.outcome:
        case Outcome.REFUSED:
            raise ModelError(reply.sentence)
        case Outcome.FAILED:
            raise ClusterError(f"A worker of the cluster failed: {reply.sentence}.", begun=True)
        case Outcome.UNFIT:
            raise ClusterError(f"A worker of the cluster could not begin: {reply.sentence}.")
    slices, height, width = thick.shape
    rows, columns = body_window(thick)
    whole = _array(thin, (slices * call.ratio, height, width), reply.thin_sha256)
    if reply.missing_shape is None:
        return reply, whole, None
    return reply, whole, _array(missing, thick[:, rows, columns].shape, reply.missing_sha256)


def _array(value: object, shape: tuple[int, ...], sha256: str) -> FloatArray:
    if not isinstance(value, np.ndarray) or value.dtype != np.float32 or value.shape != shape:
        raise ClusterError("A worker of the cluster answered with an array of another shape or type.", begun=True)
    if _sha256(value) != sha256:
        raise ClusterError("An array of the cluster is not the one that its worker made.")
    return value if value.flags.writeable else value.copy()


def _sha256(array: FloatArray) -> str:
    return digest(np.ascontiguousarray(array).data.cast("B"))
