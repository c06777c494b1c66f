"""A run over many series: each is derived once, a run that ended goes on, and what was not derived has a reason."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import pytest

from dicomnode.errors import ClusterError, InputError, ModelError, StorageError
from dicomnode.generators.base import Generated, Progress, no_sharpness
from dicomnode.generators.cubic_dc import CubicDc
from dicomnode.imaging.profile import ThinGrid
from dicomnode.imaging.volume import Volume
from dicomnode.offline.many import Run, open_run
from dicomnode.offline.series import LoadedModel, load_model
from dicomnode.offline.state import ATTEMPTS, STATE_FILE, State
from dicomnode.seams import set_checkpoint_hook
from tests.support.checkpoints import install, parse_fault
from tests.support.model_folders import write_thin
from tests.support.mr_series import write_mr_series

ROOT = Path(__file__).resolve().parents[2]
SEAMS = ("offline.listed", "durable.written:9", "offline.written", "offline.made", "offline.published:2")
RUNS = 1000  # at most, of the test with timed kills
KILLED_AFTER_S = (3.0, 9.0)  # the start of the command included


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Four series that can be derived."""
    for name in ("a", "b", "c", "d"):
        write_mr_series(tmp_path / "archive" / name)
    return tmp_path / "archive"


@dataclass(frozen=True, kw_only=True)
class Failing:
    """A model that fails for every series."""

    error: Exception
    name: str = "cubic-dc"
    digest: str = CubicDc().digest
    consistency: bool = True
    sharpness: float | None = None

    def at(self, sharpness: float) -> Self:
        """Refuse."""
        raise no_sharpness(self.name, sharpness)

    def generate(self, thick: Volume, grid: ThinGrid, *, device: str, progress: Progress | None = None) -> Generated:
        """Fail."""
        del thick, grid, device, progress
        raise self.error


@dataclass(kw_only=True)
class Waiting:
    """A model whose first call waits until others do; then it fails where it is to."""

    together: threading.Barrier | None
    error: Exception | None = None
    name: str = "cubic-dc"
    digest: str = CubicDc().digest
    consistency: bool = True
    sharpness: float | None = None

    def at(self, sharpness: float) -> Self:
        """Refuse."""
        raise no_sharpness(self.name, sharpness)

    def generate(self, thick: Volume, grid: ThinGrid, *, device: str, progress: Progress | None = None) -> Generated:
        """Wait, fail or derive."""
        together, self.together = self.together, None
        if together is not None:
            together.wait()
        if self.error is not None:
            raise self.error
        return CubicDc().generate(thick, grid, device=device, progress=progress)


@pytest.fixture
def full_disk() -> Iterator[None]:
    """From the 30th file on; until the test is over, or takes the hook away."""
    install([parse_fault("error", "durable.written:30+:ENOSPC")])
    yield
    set_checkpoint_hook(None)


def cubic() -> LoadedModel:
    """The model that is always there and needs no torch."""
    return load_model("cubic-dc", sharpness=None, with_uncertainty=False, device="cpu")


def derive_all(out: Path, *archive: Path, model: LoadedModel | None = None) -> dict[str, State]:
    """A run in this process; folder of the series → what became of it."""
    with open_run(out, archive, model or cubic(), progress=lambda _stage, _share: None) as run:
        run.derive_all(lambda _stage, _share: None)
        return states(run)


def several_at_once(out: str, archive: str) -> None:
    """A run in this process that derives three series at once."""
    with open_run(Path(out), [Path(archive)], cubic(), progress=lambda _stage, _share: None) as run:
        run.derive_all(lambda _stage, _share: None, others=[cubic(), cubic()])


def states(run: Run) -> dict[str, State]:
    """Folder of the series → what became of it."""
    return {row.first.parent.name: row.state for row in run.rows()}


