"""This bench times what a call on a cluster costs beyond the same call here, and what a second worker is good for.

    python bench/cluster.py          30 slices of 512 × 512 at ratio 5 (30 MiB out, 150 MiB back), nine rounds;
                                     then 24 small jobs on one worker and on two
    python bench/cluster.py --toy    small and short, to see that it still runs

A real scheduler and real workers, each a process, over mutual TLS. A round derives with ``cubic-dc`` here and on the
worker; the difference is what the cluster costs: both directions, the digests on both sides, and the pipe between the
worker and its warm process. Bar: the median is at most 3 s, and the scheduler, which no array passes, stays below
100 MiB.

The jobs go through the ledger of a node with one slot for each worker. Their call sleeps a second in the worker, in
place of a model, so that two workers do not compete for the processors of this machine. Bar: two workers do at least
1.6 times as many jobs a second as one.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dicomnode.generators.base import Generator
from dicomnode.generators.cubic_dc import CubicDc
from dicomnode.generators.model_dir import model_facts
from dicomnode.imaging.profile import thin_grid
from dicomnode.imaging.volume import Volume
from dicomnode.work.remote import Link
from tests.support.cluster import ClusterNode, Machine, running_cluster
from tests.support.model_folders import random_stack
from tests.support.supervised import Supervised

BAR_S = 3.0
SCHEDULER_BAR_MB = 100.0
WORKERS_BAR = 1.6
SLEEP_S = 1.0
LIMIT_S = 600.0


def main() -> None:
    """Measure, print, and fail beyond the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toy", action="store_true")
    toy = parser.parse_args().toy
    size, rounds, jobs = (64, 2, 4) if toy else (512, 9, 24)
    stack = random_stack(30, size, size)
    with tempfile.TemporaryDirectory() as folder, running_cluster(Path(folder), workers=1) as cluster:
        link = Link(cluster.cluster)
        extra_s, here_s = _rounds(stack, link.generator(model_facts("cubic-dc")), rounds)
        link.close()
        scheduler_mb, worker_mb = _peak_mb(cluster.scheduler), _peak_mb(cluster.workers[0])
    sent_mb = stack.voxels.nbytes / 2**20
    print(f"{sent_mb:.0f} MiB out, {5 * sent_mb:.0f} MiB back, {rounds} rounds; here {statistics.median(here_s):.2f} s")
    print(
        f"the cluster adds {statistics.median(extra_s):.2f} s ({min(extra_s):.2f}–{max(extra_s):.2f}); bar {BAR_S:g} s"
    )
    print(
        f"peak resident memory: scheduler {scheduler_mb:.0f} MiB (bar {SCHEDULER_BAR_MB:g}), worker {worker_mb:.0f} MiB"
    )
    with tempfile.TemporaryDirectory() as folder:
        one_s, two_s = _jobs_s(Path(folder), jobs)
    print(f"{jobs} jobs whose call sleeps {SLEEP_S:g} s: {one_s:.1f} s on one worker, {two_s:.1f} s on two")
    print(f"two workers do {one_s / two_s:.2f} times as many jobs as one; bar {WORKERS_BAR:g}")
    is_passed = (
        statistics.median(extra_s) <= BAR_S and scheduler_mb <= SCHEDULER_BAR_MB and one_s / two_s >= WORKERS_BAR
    )
    if not toy and not is_passed:
        sys.exit(1)


def _rounds(stack: Volume, remote: Generator, rounds: int) -> tuple[list[float], list[float]]:
    """The seconds that the cluster adds in each round, and those of the call here."""
    extra_s, here_s = [], []
    _seconds(lambda: _derive(remote, stack))  # connects
    for _ in range(rounds):
        here_s.append(_seconds(lambda: _derive(CubicDc(), stack)))
        extra_s.append(_seconds(lambda: _derive(remote, stack)) - here_s[-1])
    return extra_s, here_s


def _jobs_s(folder: Path, jobs: int) -> list[float]:
    """The seconds in which so many jobs are done by one worker, then by two, each time once everything is warm."""
    seconds = []
    with running_cluster(folder / "cluster") as cluster, ExitStack() as stack:
        node = ClusterNode(folder / "node", cluster)
        stack.callback(node.close)
        supervisors: list[Supervised] = []

        def done(count: int) -> None:
            planned = [node.planned() for _ in range(count)]
            for supervisor in supervisors:
                supervisor.wake()
            for series in planned:
                node.wait_for(series, "done", LIMIT_S)

        for count in (1, 2):
            worker = cluster.worker("--delay", f"warm.begun:1+:{SLEEP_S:g}")
            supervisors.append(stack.enter_context(node.supervised()))
            while len(worker.events("call_ended")) < 2:
                done(count)  # the processes of all slots have started, and every worker has run a call
            seconds.append(_seconds(lambda: done(jobs)))
    return seconds


def _derive(generator: Generator, stack: Volume) -> None:
    generator.generate(stack, thin_grid(stack, 5), device="cpu")


def _seconds(act: Callable[[], None]) -> float:
    begun = time.perf_counter()
    act()
    return time.perf_counter() - begun


def _peak_mb(machine: Machine) -> float:
    assert machine.process is not None
    lines = Path(f"/proc/{machine.process.pid}/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return int(peak) / 2**10


if __name__ == "__main__":
    main()
