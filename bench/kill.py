"""kill -9 of ``dicomnode serve`` at every seam of receive, settle, work and push: is anything lost, changed or doubled?

    python bench/kill.py                  20 kills (about 3 minutes)
    python bench/kill.py --kills 200      the published number
    python bench/kill.py --toy            a few, to see that it still runs

Each round sends one small MR series with DCMTK's ``storescu`` to a real service on one data folder for all rounds. The
service is killed at a seam, started again, killed at a later one, and so on; what was not acknowledged is sent again.
Then it starts once without a kill and must bring the series through: settled, derived, at both PACSs. The seams of the
worker kill the worker first; the service is killed while it starts another.

Two peers get every derived series: a PACS double that writes down each C-STORE request, and Orthanc where there is
one. Checked after each kill and at the end, against the files that were sent and by SQL against the ledger:

- every instance that storescu saw acknowledged is in the archive, with the digest of what was sent;
- no instance goes to a peer again whose acknowledgement was in the ledger when the service died;
- what goes again has the same digest;
- both PACSs end with exactly the derived instances, one derived series for each source series.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dicomnode.ids import digest
from tests.support.dcmtk import environment, find_program, free_port, is_listening, program
from tests.support.dicom import dataset_bytes
from tests.support.misbehaving_pacs import MisbehavingPacs
from tests.support.mr_series import mr_datasets, write_series
from tests.support.orthanc import Orthanc, orthanc

ROOT = Path(__file__).resolve().parents[1]
SLICES, RATIO = 8, 4
LIFE_LIMIT_S = 90.0  # until a seam is reached, or everything is done
KILLS_A_ROUND = 5
QUIET_S = 2.0  # longer than a restart takes to listen again plus the sending of a series


@dataclass(frozen=True, slots=True, kw_only=True)
class Seam:
    """A checkpoint, and up to which hit of it the process is killed there."""

    name: str
    hits: int = 1
    kills_worker: bool = False


# In the order in which a series passes them, so that after a kill at one all later ones are still to come. The hits
# of receive and push are fewer than a third of the instances: three kills in a round leave enough.
SEAMS = (
    Seam(name="sweep.set_aside"),
    Seam(name="service.started"),
    Seam(name="archive.folder_made"),
    Seam(name="durable.written", hits=2),
    Seam(name="durable.flushed", hits=2),
    Seam(name="durable.renamed", hits=2),
    Seam(name="receive.renamed", hits=2),
    Seam(name="receive.folder_synced", hits=2),
    Seam(name="receive.committed", hits=2),
    Seam(name="receive.answered", hits=2),
    Seam(name="settle.settled"),
    Seam(name="settle.planned"),
    Seam(name="work.claimed"),
    Seam(name="job.begun", kills_worker=True),
    Seam(name="job.file_written", hits=SLICES * RATIO, kills_worker=True),
    Seam(name="job.written", kills_worker=True),
    Seam(name="work.child_done"),
    Seam(name="archive.cleared"),
    Seam(name="archive.published"),
    Seam(name="work.published"),
    Seam(name="work.committed"),
    Seam(name="push.claimed", hits=2),
    Seam(name="push.verified", hits=2),
    Seam(name="push.associated", hits=2),
    Seam(name="push.sent", hits=12),
    Seam(name="push.acknowledged", hits=12),
    Seam(name="push.concluded", hits=2),
)

CONFIG = """
[node]
listen = "127.0.0.1:{port}"
data = "{data}"
[settle]
quiet_s = {quiet_s}
aborted_wait_s = {quiet_s}
[work]
device = "cpu"
[push]
backoff_min_s = 0.2
backoff_max_s = 1.0
[[peer]]
name = "scanner"
ae_title = "STORESCU"
networks = ["127.0.0.1/32"]
{peers}
[[rule]]
name = "every series"
model = "cubic-dc"
deliver_to = [{deliver_to}]
"""
PEER = '[[peer]]\nname = "{name}"\nae_title = "PACS"\naddress = "127.0.0.1:{port}"\n'


@dataclass(slots=True, kw_only=True)
class Sent:
    """A series on the sender's side."""

    files: dict[Path, tuple[str, str]]  # file → (SOP Instance UID, digest of its dataset)
    series_uid: str
    acknowledged: set[Path] = field(default_factory=set)


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """What was known when the service died."""

    seam: str
    arrivals: int  # at the double so far
    acknowledged: frozenset[str]  # SOP Instance UIDs that the ledger held as acknowledged by the double


