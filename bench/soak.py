"""Does the service grow? Fifty thousand instances through one process: received, judged, some derived and sent.

    python bench/soak.py                                   10,000 instances first, then to 50,000 (about 10 minutes)
    python bench/soak.py --first 1000 --last 5000          shorter
    python bench/soak.py --toy                             a few hundred, to see that it still runs

The instances come in series of a hundred, each over an association of its own, by a client that speaks the protocol
itself. Every twentieth series is one that is derived with cubic-dc and delivered to a PACS double. Before memory is
read, every series has its verdict and every delivery is sent, so that no queue is taken for growth. Memory is the
resident set of the process of `dicomnode serve`; the worker is another process, and its own limit holds for it. Bar:
less than 20 MB between the first mark and the last.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import psutil
from pydicom.dataset import Dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.dicom import encoded, mr_dataset
from tests.support.misbehaving_pacs import MisbehavingPacs
from tests.support.mr_series import mr_datasets
from tests.support.node import AE_TITLE, Node, running_node
from tests.support.pdu import MR_IMAGE, associate_rq, raw_client
from tests.support.wait import wait_until

BAR_MB = 20.0
SERIES = 100  # instances in each
DERIVED_EACH = 20  # so many series, one that is derived
SLICES = 8  # of one that is derived
MARKS = 8  # readings between the first and the last
QUIET_LIMIT_S = 1800.0


def series() -> Iterator[list[Dataset]]:
    """One series after the other, without end: most lack what a derivation needs, and are kept."""
    for number in count():
        if number % DERIVED_EACH == 0:
            yield mr_datasets(slices=SLICES)
            continue
        first = mr_dataset(1)
        of_series, of_study = str(first.SeriesInstanceUID), str(first.StudyInstanceUID)
        others = (mr_dataset(place, series_uid=of_series, study_uid=of_study) for place in range(2, SERIES + 1))
        yield [first, *others]


def send(port: int, datasets: list[Dataset]) -> None:
    """Send one series over an association of its own; every instance must be acknowledged."""
    with raw_client(port, timeout_s=120.0) as client:
        client.associate(associate_rq(called=AE_TITLE.encode()))
        for dataset in datasets:
            status = client.store(MR_IMAGE, str(dataset.SOPInstanceUID), encoded(dataset))
            assert status == 0, f"status {status:04X}"
        client.release()


def rest(node: Node) -> None:
    """Wait until nothing is left to do."""

    def is_quiet() -> bool:
        is_judged = all(one.state in ("kept", "planned") for one in node.series())
        return is_judged and all(one.state == "sent" for one in node.deliveries())

    wait_until(is_quiet, QUIET_LIMIT_S, "every series is judged, and what is derived is delivered")


def soak(folder: Path, first: int, last: int) -> Iterator[dict[str, float]]:
    """Send, and read the memory at each mark; the last line has the growth."""
    marks = [first + (last - first) * step // MARKS for step in range(MARKS + 1)]
    with (
        MisbehavingPacs() as pacs,
        running_node(
            folder,
            pacs_port=pacs.port,
            pacs={"ae_title": "PACS", "commitment": "off"},
            settings={"log": {"level": "warning"}},
        ) as node,
    ):
        assert node.process is not None
        process = psutil.Process(node.process.pid)
        sent, began_s, at_first_mb = 0, time.monotonic(), 0.0
        source = series()
        for mark in marks:
            while sent < mark:
                datasets = next(source)
                send(node.port, datasets)
                sent += len(datasets)
            rest(node)
            mb = process.memory_info().rss / 1e6
            at_first_mb = at_first_mb or mb
            line = {
                "instances": sent, "memory_mb": round(mb, 1), "growth_mb": round(mb - at_first_mb, 1),
                "descriptors": process.num_fds(), "threads": process.num_threads(),
                "per_s": round(sent / (time.monotonic() - began_s), 1),
            }  # fmt: skip
            yield line


def main() -> int:
    """Print a line for each mark; 0: the bar holds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--first", type=int, default=10_000, help="instances before the first reading")
    parser.add_argument("--last", type=int, default=50_000, help="instances at the last reading")
    parser.add_argument("--toy", action="store_true", help="a few hundred, and no bar")
    options = parser.parse_args()
    first, last = (100, 300) if options.toy else (options.first, options.last)
    line: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="soak-") as place:
        for line in soak(Path(place), first, last):
            print(json.dumps(line), flush=True)
    return int(not options.toy and line["growth_mb"] >= BAR_MB)


if __name__ == "__main__":
    sys.exit(main())