def files_of(out: Path) -> dict[str, bytes]:
    """Every derived file, and whatever else is there but the state file."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != STATE_FILE
    }


def published(out: Path) -> set[tuple[str, int]]:
    """Every derived file with its inode, which another derivation would change."""
    return {(str(path), path.stat().st_ino) for path in out.glob("[0-9]*/[0-9]*/*.dcm")}


def begin(out: Path, archive: Path, *faults: str) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    words = ["infer", "--archive", archive, "--out", out, "--model", "cubic-dc", "--device", "cpu"]
    command = [sys.executable, "-m", "tests.support.checkpoints", *faults, "--", *map(str, words)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def derived_in_one_go(killed: Path, out: Path, archive: Path) -> dict[str, bytes]:
    """What a run with the choices, the namespace and the moments of ``killed`` writes that nobody kills."""
    out.mkdir()
    shutil.copy(killed / STATE_FILE, out / STATE_FILE)
    with closing(sqlite3.connect(out / STATE_FILE)) as database, database:
        database.execute("UPDATE series SET state = 'waiting', attempts = 0, result = NULL")
    assert set(derive_all(out, archive).values()) == {State.DERIVED}
    return files_of(out)


@pytest.mark.faults
def test_whatever_seam_it_dies_at_each_series_is_derived_once_and_to_the_same_bytes(
    archive: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    before = published(out)
    for seam in SEAMS:
        with begin(out, archive, "--kill", seam) as process:
            process.communicate()
        assert process.returncode == -signal.SIGKILL, seam
        assert before <= published(out), "what was there is not derived again"
        before = published(out)
    assert set(derive_all(out, archive).values()) == {State.DERIVED}
    assert before <= published(out)
    assert len(files_of(out)) == 4 * 24, "and nothing half done is left"
    assert files_of(out) == derived_in_one_go(out, tmp_path / "reference", archive)


@pytest.mark.faults
@pytest.mark.thorough
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("count", [200, 2000])
def test_many_series_with_kills_every_few_seconds(tmp_path: Path, count: int) -> None:
    archive, out = tmp_path / "archive", tmp_path / "out"
    for number in range(count):
        write_mr_series(archive / f"{number:04}", slices=5, size=8)
    with begin(out, archive, "--kill", "offline.listed") as process:  # looking at 10,000 files takes longer
        process.communicate()
    draw, before, kills = random.Random(7), published(out), 0  # noqa: S311 (no secret)
    for _ in range(RUNS):
        with begin(out, archive) as process:
            try:
                process.communicate(timeout=draw.uniform(*KILLED_AFTER_S))
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
        assert before <= published(out)
        before = published(out)
        if process.returncode == 0:
            break
        assert process.returncode in (-signal.SIGKILL, 2), "killed, or one series was unlucky three times"
        kills += process.returncode != 2
    assert process.returncode == 0
    assert kills > count // 200
    assert len(before) == count * 20
    assert files_of(out) == derived_in_one_go(out, tmp_path / "reference", archive)


def test_several_at_once_are_the_same_bytes(archive: Path, tmp_path: Path) -> None:
    out, together = tmp_path / "out", threading.Barrier(3, timeout=60)
    models = [replace(cubic(), generator=Waiting(together=together)) for _ in range(3)]
    with open_run(out, [archive], models[0], progress=lambda _stage, _share: None) as run:
        run.derive_all(lambda _stage, _share: None, others=models[1:])
        assert states(run) == dict.fromkeys("abcd", State.DERIVED)
    assert files_of(out) == derived_in_one_go(out, tmp_path / "reference", archive)


@pytest.mark.parametrize("seam", ["offline.begun:3", "offline.written:2", "offline.made:2", "offline.published:2"])
def test_killed_with_several_at_once_each_is_derived_once(archive: Path, tmp_path: Path, seam: str) -> None:
    out = tmp_path / "out"
    script = f"from tests.offline.test_many import several_at_once; several_at_once({str(out)!r}, {str(archive)!r})"
    dies = f"from tests.support.checkpoints import install, parse_fault; install([parse_fault('kill', {seam!r})])"
    done = subprocess.run([sys.executable, "-c", f"{dies}; {script}"], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    before = published(out)
    several_at_once(str(out), str(archive))
    assert before <= published(out), "what was there is not derived again"
    assert files_of(out) == derived_in_one_go(out, tmp_path / "reference", archive)


def test_an_error_in_one_of_several_ends_the_run_and_the_others_finish_their_series(
    archive: Path, tmp_path: Path
) -> None:
    out, together = tmp_path / "out", threading.Barrier(2, timeout=60)
    good = replace(cubic(), generator=Waiting(together=together))
    gone = replace(cubic(), generator=Waiting(together=together, error=ClusterError("No worker offers it.")))
    with open_run(out, [archive], good, progress=lambda _stage, _share: None) as run:
        with pytest.raises(ClusterError, match=r"No worker offers it\. Of 4 series: "):
            run.derive_all(lambda _stage, _share: None, others=[gone])
        assert sorted(states(run).values()) == [State.DERIVED, State.WAITING, State.WAITING, State.WAITING]
    assert set(derive_all(out, archive).values()) == {State.DERIVED}


def test_a_series_whose_worker_dies_each_time_is_given_up_after_the_others(archive: Path, tmp_path: Path) -> None:
    lost = replace(cubic(), generator=Failing(error=ClusterError("Its worker died.", begun=True)))
    with open_run(tmp_path / "out", [archive], lost, progress=lambda _stage, _share: None) as run:
        run.derive_all(lambda _stage, _share: None, others=[lost])
        assert {(row.state, row.reason) for row in run.rows()} == {(State.FAILED, "lost")}


def test_an_interrupted_run_says_how_to_go_on_and_leaves_nothing_half_done(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with begin(out, archive, "--delay", "durable.written:30:600") as process:
        assert process.stderr is not None
        while not (line := process.stderr.readline()).endswith("series 2 of 4\n"):
            assert line, "it ended before"
        process.send_signal(signal.SIGINT)
        said = process.communicate()[1]
    assert process.returncode == 130
    assert "Of 4 series: 3 waiting, 1 derived. The same command goes on with the others." in said
    assert len(files_of(out)) == 24
    with closing(sqlite3.connect(out / STATE_FILE)) as database:
        assert database.execute("SELECT max(attempts) FROM series WHERE state = 'waiting'").fetchone() == (0,)
    assert set(derive_all(out, archive).values()) == {State.DERIVED}


@pytest.mark.faults
def test_a_series_during_which_the_process_ends_comes_last_and_after_three_times_not_at_all(
    archive: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for begun in (1, 4, 1):  # the first series, each time
        with begin(out, archive, "--kill", f"offline.begun:{begun}") as process:
            process.communicate()
        assert process.returncode == -signal.SIGKILL
    assert len(published(out)) == 3 * 24, "the others did not wait for it"
    with open_run(out, [archive], cubic(), progress=lambda _stage, _share: None) as run:
        run.derive_all(lambda _stage, _share: None)
        killed, *others = run.rows()
    assert (killed.state, killed.reason) == (State.FAILED, "killed")
    assert f"ended {ATTEMPTS} times" in killed.sentence
    assert {row.state for row in others} == {State.DERIVED}
    assert set(derive_all(out, archive).values()) == {State.DERIVED}, "whoever starts it again means it"


def test_what_cannot_be_read_is_tried_again_and_what_has_changed_is_refused(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    gone, changed = archive / "b" / "0002.dcm", archive / "c" / "0003.dcm"
    with open_run(out, [archive], cubic(), progress=lambda _stage, _share: None) as run:
        gone.rename(tmp_path / "kept")
        os.utime(changed, ns=(0, 0))
        run.derive_all(lambda _stage, _share: None)
        rows = {row.first.parent.name: row for row in run.rows()}
        assert not run.is_complete
    assert {name: row.state for name, row in rows.items()} == {
        "a": State.DERIVED, "b": State.UNREADABLE, "c": State.REFUSED, "d": State.DERIVED
    }  # fmt: skip
    assert rows["c"].sentence == "Its files have changed since the run began."
    assert not (out / "000" / "000003").exists()
    (tmp_path / "kept").rename(gone)
    again = derive_all(out, archive)
    assert (again["b"], again["c"]) == (State.DERIVED, State.REFUSED)


@pytest.mark.parametrize(
    ("error", "reason", "sentence"),
    [
        (ModelError("It made voxels that are no numbers."), "model", "It made voxels that are no numbers."),
        (RuntimeError("/a/name"), "crashed", "Unexpected RuntimeError; the log holds the traceback."),
    ],
)
def test_a_failure_of_the_model_is_the_reason_of_its_series_and_is_tried_again(
    archive: Path, tmp_path: Path, error: Exception, reason: str, sentence: str
) -> None:
    out = tmp_path / "out"
    failing = replace(cubic(), generator=Failing(error=error))
    with open_run(out, [archive], failing, progress=lambda _stage, _share: None) as run:
        run.derive_all(lambda _stage, _share: None)
        rows = run.rows()
    assert {(row.state, row.reason, row.sentence) for row in rows} == {(State.FAILED, reason, sentence)}
    assert files_of(out) == {}
    assert set(derive_all(out, archive).values()) == {State.DERIVED}


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_ends_the_run_which_goes_on_when_there_is_room(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(StorageError, match=r"000002 could not be written: No space left.*3 waiting, 1 derived"):
        derive_all(out, archive)
    set_checkpoint_hook(None)
    assert len(files_of(out)) == 24
    assert set(derive_all(out, archive).values()) == {State.DERIVED}


def test_another_model_archive_or_choice_is_refused_and_named(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    derive_all(out, archive)
    made = files_of(out)
    learned = load_model(str(write_thin(tmp_path / "model")), sharpness=None, with_uncertainty=False, device="cpu")
    with pytest.raises(InputError, match=r"the model was cubic-dc and is \w+ now; the digest of the model was"):
        derive_all(out, archive, model=learned)
    uncertain = load_model("cubic-dc", sharpness=None, with_uncertainty=True, device="cpu")
    with pytest.raises(InputError, match="the choice of --uncertainty was False and is True now"):
        derive_all(out, archive, model=uncertain)
    with pytest.raises(InputError, match=r"the archive was .*archive and is .*archive/a now"):
        derive_all(out, archive / "a")
    assert files_of(out) == made


def test_two_processes_never_work_on_one_folder(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with (
        open_run(out, [archive], cubic(), progress=lambda _stage, _share: None),
        pytest.raises(StorageError, match="Another process derives series"),
    ):
        derive_all(out, archive)


@pytest.mark.parametrize("place", ["archive/out", "archive", "full"])
def test_a_folder_that_holds_something_else_is_refused(archive: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("something else")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=r"only read|not empty"):
        derive_all(tmp_path / place, archive)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_broken_state_file_is_a_sentence(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / STATE_FILE).write_bytes(b"no database" * 1000)
    with pytest.raises(StorageError, match=f"{STATE_FILE} cannot be used"):
        derive_all(tmp_path / "out", archive)
