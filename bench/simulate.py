"""This script computes what a region needs: nodes, workers, network and disk, and what is full first as it grows.

    python bench/simulate.py           the tables, and the check against a measured point
    python bench/simulate.py --write   the same into docs/region.md, and the plot into docs/region.svg
    python bench/simulate.py --toy     a fiftieth of the day, to see that it still runs

A simulation of events: series arrive over a day and pass through the parts of their node, a worker of the cluster and
the node again; each part serves so many at once, first come first served. What each step takes was measured, with the
command that stands beside it (``TIMES``). What was not measured is assumed, and stands in ``Region`` and ``HOURS``.
The draws are seeded: the same numbers come again.

Bars: a series costs as much on four workers as on one, within 5 %. A measured point is met within 15 %.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import math
import random
import sys
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, PLOT = DOCS / "region.md", DOCS / "region.svg"
BEGIN, END = "<!-- made by bench/simulate.py -->\n", "<!-- end -->\n"

COST_BAR = 0.05
POINT_BAR = 0.15
HOUR_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Time:
    """The time of one step of a series, and the command that measured it."""

    seconds: float
    what: str
    source: str  # what measured it


# Sizes and times of a series of 30 slices of 512 × 512, stored without compression, at ratio 5.
SLICES, RATIO, INSTANCE_BYTES = 30, 5, 512 * 512 * 2 + 2000
RECEIVE = Time(
    seconds=0.0067, what="node: an instance received, flushed, acknowledged", source="`bench/receive.py`, 16 senders"
)
READ = Time(seconds=0.22, what="node: the files read, checked, stacked", source="`bench/infer.py --json`, read_s")
CARRY = Time(
    seconds=1.5, what="cluster: the arrays there and back, with digests", source="`bench/cluster.py`, one worker"
)
GPU = Time(seconds=0.17, what="worker with a GPU: the model", source="docs/experiments.md, one H100")
CPU = Time(seconds=43.1, what="worker with two processors: the model", source="`bench/infer.py --json`, generate_s")
ENCODE = Time(
    seconds=5.2, what="node: gate, headers, encoding, writing, a flush a file",
    source="`bench/infer.py --json`, check_s, derive_s, write_s",
)  # fmt: skip
PUSH = Time(
    seconds=0.021,
    what="node: an instance sent to a PACS, acknowledged",
    source="`bench/overhead.py --size 512`, Orthanc: what the stages leave, by 120",
)
TIMES = (RECEIVE, READ, CARRY, GPU, CPU, ENCODE, PUSH)
GATE_SHARE = 0.02  # of the voxels, which the gate has the model make once more to judge it

# `bench/cluster.py`: so many jobs whose call sleeps a second on its worker, with one slot for each worker; s.
POINT_JOBS, POINT_SLEEP_S = 24, 1.0
POINT_S = {1: 31.0, 2: 15.7}

# Percent of the day's series in each hour, from midnight on. Assumed: most scanners work from 7 to 19.
HOURS = (1, 1, 1, 1, 1, 1, 2, 5, 8, 9, 9, 9, 8, 8, 8, 8, 6, 4, 3, 2, 2, 1, 1, 1)
QUIET_S = 30.0  # the default of settle.quiet_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """The scanners, nodes and workers of a region, and their series. Each number is an assumption."""

    series_a_day: int = 10_000  # that are derived
    scanners: int = 100
    nodes: int = 10
    processors: int = 8  # of a node
    slots: int = 4  # of a node
    workers: int = 2
    model: Time = GPU
    network_bytes_per_s: float = 118e6  # of a machine, each way: a gigabit
    away_s: tuple[float, float] | None = None  # from when to when no worker is there


class Clock:
    """The events that are to come, in order."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()  # of two events at one moment the one that was planned first comes first

    def at(self, moment_s: float, act: Callable[[], None]) -> None:
        """Plan an event."""
        heapq.heappush(self._due, (moment_s, next(self._number), act))

    def run(self) -> None:
        """Let every event happen."""
        while self._due:
            self.now_s, _, act = heapq.heappop(self._due)
            act()


