"""The process of a worker of a cluster in which a model runs: what it answers, and how it is ended and replaced."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from dicomnode.errors import ModelError
from dicomnode.generators.cubic_dc import CubicDc
from dicomnode.ids import digest
from dicomnode.imaging.profile import thin_grid
from dicomnode.work.cluster import Call, Outcome
from dicomnode.work.process import WorkerProcess
from dicomnode.work.warm import Made, Warm, WarmProcess, WarmSetup
from tests.support.model_folders import random_stack

LIMIT_S = 120.0
STACK = random_stack(6, 16, 16)
CALL = Call(
    key="node/1/1/1", model="cubic-dc", model_digest="cubic-dc/1", sharpness=None, ratio=3,
    slice_spacing_mm=STACK.slice_spacing_mm, slice_thickness_mm=STACK.slice_thickness_mm,
    sha256=digest(STACK.voxels.tobytes()),
)  # fmt: skip


def _setup(*models: str) -> WarmSetup:
    return WarmSetup(models=models, device="cpu", log_level="debug", log_format="json")


@pytest.fixture
def warm() -> Iterator[WarmProcess]:
    process = WarmProcess(_setup(), time_limit_s=LIMIT_S, memory_limit_mb=0)
    yield process
    process.close()


def _run(warm: WarmProcess, call: Call = CALL, *, begun: threading.Event | None = None) -> Made:
    told = begun or threading.Event()
    return warm.run(call, STACK.voxels, begun=told.set, share=lambda _share: None)


def test_it_makes_what_the_generator_makes_here(warm: WarmProcess) -> None:
    started = warm.start()
    assert (started.kind, started.digests) == ("cpu", ("cubic-dc/1",))
    reply, thin, missing = _run(warm)
    here = CubicDc().generate(STACK, thin_grid(STACK, 3), device="cpu")
    assert reply.outcome is Outcome.MADE
    assert thin is not None
    assert np.array_equal(thin, here.thin.voxels)
    assert reply.thin_sha256 == digest(here.thin.voxels.tobytes())
    assert (missing, reply.missing_shape) == (None, None)


@pytest.mark.parametrize(
    ("changes", "outcome", "sentence"),
    [
        ({"model_digest": "cubic-dc/0"}, Outcome.UNFIT, "the worker does not have the model"),
        ({"sha256": "0" * 64}, Outcome.UNFIT, "the array is not the one that was sent"),
        ({"sharpness": 0.5}, Outcome.REFUSED, "does not have two sets of weights"),
        ({"ratio": -1}, Outcome.FAILED, "on the worker"),
    ],
)
def test_a_call_that_cannot_be_run_says_whose_matter_it_is(
    warm: WarmProcess, changes: dict[str, object], outcome: Outcome, sentence: str
) -> None:
    reply, thin, _ = _run(warm, replace(CALL, **changes))  # type: ignore[arg-type]  # fields of a call
    assert reply.outcome is outcome
    assert sentence in reply.sentence
    assert thin is None
    assert _run(warm, replace(CALL, key="node/1/2/1"))[0].outcome is Outcome.MADE, "the next call runs"


def test_a_call_that_is_ended_while_its_process_starts_fails_and_the_next_one_is_made(
    warm: WarmProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = warm._warm

    def start_and_end() -> Warm:
        warm.end(CALL.key)
        return start()

    begun = threading.Event()
    with monkeypatch.context() as patched:
        patched.setattr(warm, "_warm", start_and_end)
        reply, _, _ = _run(warm, begun=begun)
    assert (reply.outcome, reply.sentence) == (Outcome.FAILED, "the call was ended")
    assert not begun.is_set()
    assert _run(warm, replace(CALL, key="node/1/2/1"))[0].outcome is Outcome.MADE


def test_a_call_that_is_ended_while_it_runs_fails_and_the_next_one_is_made(warm: WarmProcess) -> None:
    """Its process is stopped, so that it cannot have answered before."""
    warm.start()
    (stopped,) = multiprocessing.active_children()
    assert stopped.pid is not None
    os.kill(stopped.pid, signal.SIGSTOP)
    begun = threading.Event()
    with ThreadPoolExecutor(1) as caller:
        answer = caller.submit(_run, warm, begun=begun)
        assert begun.wait(LIMIT_S)
        warm.end(CALL.key)
        reply, _, _ = answer.result(LIMIT_S)
    assert (reply.outcome, reply.sentence) == (Outcome.FAILED, "the call was ended")
    assert _run(warm, replace(CALL, key="node/1/2/1"))[0].outcome is Outcome.MADE


@pytest.mark.parametrize("moment", ["_ready", "_watch"], ids=["before it has the call", "once it has answered"])
def test_a_process_that_was_told_to_end_gets_no_other_call_however_long_it_lives(
    warm: WarmProcess, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = getattr(warm, moment)

    def reached_and_ended(*given: object) -> object:
        found = reached(*given)
        warm.end(CALL.key)
        return found

    warm.start()
    (told,) = multiprocessing.active_children()
    with monkeypatch.context() as patched:
        patched.setattr(WorkerProcess, "interrupt", lambda _process: None)  # the kernel takes its time
        patched.setattr(warm, moment, reached_and_ended)
        _run(warm)
    assert _run(warm, replace(CALL, key="node/1/2/1"))[0].outcome is Outcome.MADE
    assert told not in multiprocessing.active_children()


def test_a_call_beyond_its_time_ends_with_its_process() -> None:
    warm = WarmProcess(_setup(), time_limit_s=0.0, memory_limit_mb=0)
    try:
        reply, _, _ = _run(warm)
    finally:
        warm.close()
    assert reply.outcome in (Outcome.FAILED, Outcome.MADE), "made, where the answer was there at the first look"
    assert reply.outcome is Outcome.MADE or "longer than 0 s (work.time_limit_s" in reply.sentence


def test_a_model_that_is_not_there_is_an_error_at_the_start() -> None:
    missing = WarmProcess(_setup("no-such-model"), time_limit_s=LIMIT_S, memory_limit_mb=0)
    try:
        with pytest.raises(ModelError, match="There is no model named no-such-model"):
            missing.start()
    finally:
        missing.close()
