"""A worker's thread: no wake-up is lost, no error ends it, and a stop ends every wait."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from dicomnode.errors import LedgerError
from dicomnode.worker_thread import WorkerThread
from tests.support.wait import wait_until

LOGGER = logging.getLogger("dicomnode.tests.worker_thread")
LONG_S = 600.0  # no test waits so long: whoever comes to it has lost a wake-up or a stop
LIMIT_S = 30.0
PAUSE_S = 0.2

Make = Callable[[Callable[[], float]], WorkerThread]


@pytest.fixture
def make() -> Iterator[Make]:
    """Make worker threads, which are stopped after the test."""
    made: list[WorkerThread] = []

    def of(turn: Callable[[], float]) -> WorkerThread:
        made.append(
            WorkerThread(turn, name="tried", events="tried", logger=LOGGER, fields={"peer": "pacs"}, pause_s=0.0)
        )
        return made[-1]

    yield of
    assert all(one.stop(LIMIT_S) for one in made)


class Turns:
    """Counts turns; each returns the same wait."""

    def __init__(self, wait_s: float) -> None:
        self.wait_s = wait_s
        self.count = 0

    def __call__(self) -> float:
        self.count += 1
        return self.wait_s


class Held:
    """A turn that goes on until it is let go."""

    def __init__(self) -> None:
        self.count = 0
        self.began, self.go_on = threading.Event(), threading.Event()

    def __call__(self) -> float:
        self.count += 1
        self.began.set()
        assert self.go_on.wait(LIMIT_S)
        return LONG_S


def test_turns_follow_one_another_after_the_wait_that_each_returns(make: Make) -> None:
    turns = Turns(0.01)
    make(turns).start()
    wait_until(lambda: turns.count >= 3, LIMIT_S, "turns follow")


def test_a_wake_up_ends_the_wait(make: Make) -> None:
    turns = Turns(LONG_S)
    thread = make(turns)
    thread.start()
    wait_until(lambda: turns.count == 1, LIMIT_S, "the first turn")
    thread.wake()
    wait_until(lambda: turns.count == 2, LIMIT_S, "the turn after the wake-up")


def test_a_wake_up_while_a_turn_goes_on_is_not_lost(make: Make) -> None:
    held = Held()
    thread = make(held)
    thread.start()
    assert held.began.wait(LIMIT_S)
    thread.wake()
    held.go_on.set()
    wait_until(lambda: held.count == 2, LIMIT_S, "the turn after the wake-up")


def test_an_error_is_logged_with_its_fields_and_the_next_turn_comes(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    raised = [LedgerError("The ledger was busy."), ValueError("a mistake of ours")]
    turns = Turns(LONG_S)

    def turn() -> float:
        if raised:
            raise raised.pop(0)
        return turns()

    make(turn).start()
    wait_until(lambda: turns.count == 1, LIMIT_S, "the turn after the errors")
    paused, failed = caplog.records
    assert (paused.getMessage(), paused.levelno, paused.exc_info) == ("tried_paused", logging.ERROR, None)
    assert vars(paused)["dicomnode_fields"] == {"code": "ledger", "sentence": "The ledger was busy.", "peer": "pacs"}
    assert failed.getMessage() == "tried_failed"
    assert vars(failed)["dicomnode_fields"] == {"peer": "pacs"}
    assert failed.exc_info is not None
    assert failed.exc_info[0] is ValueError


def test_after_an_error_the_next_turn_comes_after_the_pause() -> None:
    began: list[float] = []

    def turn() -> float:
        began.append(time.monotonic())
        raise LedgerError("The ledger was busy.")

    thread = WorkerThread(turn, name="tried", events="tried", logger=LOGGER, pause_s=PAUSE_S)
    thread.start()
    try:
        wait_until(lambda: len(began) > 1, LIMIT_S, "the turn after the error")
    finally:
        assert thread.stop(LIMIT_S)
    assert began[1] - began[0] >= PAUSE_S


def test_a_stop_ends_the_wait_and_lets_the_present_turn_end(make: Make) -> None:
    turns, held = Turns(LONG_S), Held()
    waiting, busy = make(turns), make(held)
    waiting.start()
    busy.start()
    wait_until(lambda: turns.count == 1, LIMIT_S, "a wait")
    assert waiting.stop(LIMIT_S)
    assert held.began.wait(LIMIT_S)
    assert not busy.stop(0.05), "the turn goes on"
    assert busy.is_alive
    held.go_on.set()
    assert busy.stop(LIMIT_S)
    assert (turns.count, held.count) == (1, 1)


def test_a_stop_ends_a_pause_within_a_turn(make: Make) -> None:
    paused = threading.Event()

    def turn() -> float:
        paused.set()
        thread.pause(LONG_S)
        return 0.0

    thread = make(turn)
    thread.start()
    assert paused.wait(LIMIT_S)
    assert thread.stop(LIMIT_S)


def test_a_retired_thread_ends_after_its_turn_and_out_of_its_wait(make: Make) -> None:
    turns, held = Turns(LONG_S), Held()
    waiting, busy = make(turns), make(held)
    waiting.start()
    busy.start()
    wait_until(lambda: turns.count == 1, LIMIT_S, "a wait")
    assert held.began.wait(LIMIT_S)
    waiting.retire()
    busy.retire()
    wait_until(lambda: not waiting.is_alive, LIMIT_S, "the thread that waited ends")
    assert busy.is_alive
    held.go_on.set()
    wait_until(lambda: not busy.is_alive, LIMIT_S, "the thread that worked ends")
    assert held.count == 1


def test_a_thread_that_never_started_is_stopped_at_once_and_does_nothing(make: Make) -> None:
    turns = Turns(0.0)
    thread = make(turns)
    assert thread.stop(LIMIT_S)
    thread.start()
    wait_until(lambda: not thread.is_alive, LIMIT_S, "it ends")
    assert turns.count == 0


def test_what_is_to_be_closed_is_closed_in_the_thread_at_its_end() -> None:
    closed_by: list[threading.Thread] = []
    thread = WorkerThread(
        Turns(LONG_S), name="tried", events="tried", logger=LOGGER, pause_s=0.0,
        ended=lambda: closed_by.append(threading.current_thread()),
    )  # fmt: skip
    thread.start()
    assert not closed_by
    assert thread.stop(LIMIT_S)
    assert [one.name for one in closed_by] == ["tried"]