class Part:
    """A part of a node or of the cluster, which serves so many at once, first come first served."""

    def __init__(self, clock: Clock, name: str, places: int = 1) -> None:
        self.name, self.places = name, places
        self.busy_s: defaultdict[int, float] = defaultdict(float)  # by the hour in which a use began
        self._clock, self._free = clock, places
        self._waiting: deque[Callable[[], None]] = deque()

    def take(self, then: Callable[[], None]) -> None:
        """Go on with ``then`` once there is a place."""
        if self._free:
            self._free -= 1
            then()
        else:
            self._waiting.append(then)

    def give(self) -> None:
        """Give the place to the one that has waited longest."""
        if self._waiting:
            self._clock.at(self._clock.now_s, self._waiting.popleft())
        else:
            self._free += 1

    def use(self, seconds: float) -> Iterator[Act]:
        """Take a place, for so long."""
        yield self.take
        self.busy_s[int(self._clock.now_s // HOUR_S)] += seconds
        yield lambda then: self._clock.at(self._clock.now_s + seconds, then)
        self.give()


Act = Callable[[Callable[[], None]], None]  # does something, then goes on with what it is given


def go(steps: Iterator[Act]) -> None:
    """Do one step after the other."""

    def resume() -> None:
        if (act := next(steps, None)) is not None:
            act(resume)

    resume()


class Node:
    """The parts of a node that a series passes through."""

    def __init__(self, clock: Clock, region: Region) -> None:
        self.receiver = Part(clock, "receiver of a node")
        self.slots = Part(clock, "slots of a node", region.slots)
        self.processors = Part(clock, "processors of a node", region.processors)
        self.inward = Part(clock, "network into a node")
        self.outward = Part(clock, "network out of a node")
        self.pacs = Part(clock, "delivery of a node to its PACS")

    @property
    def parts(self) -> tuple[Part, ...]:
        """All of them."""
        return self.receiver, self.slots, self.processors, self.inward, self.outward, self.pacs


@dataclass(slots=True, kw_only=True)
class Day:
    """A simulated day: its nodes and workers with the times at which they worked, and the delay of each series."""

    region: Region
    nodes: list[Node]
    workers: Part
    delays_s: list[float] = field(default_factory=list)  # last image received → last thin one acknowledged

    def within_s(self, share: float) -> float:
        """The time within which such a share of the series was delivered."""
        return sorted(self.delays_s)[int(share * (len(self.delays_s) - 1))]

    def loads(self) -> dict[str, float]:
        """Return, by name of a part, the share of its busiest hour in which it works; of the nodes, the mean."""
        kinds: defaultdict[str, list[Part]] = defaultdict(list)
        for part in (self.workers, *(part for node in self.nodes for part in node.parts)):
            kinds[part.name].append(part)
        return {name: _load(parts) for name, parts in kinds.items()}


def _load(parts: Sequence[Part]) -> float:
    hours = {hour for part in parts for hour in part.busy_s}
    busiest_s = max((sum(part.busy_s[hour] for part in parts) for hour in hours), default=0.0)
    return busiest_s / HOUR_S / sum(part.places for part in parts)


def day(region: Region, *, share: float = 1.0) -> Day:
    """Simulate a day, or a share of its series on as much less of everything that is shared."""
    clock, draw = Clock(), random.Random(7)  # noqa: S311 (no secret)
    made = Day(
        region=region,
        nodes=[Node(clock, region) for _ in range(region.nodes)],
        workers=Part(clock, "workers", region.workers),
    )
    for _ in range(round(region.series_a_day * share)):
        (hour,) = draw.choices(range(24), HOURS)
        node = made.nodes[draw.randrange(region.scanners) * region.nodes // region.scanners]
        begun_s = (hour + draw.random()) * HOUR_S
        clock.at(begun_s, lambda node=node: go(_series(clock, made, node)))  # type: ignore[misc]
    if region.away_s is not None:
        begin_s, end_s = region.away_s
        for _ in range(region.workers):
            clock.at(begin_s, lambda: go(made.workers.use(end_s - begin_s)))
    clock.run()
    return made


def _series(clock: Clock, made: Day, node: Node) -> Iterator[Act]:
    """The way of a series."""
    wire_s = INSTANCE_BYTES / made.region.network_bytes_per_s
    thick_s = SLICES * 512 * 512 * 4 / made.region.network_bytes_per_s  # an array, float32
    yield from node.inward.use(SLICES * wire_s)
    yield from node.receiver.use(SLICES * RECEIVE.seconds)
    received_s = clock.now_s
    yield lambda then: clock.at(clock.now_s + QUIET_S, then)
    yield node.slots.take
    taken_s = clock.now_s
    yield from node.processors.use(READ.seconds)
    yield from node.outward.use(thick_s)
    yield from made.workers.use((made.region.model.seconds + CARRY.seconds) * (1 + GATE_SHARE))
    yield from node.inward.use(thick_s * RATIO)
    yield from node.processors.use(ENCODE.seconds)
    node.slots.busy_s[int(taken_s // HOUR_S)] += clock.now_s - taken_s
    node.slots.give()
    yield from node.outward.use(SLICES * RATIO * wire_s)
    yield from node.pacs.use(SLICES * RATIO * PUSH.seconds)
    made.delays_s.append(clock.now_s - received_s)


def point_s(workers: int) -> float:
    """Simulate the jobs that were measured, with one slot for each worker, on one machine with two processors."""
    other_s = POINT_S[1] / POINT_JOBS - POINT_SLEEP_S  # what a job takes beside its call
    clock = Clock()
    slots, here, far = Part(clock, "slots", workers), Part(clock, "processors", 2), Part(clock, "workers", workers)

    def job() -> Iterator[Act]:
        yield slots.take
        yield from here.use(other_s)
        yield from far.use(POINT_SLEEP_S)
        slots.give()

    for _ in range(POINT_JOBS):
        go(job())
    clock.run()
    return clock.now_s


def cost_s(workers: int, series: int) -> float:
    """Worker-seconds for each series of a backlog on one node that has room for it."""
    region = Region(nodes=1, processors=64, slots=3 * workers, workers=workers, model=CPU, network_bytes_per_s=1180e6)
    clock = Clock()
    made = Day(region=region, nodes=[Node(clock, region)], workers=Part(clock, "workers", workers))
    for _ in range(series):
        go(_series(clock, made, made.nodes[0]))
    clock.run()
    return max(clock.now_s - QUIET_S, 0.0) * workers / series


def tables(share: float) -> str:
    """Simulate, and write what stands on the page."""
    base = Region()
    parts = [_times(), _of_a_series(base), _loads(base, share), _by_nodes(base, share), _by_workers(base, share)]
    return "\n".join(parts)


def _times() -> str:
    return _table(("step", "s", "measured by"), [(one.what, f"{one.seconds:g}", one.source) for one in TIMES])


def _of_a_series(region: Region) -> str:
    """Bytes of one series, and of a day."""
    thick, thin, array = SLICES * INSTANCE_BYTES, SLICES * RATIO * INSTANCE_BYTES, SLICES * 512 * 512 * 4
    rows = [
        ("disk of the node", thick + thin), ("network: scanner to node", thick), ("node to worker", array),
        ("worker to node", RATIO * array), ("node to PACS", thin),
    ]  # fmt: skip
    return _table(
        ("of one series", "MB", f"of {region.series_a_day:,} a day, GB"),
        [(what, f"{size / 1e6:.0f}", f"{size * region.series_a_day / 1e9:.0f}") for what, size in rows],
    )


def _loads(region: Region, share: float) -> str:
    """Make the table of how full each part is, the fullest first."""
    loads = sorted(day(region, share=share).loads().items(), key=lambda one: -one[1])
    return _table(
        ("part", "in use in the busiest hour", "full at, series a day"),
        [(name, f"{load:.0%}", f"{_rounded(region.series_a_day * share / load)}") for name, load in loads],
    )


def _by_nodes(base: Region, share: float) -> str:
    rows = []
    for nodes in (2, 3, 5, 10, 20):
        made = day(replace(base, nodes=nodes), share=share)
        load = {name: one for name, one in made.loads().items() if "node" in name}
        fullest = max(load, key=lambda name: load[name])
        rows.append((f"{nodes}", f"{base.scanners // nodes}", f"{fullest}, {load[fullest]:.0%}", *_minutes(made)))
    return _table(("nodes", "scanners each", "fullest part", "half within, min", "95 % within, min"), rows)


def _by_workers(base: Region, share: float) -> str:
    away = (10 * HOUR_S, 11 * HOUR_S)
    rows = []
    for model, numbers in ((GPU, (1, 2, 4)), (CPU, (8, 12, 16, 24))):
        for workers in numbers:
            region = replace(base, model=model, workers=workers)
            made = day(region, share=share)
            lost = day(replace(region, away_s=away), share=share)
            kind = "GPU" if model is GPU else "two processors"
            rows.append((f"{workers}, {kind}", f"{made.loads()['workers']:.0%}", *_minutes(made), _minutes(lost)[1]))
    return _table(
        (
            "workers",
            "in use in the busiest hour",
            "half within, min",
            "95 % within, min",
            "95 % within, no worker from 10 to 11",
        ),
        rows,
    )


def _minutes(made: Day) -> tuple[str, str]:
    return f"{made.within_s(0.5) / 60:.1f}", f"{made.within_s(0.95) / 60:.1f}"


def _rounded(number: float) -> str:
    """Two digits: no more is known."""
    return f"{float(f'{number:.2g}'):,.0f}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "".join("| " + " | ".join(line) + " |\n" for line in (heads, ["---"] * len(heads), *rows))


# The plot: ten nodes, a line for each number and kind of workers; series a day to the right, minutes upwards, both in
# logarithms.
SHOWN = ((CPU, 16), (GPU, 1), (GPU, 2), (GPU, 4))
LABELLED = (2500, 5000, 10_000, 20_000, 40_000, 80_000)
DAYS = (2500, 5000, 8000, 10_000, 13_000, 16_000, 20_000, 25_000, 30_000, 40_000, 50_000, 60_000, 80_000)
COLOURS = ("#b3261e", "#c77700", "#1a73b8", "#2e7d32")
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 720, 400, 60, 50, 30, 160
MINUTES = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)


def plot(share: float) -> str:
    """Draw how long the slowest twentieth of the series takes as there are more of them, as SVG."""
    left, right = math.log(DAYS[0]), math.log(DAYS[-1])
    low, high = math.log(MINUTES[0]), math.log(MINUTES[-1])

    def x(number: float) -> float:
        return LEFT + (math.log(number) - left) / (right - left) * (WIDTH - LEFT - RIGHT)

    def y(minutes: float) -> float:
        kept = min(max(math.log(minutes), low), high)
        return HEIGHT - BOTTOM - (kept - low) / (high - low) * (HEIGHT - BOTTOM - TOP)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="18">Minutes within which 95 % of the series are at the PACS; series a day</text>',
    ]
    for number in LABELLED:
        parts.append(f'<text x="{x(number):.0f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{number:,}</text>')
    for minutes in MINUTES:
        parts.append(f'<path d="M{LEFT} {y(minutes):.0f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(minutes) + 4:.0f}" text-anchor="end">{minutes:g}</text>')
    for number, ((model, workers), colour) in enumerate(zip(SHOWN, COLOURS, strict=True)):
        days = [replace(Region(), model=model, workers=workers, series_a_day=one) for one in DAYS]
        ends = [(x(one.series_a_day), y(day(one, share=share).within_s(0.95) / 60)) for one in days]
        line = " ".join(f"{across:.1f},{up:.1f}" for across, up in ends)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        told = f"{workers} × {'a GPU' if model is GPU else 'two processors'}"
        parts.append(f'<text x="{WIDTH - RIGHT + 8}" y="{TOP + 20 + 20 * number}" fill="{colour}">{told}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    """Simulate, print or write, and fail beyond a bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--write", action="store_true", help="into docs/")
    options = parser.parse_args()
    share = 0.02 if options.toy else 1.0
    page = tables(share)
    print(page)
    if options.write:
        before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
        PAGE.write_text(before + BEGIN + page + END + rest.partition(END)[2], "utf-8")
        PLOT.write_text(plot(share), "utf-8")
    costs = {workers: cost_s(workers, round(400 * share)) for workers in (1, 2, 4)}
    is_flat = max(costs.values()) <= (1 + COST_BAR) * costs[1]
    told = ", ".join(f"{seconds:.1f} on {workers}" for workers, seconds in costs.items())
    print(f"worker-seconds a series: {told}; bar +{COST_BAR:.0%}")
    made_s = point_s(2)
    error = made_s / POINT_S[2] - 1
    print(
        f"{POINT_JOBS} jobs, two workers: simulated {made_s:.1f} s, measured {POINT_S[2]:.1f} s; {error:+.0%}", end=""
    )
    print(f", bar {POINT_BAR:.0%}")
    if not options.toy and not (is_flat and abs(error) <= POINT_BAR):
        sys.exit(1)


if __name__ == "__main__":
    main()
