"""The process of a worker of the cluster in which a generator runs, and the worker's end of the pipe to it.

The engine of the cluster stays outside of this process: a computation that holds Python's lock does not stop the
worker's answers to the scheduler, and one that crashes or has to be ended takes this process alone with it.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from dicomnode import log
from dicomnode.errors import ModelError, NodeError
from dicomnode.generators.base import Generated, Generator
from dicomnode.generators.model_dir import load_generator, model_facts
from dicomnode.ids import digest
from dicomnode.imaging.profile import thin_grid
from dicomnode.imaging.volume import Volume
from dicomnode.seams import checkpoint
from dicomnode.work.cluster import Call, Outcome, Reply
from dicomnode.work.process import PARENT_GONE, Ended, WorkerProcess, become_child, machine_memory_mb

LOGGER = logging.getLogger(__name__)

FloatArray = NDArray[np.float32]
Made = tuple[Reply, FloatArray | None, FloatArray | None]  # with the thin stack, and what its averages lacked
Begun = Callable[[], None]
Share = Callable[[float], None]

POLL_S = 0.5
WARM_LIMIT_S = 300.0  # importing torch and reading weights, from a cold and slow disk
MEMORY_SHARE = 0.75  # of the machine, where no limit is set
SHARE_S = 1.0  # between two reports of how far a call is


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmSetup:
    """The settings that the process gets when it is spawned."""

    models: tuple[str, ...]  # names of models that came with the package, or folders
    device: str  # auto | cpu | cuda | cuda:N
    log_level: str
    log_format: Literal["auto", "text", "json"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Warm:
    """The first message of the process, once its models are loaded."""

    kind: str  # of device: cpu or cuda
    digests: tuple[str, ...]  # of its models


class WarmProcess:
    """A process that keeps its models warm, and is replaced when it ends. It runs one call at a time.

    It is spawned and spoken to by one thread that lives as long as this object: the kernel ends the process with the
    thread that spawned it.
    """

    def __init__(self, setup: WarmSetup, *, time_limit_s: float, memory_limit_mb: float) -> None:
        """``memory_limit_mb``: 0 for three quarters of the machine."""
        self._setup = setup
        self._time_limit_s = time_limit_s
        self._memory_limit_mb = memory_limit_mb or MEMORY_SHARE * machine_memory_mb()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="warm")
        self._lock = threading.Lock()
        self._process: WorkerProcess | None = None
        self._running: str | None = None  # key of the call that runs
        self._ended: str | None = None  # key of the call that was ended from outside
        self._peak_mb = 0.0  # of the process, during the last call

    def start(self) -> Warm:
        """Start the process and wait until it is warm. Raises ModelError where it is not."""
        return self._thread.submit(self._warm).result()

    def run(self, call: Call, thick: FloatArray, *, begun: Begun, share: Share) -> Made:
        """Run one call, from any thread. ``begun`` is called when the process has it, ``share`` about each second."""
        with self._lock:
            assert self._running is None, "one call at a time"
            self._running = call.key
        return self._thread.submit(self._run, call, thick, begun, share).result()

    @property
    def peak_mb(self) -> float:
        """The most memory that the process had during the last call, in MiB, looked at each half second."""
        return self._peak_mb

    def end(self, key: str | None = None) -> None:
        """End this call if it runs or is about to, or any; from any thread. Its process is killed and replaced."""
        with self._lock:
            if self._running is not None and key in (None, self._running):
                self._ended = self._running
                if self._process is not None:
                    self._process.interrupt()

    def close(self) -> None:
        """Kill the process, whatever it does, and start no other."""
        self.end()
        self._thread.submit(self._lose).result()
        self._thread.shutdown()

    def _warm(self) -> Warm:
        process = WorkerProcess(warm_main, self._setup)
        begun = time.monotonic()
        said: bytes | Ended | None = None
        while said is None and time.monotonic() - begun < WARM_LIMIT_S:
            said = process.receive(POLL_S)
        if not isinstance(said, bytes):
            why = process.kill().sentence if said else f"it was not ready after {WARM_LIMIT_S:g} s"
            raise ModelError(f"The process that runs the models did not become warm: {why}.")
        fields = json.loads(said)
        if "sentence" in fields:
            process.kill()
            raise ModelError(fields["sentence"])
        with self._lock:
            self._process = process
        return Warm(kind=fields["kind"], digests=tuple(fields["digests"]))

    def _run(self, call: Call, thick: FloatArray, begun: Begun, share: Share) -> Made:
        try:
            made = self._made(call, thick, begun, share)
        finally:
            with self._lock:  # from now on ``end`` finds no call, and leaves the next process alone
                was_ended = self._ended == call.key
                self._running = self._ended = None
        # A process that was told to die may live a moment longer, and one that failed is in a state nobody foresaw.
        if was_ended or made[0].outcome is Outcome.FAILED:
            self._lose()
            self._thread.submit(self._warm_again)
        return made

    def _made(self, call: Call, thick: FloatArray, begun: Begun, share: Share) -> Made:
        try:
            process = self._ready()
        except NodeError as exc:
            return Reply(key=call.key, outcome=Outcome.UNFIT, sentence=exc.sentence), None, None
        if self._ended == call.key:
            return self._failed(call, "")
        begun()
        process.send(json.dumps({"call": call.encode(), "shape": thick.shape}).encode())
        process.send(np.ascontiguousarray(thick).data.cast("B"))
        return self._watch(process, call, share)

    def _ready(self) -> WorkerProcess:
        """The process, if it still lives, else a new one."""
        if self._process is not None and self._process.receive(0) is not None:
            self._lose()
        if self._process is None:
            self._warm()
        assert self._process is not None
        return self._process

    def _warm_again(self) -> None:
        try:
            self._ready()
        except NodeError as exc:  # the next call says so to whoever asked for it
            log.event(LOGGER, "worker_not_warm", level=logging.ERROR, sentence=exc.sentence)

    def _watch(self, process: WorkerProcess, call: Call, share: Share) -> Made:
        """Wait for the reply, and look at time and memory meanwhile."""
        begun, told = time.monotonic(), 0.0
        self._peak_mb = 0.0
        while True:
            resident_mb = process.resident_mb()
            self._peak_mb = max(self._peak_mb, resident_mb)
            said = process.receive(POLL_S)
            now = time.monotonic()
            if isinstance(said, Ended):
                return self._failed(call, said.sentence)
            if said is not None:
                fields = json.loads(said)
                if "reply" in fields:
                    return self._take(process, call, Reply.decode(fields["reply"]))
                if now - told >= SHARE_S:
                    share(fields["share"])
                    told = now
            if resident_mb > self._memory_limit_mb:
                limit = f"{self._memory_limit_mb:.0f} MiB (work.memory_limit_mb of the worker)"
                return self._failed(call, f"the process took more memory than {limit}")
            if now - begun > self._time_limit_s:
                limit = f"{self._time_limit_s:g} s (work.time_limit_s of the worker)"
                return self._failed(call, f"the call took longer than {limit}")

    def _take(self, process: WorkerProcess, call: Call, reply: Reply) -> Made:
        arrays: list[FloatArray | None] = [None, None]
        if reply.outcome is Outcome.MADE:
            for index, shape in enumerate((reply.thin_shape, reply.missing_shape)):
                if shape is not None:
                    array = np.empty(shape, dtype=np.float32)
                    ended = process.receive_into(array.data.cast("B"))
                    if ended is not None:
                        return self._failed(call, ended.sentence)
                    arrays[index] = array
        return reply, arrays[0], arrays[1]

    def _failed(self, call: Call, why: str) -> Made:
        sentence = "the call was ended" if self._ended == call.key else why
        log.event(LOGGER, "call_failed", level=logging.WARNING, sentence=sentence)
        return Reply(key=call.key, outcome=Outcome.FAILED, sentence=sentence), None, None

    def _lose(self) -> None:
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.kill()


def warm_main(connection: Connection, parent_pid: int, setup: WarmSetup) -> NoReturn:
    """Load the models, and run calls from the pipe until the parent is gone."""
    become_child(parent_pid)
    log.start_logging(setup.log_level, setup.log_format)
    try:
        models = _Models(setup)
    except NodeError as exc:
        connection.send_bytes(json.dumps({"sentence": f"{exc.sentence} {exc.hint}".strip()}).encode())
        os._exit(exc.exit_code)
    connection.send_bytes(json.dumps({"kind": models.kind, "digests": models.digests}).encode())
    while True:
        try:
            fields = json.loads(connection.recv_bytes())
            thick = np.empty(fields["shape"], dtype=np.float32)
            connection.recv_bytes_into(thick.data.cast("B"))
        except (EOFError, OSError):
            os._exit(PARENT_GONE)
        call = Call.decode(fields["call"])
        reply, made = _answer(models, call, thick, connection)
        connection.send_bytes(json.dumps({"reply": reply.encode()}).encode())
        for array in () if made is None else (made.thin.voxels, made.missing):
            if array is not None:
                connection.send_bytes(np.ascontiguousarray(array).data.cast("B"))


class _Models:
    """The generators of this process, by digest; one sharpness of each at a time."""

    def __init__(self, setup: WarmSetup) -> None:
        self.device = setup.device
        self.kind = "cpu"
        if setup.device != "cpu":
            from dicomnode.generators.device import choose_device  # torch

            self.kind = choose_device(setup.device).type
        places = [Path(model) if "/" in model else model for model in dict.fromkeys(("cubic-dc", *setup.models))]
        self._generators: dict[str, Generator] = {}
        for place in places:
            facts, generator = model_facts(place), load_generator(place)
            if generator.digest != facts.digest:
                raise ModelError(f"The files of model {facts.name} changed while it was loaded; it was not used.")
            self._generators[facts.digest] = generator

    @property
    def digests(self) -> tuple[str, ...]:
        """The digests of all models."""
        return tuple(self._generators)

    def get(self, call: Call) -> Generator:
        """The generator that the call names, with the sharpness that it asks for."""
        generator = self._generators[call.model_digest]
        if call.sharpness is not None and generator.sharpness != call.sharpness:
            generator = self._generators[call.model_digest] = generator.at(call.sharpness)
        return generator


def _answer(models: _Models, call: Call, thick: FloatArray, connection: Connection) -> tuple[Reply, Generated | None]:
    """Run the call. This is a border: an unexpected exception is logged here, and the process should be replaced."""
    if digest(thick.data.cast("B")) != call.sha256:
        return Reply(key=call.key, outcome=Outcome.UNFIT, sentence="the array is not the one that was sent"), None
    if call.model_digest not in models.digests:
        return Reply(key=call.key, outcome=Outcome.UNFIT, sentence="the worker does not have the model"), None

    def progress(share: float) -> None:
        connection.send_bytes(json.dumps({"share": share}).encode())

    volume = _placed(thick, call)
    checkpoint("warm.begun")
    try:
        generator = models.get(call)
        made = generator.generate(volume, thin_grid(volume, call.ratio), device=models.device, progress=progress)
    except ModelError as exc:
        sentence = f"{exc.sentence} {exc.hint}".strip()
        return Reply(key=call.key, outcome=Outcome.REFUSED, sentence=sentence), None
    except Exception as exc:  # noqa: BLE001 (border: one call)
        log.failure(LOGGER, "call_crashed")
        return Reply(key=call.key, outcome=Outcome.FAILED, sentence=f"{type(exc).__name__} on the worker"), None
    reply = Reply(
        key=call.key, outcome=Outcome.MADE, network_share=made.network_share, thin_shape=made.thin.voxels.shape,
        thin_sha256=_sha256(made.thin.voxels),
    )  # fmt: skip
    if made.missing is not None:
        reply = replace(reply, missing_shape=made.missing.shape, missing_sha256=_sha256(made.missing))
    return reply, made


def _placed(thick: FloatArray, call: Call) -> Volume:
    """The stack at the origin of space: a generator reads only the ratio, the spacing and the thickness of the slices.

    The direction across the slices is an axis, so that the spacing computed from it is the number of the call.
    """
    return Volume(
        voxels=thick,
        origin_mm=np.zeros(3),
        row_direction=np.array([1.0, 0.0, 0.0]),
        column_direction=np.array([0.0, 1.0, 0.0]),
        slice_step_mm=np.array([0.0, 0.0, call.slice_spacing_mm]),
        row_spacing_mm=1.0,
        column_spacing_mm=1.0,
        slice_thickness_mm=call.slice_thickness_mm,
    )


def _sha256(array: FloatArray) -> str:
    return digest(np.ascontiguousarray(array).data.cast("B"))
