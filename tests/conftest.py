"""What holds for every test, whatever ran before it and in whichever process."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress

import hypothesis
import pytest
from pynetdicom.transport import AssociationSocket

from tests.faults import matrix
from tests.support import thorough

# Several processes share the processors, and threads of PyTorch that wait for a busy one spin: slower, not faster.
# Set before anything imports PyTorch; the programs that a test starts inherit it.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A file is one worker's. Those that take minutes go first, and those that start processes before what only computes, so
# that no worker ends long after the others.
LONG = ("tests/trainer/training/", "tests/e2e/", "tests/faults/", "tests/field/", "tests/bench/", "tests/cli/")
STARTING = (
    "tests/demo/", "tests/offline/", "tests/push/", "tests/receive/", "tests/rehearsal/", "tests/service/",
    "tests/web/", "tests/work/", "tests/test_reload.py", "tests/test_wheel.py",
)  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of `make test-faults`."""
    parser.addoption(
        "--thorough", action="store_true", help="kill, fuzz and make up histories as often as `make test-faults` does"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Tell the tests' modules how often, before they are imported."""
    thorough.choose(thorough=config.getoption("thorough"))
    # Hypothesis takes 0.2 s for too long by default, which an import on a busy machine exceeds.
    hypothesis.settings.register_profile("any machine", deadline=None)
    hypothesis.settings.load_profile("any machine")
    # A shell that starts the tests in the background has them, and the programs that they start, ignore an interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # pynetdicom leaves a socket open if its peer has reset the connection, and a test after that one would fail by it.
    AssociationSocket._shutdown_socket = _shut_and_close  # type: ignore[method-assign,assignment]


@pytest.hookimpl(tryfirst=True)
def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark what plays a fault of the table, so that `make test-faults` runs it."""
    if matrix.is_named(item.nodeid, matrix.ALL):
        item.add_marker("faults")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """After `make test-faults`: the table of faults, row by row."""
    if not config.getoption("thorough") or config.getoption("collectonly"):
        return
    kinds = ("passed", "skipped", "failed", "error")  # the last one counts: a test that passed may fail at its end
    reports = {one.nodeid: kind for kind in kinds for one in terminalreporter.stats.get(kind, [])}
    terminalreporter.section("faults (docs/protocol.md)")
    for line in matrix.lines(reports):
        terminalreporter.write_line(line)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """After pytest-randomly: its order stays, but for the long files in front."""
    if not config.getoption("thorough"):
        left_out = [item for item in items if item.get_closest_marker("thorough")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    items.sort(key=lambda item: (not item.nodeid.startswith(LONG), not item.nodeid.startswith(STARTING)))


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    """A command run in this process points the log at a stream of its test, which is closed for the next one."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def _shut_and_close(transport: AssociationSocket) -> None:
    if transport.socket is not None:
        with suppress(OSError):
            transport.socket.shutdown(socket.SHUT_RDWR)
        transport.socket.close()