@dataclass(slots=True, kw_only=True)
class Campaign:
    """All rounds on one data folder."""

    folder: Path
    pacs: MisbehavingPacs
    orthanc: Orthanc | None
    port: int
    series: list[Sent] = field(default_factory=list)
    deaths: list[Death] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "service.log"

    def write_config(self) -> None:
        ports = {"double": self.pacs.port} | ({"orthanc": self.orthanc.dicom_port} if self.orthanc else {})
        text = CONFIG.format(
            port=self.port,
            data=self.data,
            quiet_s=QUIET_S,
            peers="".join(PEER.format(name=name, port=port) for name, port in ports.items()),
            deliver_to=", ".join(f'"{name}"' for name in ports),
        )
        (self.folder / "node.toml").write_text(text)

    def round(self, seams: Sequence[Seam], hits: Sequence[int]) -> None:
        """One new series, killed at each seam in turn, then brought through."""
        folder = self.folder / f"series{len(self.series)}"
        datasets = mr_datasets(slices=SLICES)
        paths = write_series(folder, datasets)
        named = [
            (str(one.SOPInstanceUID), digest(dataset_bytes(path))) for one, path in zip(datasets, paths, strict=True)
        ]
        sent = Sent(files=dict(zip(paths, named, strict=True)), series_uid=str(datasets[0].SeriesInstanceUID))
        self.series.append(sent)
        for seam, hit in zip(seams, hits, strict=True):
            self.live_until_killed(sent, seam, hit)
        self.bring_through(sent)

    def live_until_killed(self, sent: Sent, seam: Seam, hit: int) -> None:
        """Start with a kill at the seam; the death is written down once the process is gone."""
        service = self.start("--kill", f"{seam.name}:{hit}")
        self.send_rest(sent, service)
        if seam.kills_worker:
            said = self.log.stat().st_size
            wait(lambda: "worker_ended" in self.log.read_text()[said:] or service.poll() is not None)
            service.kill()
        if not wait(lambda: service.poll() is not None):
            self.mistakes.append(f"{seam.name}:{hit} was never reached")
            service.kill()
        if service.wait() != -signal.SIGKILL:
            self.mistakes.append(f"the service ended by itself with {service.returncode} before {seam.name}:{hit}")
        wait(self.pacs.is_idle)  # what was on the wire when it died still arrives
        self.deaths.append(
            Death(
                seam=seam.name,
                arrivals=len(self.pacs.arrivals),
                acknowledged=frozenset(uid for uid, state in self.items("double") if state == "acknowledged"),
            )
        )
        self.check_received()

    def bring_through(self, sent: Sent) -> None:
        """Start without a kill; all must be sent in the end, and SIGTERM ends the service in order."""
        service = self.start()
        self.send_rest(sent, service)
        if len(sent.acknowledged) != SLICES:
            self.mistakes.append(f"{SLICES - len(sent.acknowledged)} instances were never acknowledged to the sender")
        if not wait(self.is_drained):
            self.mistakes.append(f"a series was not brought through: {self.standing()}")
        service.send_signal(signal.SIGTERM)
        if not wait(lambda: service.poll() is not None):
            self.mistakes.append("the service did not end on SIGTERM")
            service.kill()
        elif service.returncode != 0:
            self.mistakes.append(f"the service ended with {service.returncode} on SIGTERM")

    def start(self, *faults: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.support.checkpoints", *faults, "--"]
        command += ["serve", "--config", str(self.folder / "node.toml")]
        variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with self.log.open("ab") as said:
            service = subprocess.Popen(command, cwd=self.folder, env=variables, stdout=said, stderr=said)
        wait(lambda: is_listening(self.port) or service.poll() is not None)
        return service

    def send_rest(self, sent: Sent, service: subprocess.Popen[bytes]) -> None:
        """storescu with what it has not seen acknowledged, until all is or the node dies."""
        while service.poll() is None and (rest := [path for path in sent.files if path not in sent.acknowledged]):
            command = [program("storescu"), "-v", "-aec", "DICOMNODE", "127.0.0.1", str(self.port), *map(str, rest)]
            said = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False, timeout=120)
            lines = re.findall(r"Sending file: (.*)|(Received Store Response \(Success\))", said.stdout + said.stderr)
            for (path, _), (_, is_stored) in pairwise(lines):
                if path and is_stored:
                    sent.acknowledged.add(Path(path))

    def query(self, question: str, *parameters: object) -> list[tuple[str, ...]]:
        with closing(sqlite3.connect(self.data / "ledger.sqlite", timeout=30)) as connection:
            return connection.execute(question, parameters).fetchall()

    def items(self, peer: str) -> list[tuple[str, ...]]:
        """(SOP Instance UID, state) of every item of the peer's deliveries."""
        return self.query(
            "SELECT i.sop_instance_uid, t.state FROM delivery_item t JOIN delivery d ON d.id = t.delivery_id "
            "JOIN instance i ON i.id = t.instance_id WHERE d.peer = ?",
            peer,
        )

    def is_drained(self) -> bool:
        series = self.query("SELECT state FROM series WHERE origin = 'received' AND first_at IS NOT NULL")
        jobs = self.query("SELECT state FROM job")
        deliveries = self.query("SELECT state FROM delivery")
        return (
            len(series) == len(self.series)
            and {state for (state,) in series} == {"planned"}
            and len(jobs) == len(self.series)
            and {state for (state,) in jobs} == {"done"}
            and {state for (state,) in deliveries} == {"sent"}
        )

    def standing(self) -> str:
        parts = []
        for table in ("series", "job", "delivery"):
            counts = Counter(state for (state,) in self.query(f"SELECT state FROM {table}"))  # noqa: S608
            parts.append(f"{table} {dict(counts)}")
        return ", ".join(parts)

    def check_received(self) -> None:
        """Everything that the sender saw acknowledged is there, byte for byte."""
        rows = self.query("SELECT sop_instance_uid, sha256, file FROM instance WHERE origin = 'received'")
        kept = {uid: (sha256, file) for uid, sha256, file in rows}
        for sent in self.series:
            for path in sent.acknowledged:
                uid, sha256 = sent.files[path]
                if uid not in kept:
                    self.mistakes.append(f"an acknowledged instance has no row: {path.name} of {path.parent.name}")
                    continue
                file = self.data / "archive" / kept[uid][1]
                if kept[uid][0] != sha256 or digest(dataset_bytes(file)) != sha256:
                    self.mistakes.append(f"an acknowledged instance was changed: {path.name} of {path.parent.name}")

    def check_delivered(self) -> None:
        """Check that what was delivered is what was made: once, unchanged, all of it and nothing else."""
        rows = self.query("SELECT sop_instance_uid, sha256 FROM instance WHERE origin = 'derived'")
        derived = {uid: sha256 for uid, sha256 in rows}
        if len(derived) != len(self.series) * SLICES * RATIO:
            self.mistakes.append(f"{len(derived)} derived instances, not {len(self.series) * SLICES * RATIO}")
        lives = [0, *(death.arrivals for death in self.deaths), len(self.pacs.arrivals)]
        for begin, end in pairwise(lives):
            again = Counter(one.sop_instance_uid for one in self.pacs.arrivals[begin:end])
            self.mistakes += [f"an instance came {count} times in one life" for count in again.values() if count > 1]
        for death in self.deaths:
            late = {one.sop_instance_uid for one in self.pacs.arrivals[death.arrivals :]}
            for _ in late & death.acknowledged:
                self.mistakes.append(f"an instance acknowledged in the ledger went again after {death.seam}")
        came = {(one.sop_instance_uid, one.sha256) for one in self.pacs.arrivals}
        if came != set(derived.items()):
            self.mistakes.append(f"the double has {len(came)} contents of {len(derived)} derived instances")
        if self.orthanc is not None and sorted(self.orthanc.sop_instance_uids()) != sorted(derived):
            self.mistakes.append("Orthanc does not end with exactly the derived instances")
        if self.orthanc is not None and len(self.orthanc.series()) != len(self.series):
            self.mistakes.append(f"Orthanc has {len(self.orthanc.series())} series of {len(self.series)}")


