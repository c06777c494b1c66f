"""kill -9 of ``dicomnode serve`` at every seam of its work: is anything lost, changed or doubled?

    python bench/kill.py                  20 kills (about 3 minutes)
    python bench/kill.py --kills 200      the published number
    python bench/kill.py --toy            a few, to see that it still runs

Each round sends one small MR study with DCMTK's ``storescu`` to a real service on one data folder for all rounds: a
series to be derived, one beside it that the rule does not choose, and one that is kept, whose first instance comes once
more with other bytes. The service is killed at a seam, started again, killed at a later one, and so on; what was not
acknowledged is sent again. Then it starts once without a kill and must bring the study through: settled, derived, at
both PACSs. The seams of the worker kill the worker first; the service is killed while it starts another. Images go by
their age, at the next start at the earliest. At the seam of ``purge`` the patient of the round before is erased: the
command is killed, then the service. Which seams there are, and why some are left out, says ``tests/support/seams.py``.

Two peers get every derived series: a PACS double that writes down each C-STORE request, and Orthanc where there is
one. Checked after each kill and at the end, against the files that were sent and by SQL against the ledger:

- every instance that storescu saw acknowledged is in the archive or set aside, with the digest of what was sent, or
  went by its age or with its patient, one that was derived from only after the result was sent;
- folders and ledger name the same files, and none is of a patient who was erased;
- no instance goes to a peer again whose acknowledgement was in the ledger when the service died;
- what goes again has the same digest;
- both PACSs end with exactly the derived instances, one derived series for each study.
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
from typing import IO

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid

from dicomnode.ids import digest
from tests.support.dcmtk import environment, find_program, free_port, is_listening, program
from tests.support.dicom import dataset_bytes
from tests.support.misbehaving_pacs import MisbehavingPacs
from tests.support.mr_series import mr_datasets, write_series
from tests.support.orthanc import Orthanc, orthanc
from tests.support.seams import KILLED, RATIO, SLICES, Seam

ROOT = Path(__file__).resolve().parents[1]
LIFE_LIMIT_S = 90.0  # until a seam is reached, or everything is done
KILLS_A_ROUND = 5
QUIET_S = 2.0  # longer than a restart takes to listen again plus the sending of a study
KEPT_S = 0.5  # images may go so soon after everything that was done with them


CONFIG = """
[node]
listen = "127.0.0.1:{port}"
data = "{data}"
[settle]
quiet_s = {quiet_s}
aborted_wait_s = {quiet_s}
study_quiet_s = {quiet_s}
[archive]
keep_days = {keep_days}
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
name = "one series of each study"
model = "cubic-dc"
select = "most_slices"
deliver_to = [{deliver_to}]
"""
PEER = '[[peer]]\nname = "{name}"\nae_title = "PACS"\naddress = "127.0.0.1:{port}"\n'


@dataclass(slots=True, kw_only=True)
class Sent:
    """A study on the sender's side."""

    patient: str
    files: dict[Path, str]  # digest of its dataset
    acknowledged: set[Path] = field(default_factory=set)


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """The state of the round when the service died."""

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
    studies: list[Sent] = field(default_factory=list)
    erased: set[str] = field(default_factory=set)  # patients
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
            keep_days=f"{KEPT_S / 86400:.9f}",
            peers="".join(PEER.format(name=name, port=port) for name, port in ports.items()),
            deliver_to=", ".join(f'"{name}"' for name in ports),
        )
        (self.folder / "node.toml").write_text(text)

    def round(self, seams: Sequence[Seam], hits: Sequence[int]) -> None:
        """One new study, killed at each seam in turn, then brought through."""
        before = self.studies[-1].patient if self.studies else ""
        sent = study(self.folder / f"study{len(self.studies)}", f"P-{len(self.studies)}")
        self.studies.append(sent)
        for seam, hit in zip(seams, hits, strict=True):
            if seam.is_purged:
                self.purge_until_killed(before, seam, hit)
            else:
                self.live_until_killed(sent, seam, hit)
        self.bring_through(sent)

    def purge_until_killed(self, patient: str, seam: Seam, hit: int) -> None:
        """Erase a patient beside the service, which dies once the command is killed."""
        service = self.start()
        self.erased.add(patient)
        if (code := self.purge(patient, "--kill", f"{seam.name}:{hit}")) != -signal.SIGKILL:
            self.mistakes.append(f"purge ended with {code} before {seam.name}:{hit}")
        service.kill()
        service.wait()
        self.write_down(seam)

    def purge(self, patient: str, *faults: str) -> int:
        with self.log.open("ab") as said:
            return self.command(*faults, "--", "purge", "--patient", patient, said=said).wait(LIFE_LIMIT_S)

    def live_until_killed(self, sent: Sent, seam: Seam, hit: int) -> None:
        """Start with a kill at the seam; the death is written down once the process is gone."""
        service = self.start("--kill", f"{seam.name}:{hit}")
        self.send_rest(sent, service)
        if seam.kills_worker:
            said = self.log.stat().st_size
            if not wait(lambda: "worker_ended" in self.log.read_text()[said:] or service.poll() is not None):
                self.mistakes.append(f"{seam.name}:{hit} was never reached")
            service.kill()
        if not wait(lambda: service.poll() is not None):
            self.mistakes.append(f"{seam.name}:{hit} was never reached")
            service.kill()
        if service.wait() != -signal.SIGKILL:
            self.mistakes.append(f"the service ended by itself with {service.returncode} before {seam.name}:{hit}")
        wait(self.pacs.is_idle)  # what was on the wire when it died still arrives
        self.write_down(seam)

    def write_down(self, seam: Seam) -> None:
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
        said = self.log.stat().st_size if self.log.exists() else 0
        service = self.start()
        self.send_rest(sent, service)
        if rest := len(sent.files) - len(sent.acknowledged):
            self.mistakes.append(f"{rest} instances were never acknowledged to the sender")
        if not wait(lambda: self.is_drained() and "archive_swept" in self.log.read_text()[said:]):
            self.mistakes.append(f"a study was not brought through: {self.standing()}")
        for patient in self.erased:
            if (code := self.purge(patient)) != 0:
                self.mistakes.append(f"purge ended with {code}, and nothing killed it")
        service.send_signal(signal.SIGTERM)
        if not wait(lambda: service.poll() is not None):
            self.mistakes.append("the service did not end on SIGTERM")
            service.kill()
        elif service.returncode != 0:
            self.mistakes.append(f"the service ended with {service.returncode} on SIGTERM")
        self.check_archive()
        time.sleep(KEPT_S)  # the next start finds a study whose images may go

    def start(self, *faults: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as said:
            service = self.command(*faults, "--", "serve", said=said)
        wait(lambda: is_listening(self.port) or service.poll() is not None)
        return service

    def command(self, *words: str, said: IO[bytes]) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-m",
            "tests.support.checkpoints",
            *words,
            "--config",
            str(self.folder / "node.toml"),
        ]
        variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, cwd=self.folder, env=variables, stdout=said, stderr=said)

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
        count = len(self.studies)
        series = self.query("SELECT state FROM series WHERE origin = 'received' AND first_at IS NOT NULL")
        jobs = self.query("SELECT state FROM job")
        deliveries = self.query("SELECT state FROM delivery")
        return (
            Counter(state for (state,) in series) == {"planned": count, "kept": 2 * count}
            and Counter(state for (state,) in jobs) == {"done": count}
            and {state for (state,) in deliveries} == {"sent"}
            and not self.query("SELECT id FROM commitment WHERE state IN ('wanted', 'asked')")
        )

    def standing(self) -> str:
        parts = []
        for table in ("series", "job", "delivery"):
            counts = Counter(state for (state,) in self.query(f"SELECT state FROM {table}"))  # noqa: S608
            parts.append(f"{table} {dict(counts)}")
        return ", ".join(parts)

    def check_received(self) -> None:
        """Everything that the sender saw acknowledged is there, byte for byte, or went once its result was sent."""
        rows = self.query("SELECT sha256, file, removed_at FROM instance WHERE origin = 'received'")
        kept = {sha256: (self.data / "archive" / file, removed_at) for sha256, file, removed_at in rows}
        aside = self.query("SELECT sha256, file, removed_at FROM quarantine WHERE reason = 'conflict'")
        kept |= {sha256: (self.data / "quarantine" / file, removed_at) for sha256, file, removed_at in aside}
        for sent in self.studies:
            for path in sent.acknowledged:
                file, removed_at = kept.get(sent.files[path], (None, None))
                if file is None:
                    self.mistakes.append(f"an acknowledged instance has no row: {path.name} of {path.parent}")
                elif removed_at is None and digest(dataset_bytes(file)) != sent.files[path]:
                    self.mistakes.append(f"an acknowledged instance was changed: {path.name} of {path.parent}")

        early = self.query(
            "SELECT DISTINCT i.file FROM instance i JOIN series s ON s.id = i.series_id LEFT JOIN delivery d "
            "ON d.series_id = s.id WHERE s.origin = 'received' AND s.state <> 'kept' AND i.removed_at IS NOT NULL "
            "AND d.state IS NOT 'sent'"
        )
        self.mistakes += [f"an instance went before its result was sent: {file}" for (file,) in early]

    def check_archive(self) -> None:
        """Check that the folders hold the files of the rows, and nothing of a patient who was erased."""
        for name, table in (("archive", "instance"), ("quarantine", "quarantine")):
            folder = self.data / name
            rows = {file for (file,) in self.query(f"SELECT file FROM {table} WHERE removed_at IS NULL")}  # noqa: S608
            files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
            if rows != files:
                self.mistakes.append(f"{name}: {len(rows - files)} rows lack a file, {len(files - rows)} files a row")
            for file in files:
                if str(dcmread(folder / file, stop_before_pixels=True).PatientID) in self.erased:
                    self.mistakes.append(f"{name} holds a file of a patient who was erased")

    def check_delivered(self) -> None:
        """Check that what was delivered is what was made: once, unchanged, all of it and nothing else."""
        rows = self.query("SELECT sop_instance_uid, sha256 FROM instance WHERE origin = 'derived'")
        derived = {uid: sha256 for uid, sha256 in rows}
        if len(derived) != len(self.studies) * SLICES * RATIO:
            self.mistakes.append(f"{len(derived)} derived instances, not {len(self.studies) * SLICES * RATIO}")
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
        if self.orthanc is not None and len(self.orthanc.series()) != len(self.studies):
            self.mistakes.append(f"Orthanc has {len(self.orthanc.series())} series of {len(self.studies)}")


