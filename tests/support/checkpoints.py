"""Run a command of ours with faults at its checkpoints: the only thing that ever sets the hook of ``seams``.

    python -m tests.support.checkpoints --kill receive.committed:3 -- serve --config node.toml
    python -m tests.support.checkpoints --error durable.written:2+:ENOSPC -- serve --config node.toml
    python -m tests.support.checkpoints --delay ledger.accept_written:1:5 -- serve --config node.toml
    python -m tests.support.checkpoints --kill receive.renamed --module tests.receive.lone_receiver -- DATA PORT_FILE

``NAME:N`` is the N-th time that the process passes the checkpoint (default: the first), ``NAME:N+`` every time from
then on. Each process counts for itself. The hook is set at the top level of this module, so that it also holds in a
worker that the command spawns: the child imports its parent's main module, with the parent's arguments.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dicomnode.seams import set_checkpoint_hook

_PLACE = re.compile(r"(?P<name>[a-z_]+\.[a-z_]+)(:(?P<hit>\d+)(?P<onward>\+)?)?(:(?P<what>[A-Z0-9.]+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault: what happens at which hit of a checkpoint."""

    name: str
    hit: int
    is_onward: bool
    act: Callable[[], None]


def parse_fault(kind: str, place: str) -> Fault:
    """A fault as it stands on the command line."""
    match = _PLACE.fullmatch(place)
    if match is None:
        raise argparse.ArgumentTypeError(f"{place} is not NAME[:N[+]][:WHAT]")
    what = match["what"] or ""
    acts = {"kill": _kill, "error": lambda: _raise(what), "delay": lambda: time.sleep(float(what))}
    return Fault(name=match["name"], hit=int(match["hit"] or 1), is_onward=bool(match["onward"]), act=acts[kind])


def install(faults: Sequence[Fault]) -> None:
    """Set the hook in this process."""
    hits: Counter[str] = Counter()
    lock = threading.Lock()

    def hook(name: str) -> None:
        with lock:
            hits[name] += 1
            hit = hits[name]
        for fault in faults:
            if fault.name == name and (hit == fault.hit or (fault.is_onward and hit > fault.hit)):
                fault.act()

    set_checkpoint_hook(hook)


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _raise(name: str) -> None:
    number = getattr(errno, name)
    raise OSError(number, os.strerror(number))


def _arguments() -> tuple[list[Fault], str, list[str]]:
    parser = argparse.ArgumentParser(prog="python -m tests.support.checkpoints")
    for kind in ("kill", "error", "delay"):
        parser.add_argument(f"--{kind}", action="append", default=[], metavar="NAME[:N[+]][:WHAT]")
    parser.add_argument("--module", default="dicomnode.cli.main", help="its main() runs with the command's arguments")
    parser.add_argument("command", nargs="*")
    options = parser.parse_args()
    faults = [parse_fault(kind, place) for kind in ("kill", "error", "delay") for place in getattr(options, kind)]
    return faults, options.module, options.command


def _run() -> None:
    module, command = _arguments()[1:]
    main = importlib.import_module(module).main
    main(command)


if __name__ in ("__main__", "__mp_main__"):
    install(_arguments()[0])
if __name__ == "__main__":
    # A shell that runs the tests in the background has them ignore an interrupt, and so whatever they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _run()
