"""A patient is erased: every file of that patient, no file of another one, beside a node that goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from dicomnode import seams
from dicomnode.archive.store import Archive
from dicomnode.errors import InputError, StorageError
from dicomnode.ids import SeriesId
from dicomnode.ledger.store import Ledger, open_ledger
from dicomnode.ledger.values import QuarantinedFile, QuarantineReason
from dicomnode.purge import Erased, erase, find_patient
from tests.support.mr_series import mr_datasets
from tests.support.stored import store

PATIENT = "PID^7/Müller"


@pytest.fixture(autouse=True)
def _no_hook_is_left() -> Iterator[None]:
    yield
    seams.set_checkpoint_hook(None)


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(open_ledger(f"sqlite:///{tmp_path}/ledger.sqlite")) as opened:
        yield opened


def datasets(patient_id: str | None, *, slices: int = 3) -> list[Dataset]:
    made = mr_datasets(slices=slices)
    for one in made:
        one.SpecificCharacterSet = "ISO_IR 100"
        if patient_id is None:
            del one.PatientID
        else:
            one.PatientID = patient_id
    return made


def kept(ledger: Ledger, archive: Archive, made: list[Dataset]) -> SeriesId:
    series = store(ledger, archive, made)
    assert ledger.settling.settle(series, 1, note="quiet")
    assert ledger.settling.keep(series, 1, reason="too_few", sentence="Only 3 slices.")
    return series


def files(archive: Archive) -> set[str]:
    return {str(path.relative_to(archive.data)) for path in archive.root.rglob("*") if path.is_file()}


def purge(ledger: Ledger, archive: Archive, patient_id: str = PATIENT) -> Erased:
    return erase(archive, ledger, find_patient(archive, patient_id), "operator")


def test_every_file_of_the_patient_goes_and_none_of_another(ledger: Ledger, archive: Archive) -> None:
    first, second = (kept(ledger, archive, datasets(PATIENT)) for _ in range(2))
    other, longer, nameless = (kept(ledger, archive, datasets(one)) for one in ("PID^8", f"{PATIENT}2", None))
    stays = {f"archive/{file}" for one in (other, longer, nameless) for file in ledger.upkeep.files_in(str(one))}
    erased = purge(ledger, archive)
    assert (erased.series, erased.instances, erased.set_aside, erased.left) == ((first, second), 6, 0, ())
    assert files(archive) == stays
    assert purge(ledger, archive) == Erased(series=(), instances=0, set_aside=0, left=())


def test_of_a_series_of_two_patients_the_other_ones_images_stay(ledger: Ledger, archive: Archive) -> None:
    mixed = mr_datasets(slices=5)
    mixed[0].PatientID = "another"
    series = kept(ledger, archive, mixed)
    erased = purge(ledger, archive, str(mixed[1].PatientID))
    assert (erased.series, erased.instances) == ((series,), 4)
    (left,) = files(archive)
    assert left == f"archive/{next(iter(ledger.upkeep.files_in(str(series))))}"


def test_what_was_set_aside_is_erased_too_and_what_cannot_be_read_is_named(ledger: Ledger, archive: Archive) -> None:
    series = kept(ledger, archive, datasets(PATIENT, slices=2))
    moved = archive.set_aside(sorted(ledger.upkeep.files_in(str(series)))[0])
    ledger.quarantine.record(
        QuarantinedFile(
            file=moved, reason=QuarantineReason.ORPHAN, sha256="0" * 64, peer="mr1", instance=None, kept_sha256=None
        )
    )
    archive.quarantine.path("broken.dcm").write_bytes(b"no image at all")
    found = find_patient(archive, PATIENT)
    assert (found.instances, found.aside, found.unreadable) == (1, {moved}, ["quarantine/broken.dcm"])
    erased = erase(archive, ledger, found, "operator")
    assert (erased.instances, erased.set_aside, erased.left) == (1, 1, ())
    assert archive.quarantine.names() == ["broken.dcm"]


def test_a_series_that_is_still_received_keeps_everything_of_the_patient(ledger: Ledger, archive: Archive) -> None:
    kept(ledger, archive, datasets(PATIENT))
    store(ledger, archive, datasets(PATIENT))
    before = files(archive)
    with pytest.raises(InputError, match="Series 2 is being received or judged; nothing was erased"):
        purge(ledger, archive)
    assert files(archive) == before
    assert ledger.upkeep.files_in("1")


def test_a_run_that_was_killed_between_rows_and_files_is_ended_by_the_next(ledger: Ledger, archive: Archive) -> None:
    kept(ledger, archive, datasets(PATIENT))

    class Killed(BaseException):
        pass

    def kill(name: str) -> None:
        if name == "purge.marked":
            raise Killed

    seams.set_checkpoint_hook(kill)
    with pytest.raises(Killed):
        purge(ledger, archive)
    assert len(files(archive)) == 3
    seams.set_checkpoint_hook(None)
    erased = purge(ledger, archive)
    assert (erased.series, erased.left) == ((SeriesId(1),), ())
    assert files(archive) == set()


def test_a_file_that_cannot_be_removed_is_said(ledger: Ledger, archive: Archive) -> None:
    kept(ledger, archive, datasets(PATIENT))

    def refuse(name: str) -> None:
        if name == "archive.removed":
            raise OSError(5, "Input/output error")

    seams.set_checkpoint_hook(refuse)
    with pytest.raises(StorageError, match="could not be removed: Input/output error"):
        purge(ledger, archive)


def test_a_file_without_a_row_stays_and_is_named(ledger: Ledger, archive: Archive) -> None:
    series = kept(ledger, archive, datasets(PATIENT, slices=1))
    (file,) = ledger.upkeep.files_in(str(series))
    coming = archive.path(file).with_name("00000000000000ff.dcm")
    coming.write_bytes(archive.path(file).read_bytes())
    erased = purge(ledger, archive)
    assert erased.left == (f"archive/{series}/00000000000000ff.dcm",)
    assert coming.exists()


def test_the_patient_is_written_nowhere(ledger: Ledger, archive: Archive) -> None:
    kept(ledger, archive, datasets(PATIENT))
    purge(ledger, archive)
    ledger.close()
    content = b"".join(path.read_bytes() for path in archive.data.rglob("*") if path.is_file())
    assert PATIENT.encode() not in content
    assert PATIENT.encode("latin-1") not in content