def study(folder: Path, patient: str) -> Sent:
    """Write a series that is kept, one to be derived, one of fewer slices, and the first instance with other bytes."""
    files: dict[Path, str] = {}
    attributes: dict[str, object] = {"StudyInstanceUID": generate_uid(), "PatientID": patient}

    def add(name: str, datasets: list[Dataset]) -> None:
        files.update({path: digest(dataset_bytes(path)) for path in write_series(folder / name, datasets)})

    kept = mr_datasets(slices=3, attributes=attributes)
    add("kept", kept)
    add("most", mr_datasets(slices=SLICES, attributes=attributes))
    add("few", mr_datasets(slices=SLICES - 2, attributes=attributes))
    kept[0].RepetitionTime = "3000"
    add("other", kept[:1])
    return Sent(patient=patient, files=files)


def wait(condition: Callable[[], object], limit_s: float = LIFE_LIMIT_S) -> bool:
    """Did the condition become true within the limit?"""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def deal(kills: int, chance: random.Random) -> Iterator[list[Seam]]:
    """Rounds of different seams, each in order; every seam comes once before any comes again."""
    deck: list[Seam] = []
    while kills > 0:
        hand: list[Seam] = []
        while len(hand) < min(KILLS_A_ROUND, kills):
            passed = {name for seam in hand for name in (seam.name, *seam.hides)}
            cards = [seam for seam in deck if passed.isdisjoint((seam.name, *seam.hides))]
            if cards:
                hand.append(cards[-1])
                deck.remove(cards[-1])
            else:
                deck = chance.sample(KILLED, len(KILLED)) + deck
        kills -= len(hand)
        yield sorted(hand, key=KILLED.index)


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
        if foreign is not None:
            foreign.register("DICOMNODE", campaign.port)  # so that it reports what it keeps
        campaign.round([], [])  # for the seams that a round passes with what the one before has left
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
            f"{len(campaign.deaths)} kills, {len(campaign.studies)} studies, {time.monotonic() - began_s:.0f} s, "
            f"Orthanc {'beside' if campaign.orthanc else 'absent'}"
        )
        print(
            f"{sum(len(sent.acknowledged) for sent in campaign.studies)} instances acknowledged to the sender, "
            f"{len(campaign.pacs.digests())} at the PACS, {repeats} sent again since their acknowledgement was not "
            "committed yet"
        )
        print(f"mistakes: {len(campaign.mistakes)} (bar 0) {'FAIL' if campaign.mistakes else 'pass'}")
        return 1 if campaign.mistakes else 0


if __name__ == "__main__":
    sys.exit(main())
