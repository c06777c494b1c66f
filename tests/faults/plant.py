"""Plants ten bugs, one after the other, and demands that tests fail by each: `python tests/faults/plant.py`.

A test that cannot fail protects nobody. Each bug is a change of the source text in a copy of the checkout; the text
must be there exactly once, else the script says so and fails. The tests that are named with a bug are run in that copy:
first without any bug, when they must pass, then with it, when they must fail. `--only WORD` plants those whose name has
the word.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
COPIED = ("dicomnode", "migrations", "etc", "tests", "pyproject.toml")
LIMIT_S = 600.0
PASSED, FAILED = 0, 1  # exit codes of pytest; every other means that it could not run the tests


@dataclass(frozen=True, slots=True, kw_only=True)
class Bug:
    """A change that a hurried person might make, and the tests that have to notice it."""

    name: str
    file: str
    text: str  # that is there now
    planted: str  # in its place
    tests: tuple[str, ...]


BUGS = (
    Bug(
        name="the folder is not flushed after the rename",
        file="dicomnode/receive/intake.py",
        text="            self._archive.sync([series])\n",
        planted="",
        tests=("tests/receive/test_scp.py::test_name_and_bytes_of_a_file_are_flushed_before_its_row_is_committed",),
    ),
    Bug(
        name="a lease is not checked when the job is finished",
        file="dicomnode/ledger/jobs.py",
        text='_MINE = and_(job.c.id == bound("job"), job.c.lease_token == bound("token"))',
        planted='_MINE = and_(job.c.id == bound("job"), bound("token").is_not(None))',
        tests=("tests/ledger/test_jobs.py::test_who_lost_the_lease_changes_nothing",),
    ),
    Bug(
        name="the derived stack lies half a slice too far",
        file="dicomnode/derive/facts.py",
        text="self.thin.origin_mm + index * self.thin.slice_step_mm",
        planted="self.thin.origin_mm + (index + 0.5) * self.thin.slice_step_mm",
        tests=("tests/test_derive.py", "tests/gate/test_reread.py"),
    ),
    Bug(
        name="an instance is acknowledged before its row is committed",
        file="dicomnode/receive/intake.py",
        text="            outcome = self._commit.accept(instance)\n",
        planted="            import threading\n\n"
        "            threading.Timer(0.3, self._commit.accept, [instance]).start()\n"
        "            outcome = StoreOutcome.STORED\n",
        tests=("tests/receive/test_scp.py::test_success_means_bytes_on_disk_and_a_row",),
    ),
    Bug(
        name="a second copy of an instance is not seen",
        file="dicomnode/receive/intake.py",
        text="        if outcome is not StoreOutcome.STORED:\n",
        planted="        if outcome is None:\n",
        tests=("tests/receive/test_scp.py::test_the_same_object_again_is_success_and_one_copy",),
    ),
    Bug(
        name="a wrong AE title is rejected with the wrong code",
        file="dicomnode/wire.py",
        text="CALLED_UNKNOWN = Rejection(\n    result=1, source=1, reason=7,",
        planted="CALLED_UNKNOWN = Rejection(\n    result=1, source=1, reason=3,",
        tests=("tests/receive/test_admission.py::test_each_obstacle_has_its_code",),
    ),
    Bug(
        name="a patient's name is in the log",
        file="dicomnode/receive/intake.py",
        text="        received_at = self._clock.now()\n",
        planted="        received_at = self._clock.now()\n"
        '        log.event(LOGGER, "object_not_understood", detail=bytes(offer.dataset[:4096]).decode("latin-1"))\n',
        tests=("tests/receive/test_own_words.py",),
    ),
    Bug(
        name="a failed delivery is tried again at once",
        file="dicomnode/push/peer_loop.py",
        text="    return chance.uniform(push.backoff_min_s, ",
        planted="    return 0.0 * chance.uniform(push.backoff_min_s, ",
        tests=("tests/push/test_peer_loop.py::test_the_backoff_doubles_with_full_jitter_between_its_limits",),
    ),
    Bug(
        name="the result gate is skipped",
        file="dicomnode/pipeline.py",
        text="        findings=(*findings, *reread.findings()),\n",
        planted="        findings=(),\n",
        tests=("tests/test_pipeline.py::test_the_result_gate_looks_at_the_volume_and_at_every_file",),
    ),
    Bug(
        name="a report of commitment is thrown away",
        file="dicomnode/reports.py",
        text="        is_known = ledger.commitments.take_report(\n"
        "            report.transaction_uid, peer=peer, committed=report.committed, failed=report.failed\n"
        "        )\n",
        planted="        is_known = True\n",
        tests=("tests/push/test_proofs.py::test_a_report_on_a_new_association_commits_the_delivery",),
    ),
)


class NotPlantedError(Exception):
    """The text to be changed is not there exactly once."""


def planted_text(bug: Bug, root: Path = CHECKOUT) -> str:
    """Return the text of the bug's file with the bug in it. Raises NotPlantedError."""
    text = (root / bug.file).read_text("utf-8")
    if text.count(bug.text) != 1:
        raise NotPlantedError(
            f"{bug.name}: its text is {text.count(bug.text)} times in {bug.file}. Adapt the bug to it."
        )
    return text.replace(bug.text, bug.planted)


def run_tests(root: Path, tests: Iterable[str]) -> tuple[int, str]:
    """Run tests in a copy of the checkout; the exit code of pytest, and its last lines."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:randomly", *tests]
    paths = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    ran = subprocess.run(command, cwd=root, env=paths, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    return ran.returncode, "\n".join((ran.stdout + ran.stderr).splitlines()[-30:])


def main(words: list[str] | None = None) -> int:
    """Plant, run, and print a table; 0: every bug was caught."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", metavar="WORD", help="plant only the bugs whose name has this word")
    wanted = [bug for bug in BUGS if parser.parse_args(words).only in bug.name]
    with tempfile.TemporaryDirectory(prefix="planted-") as place:
        root = Path(place)
        for name in COPIED:
            source = CHECKOUT / name
            if source.is_dir():
                shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, root / name)
        code, said = run_tests(root, dict.fromkeys(test for bug in wanted for test in bug.tests))
        if code != PASSED:
            _print(f"Without any bug the tests do not pass (pytest ended with {code}):\n{said}")
            return 1
        results = [(bug, *_caught(bug, root)) for bug in wanted]
    width = max(len(bug.name) for bug in wanted)
    for bug, is_caught, said in results:
        _print(f"{bug.name:{width}}  {'caught' if is_caught else f'NOT CAUGHT: {said}'}")
    missed = sum(not is_caught for _, is_caught, _ in results)
    _print(f"{len(results) - missed} of {len(results)} planted bugs were caught.")
    return int(missed > 0)


def _caught(bug: Bug, root: Path) -> tuple[bool, str]:
    """Plant one bug, run its tests, and take it out again; was it caught, and what was said."""
    file = root / bug.file
    sound = file.read_text("utf-8")
    try:
        file.write_text(planted_text(bug, root), "utf-8")
    except NotPlantedError as exc:
        return False, str(exc)
    try:
        code, said = run_tests(root, bug.tests)
    except subprocess.TimeoutExpired:
        return False, f"its tests did not end within {LIMIT_S:.0f} s"
    finally:
        file.write_text(sound, "utf-8")
    return code == FAILED, "its tests passed" if code == PASSED else f"pytest ended with {code}:\n{said}"


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