def wait(condition: Callable[[], object], limit_s: float = LIFE_LIMIT_S) -> bool:
    """Did the condition become true within the limit?"""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def deal(kills: int, chance: random.Random) -> Iterator[list[Seam]]:
    """Rounds of seams, each in order; every seam comes once before any comes again."""
    deck: list[Seam] = []
    while kills > 0:
        hand: list[Seam] = []
        while len(hand) < min(KILLS_A_ROUND, kills):
            if not deck:
                deck = chance.sample(SEAMS, len(SEAMS))
            hand.append(deck.pop())
        kills -= len(hand)
        yield sorted(hand, key=SEAMS.index)


def run(kills: int, *, folder: Path, seed: int = 1) -> Campaign:
    """Kill the node so many times; return the campaign with its mistakes, none of which there should be."""
    chance = random.Random(seed)  # noqa: S311 (which seam, not a secret)
    with ExitStack() as stack:
        pacs = stack.enter_context(MisbehavingPacs())
        has_orthanc = shutil.which("Orthanc") is not None
        foreign = (
            stack.enter_context(orthanc(folder / "orthanc", settings={"DicomAet": "PACS"})) if has_orthanc else None
        )
        campaign = Campaign(folder=folder, pacs=pacs, orthanc=foreign, port=free_port())
        campaign.write_config()
        for seams in deal(kills, chance):
            campaign.round(seams, [chance.randint(1, seam.hits) for seam in seams])
        campaign.check_received()
        campaign.check_delivered()
        return campaign


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--toy", action="store_true", help="5 kills")
    parser.add_argument("--keep", type=Path, help="a folder to work in, kept afterwards")
    options = parser.parse_args()
    if find_program("storescu") is None:
        print("skipped: DCMTK is not installed")
        return 0
    began_s = time.monotonic()
    with ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kill-")))
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            sys.exit(f"{folder} is not empty; name a new folder with --keep")
        campaign = run(5 if options.toy else options.kills, folder=folder, seed=options.seed)
        repeats = len(campaign.pacs.arrivals) - len(campaign.pacs.digests())
        for seam, count in sorted(Counter(death.seam for death in campaign.deaths).items()):
            print(f"{seam:24} {count:3} kills")
        for mistake in campaign.mistakes:
            print(f"MISTAKE: {mistake}")
        print(
            f"{len(campaign.deaths)} kills, {len(campaign.series)} series, {time.monotonic() - began_s:.0f} s, "
            f"Orthanc {'beside' if campaign.orthanc else 'absent'}"
        )
        print(
            f"{sum(len(sent.acknowledged) for sent in campaign.series)} instances acknowledged to the sender, "
            f"{len(campaign.pacs.digests())} at the PACS, {repeats} sent again since their acknowledgement was not "
            "committed yet"
        )
        print(f"mistakes: {len(campaign.mistakes)} (bar 0) {'FAIL' if campaign.mistakes else 'pass'}")
        return 1 if campaign.mistakes else 0


if __name__ == "__main__":
    sys.exit(main())
