"""The PACS double keeps what it gets and tells what it has; foreign tools ask it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE

from dicomnode.demo.pacs import FIND_MODELS, Pacs, find
from dicomnode.dimse.outcome import RequestReason
from dicomnode.ids import AeTitle
from dicomnode.push.dimse_carrier import DimseCarrier
from dicomnode.push.send_files import send_files
from dicomnode.settings.models import PushSettings
from dicomnode.settings.peers import PeerSettings
from tests.support.dcmtk import environment, needs_dcmtk, program
from tests.support.dicom import dataset_bytes
from tests.support.mr_series import mr_datasets, write_series

STUDY_ROOT = "1.2.840.10008.5.1.4.1.2.2.1"
CARRIER = DimseCarrier(ae_title=AeTitle("DICOMNODE"), push=PushSettings())


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[Pacs]:
    with Pacs(tmp_path / "pacs") as running:
        yield running


def peer(pacs: Pacs) -> PeerSettings:
    return PeerSettings(name="pacs", ae_title=AeTitle("PACS"), address=f"127.0.0.1:{pacs.port}")


def store(pacs: Pacs, paths: list[Path]) -> list[int | None]:
    return [one.outcome.status for one in send_files(CARRIER, peer(pacs), paths)]


def ask(pacs: Pacs, level: str, **keys: object) -> list[Dataset]:
    """A C-FIND over the network; the answers."""
    query = Dataset()
    query.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(query, keyword, value)
    entity = AE()
    entity.add_requested_context(STUDY_ROOT)
    association = entity.associate("127.0.0.1", pacs.port)
    assert association.is_established
    answers = [answer for status, answer in association.send_c_find(query, STUDY_ROOT) if status.Status == 0xFF00]
    association.release()
    return [answer for answer in answers if answer is not None]


def test_it_answers_an_echo(pacs: Pacs) -> None:
    assert CARRIER.echo(peer(pacs)).reason is RequestReason.ANSWERED


def test_it_keeps_the_very_bytes_and_says_who_sent_them(pacs: Pacs, tmp_path: Path) -> None:
    paths = write_series(tmp_path / "in", mr_datasets(slices=3))
    assert store(pacs, paths) == [0x0000] * 3
    assert [dataset_bytes(one.file) for one in pacs.held()] == [dataset_bytes(path) for path in paths]
    assert {one.sent_by for one in pacs.held()} == {"DICOMNODE"}


def test_it_counts_the_instances_of_a_series(pacs: Pacs, tmp_path: Path) -> None:
    first, second = mr_datasets(slices=3), mr_datasets(slices=5)
    store(pacs, write_series(tmp_path / "first", first) + write_series(tmp_path / "second", second))
    (answer,) = ask(
        pacs, "SERIES", SeriesInstanceUID=str(second[0].SeriesInstanceUID), NumberOfSeriesRelatedInstances=""
    )
    assert answer.NumberOfSeriesRelatedInstances == 5
    studies = ask(pacs, "STUDY", StudyInstanceUID="", NumberOfStudyRelatedSeries="", NumberOfStudyRelatedInstances="")
    assert sorted(one.NumberOfStudyRelatedInstances for one in studies) == [3, 5]
    assert {one.NumberOfStudyRelatedSeries for one in studies} == {1}
    images = ask(pacs, "IMAGE", SeriesInstanceUID=str(first[0].SeriesInstanceUID), SOPInstanceUID="", InstanceNumber="")
    assert {one.SOPInstanceUID for one in images} == {one.SOPInstanceUID for one in first}


def test_keys_match_by_wildcard_list_and_range() -> None:
    headers = [*mr_datasets(slices=1), *mr_datasets(slices=1, attributes={"SeriesDescription": "T1 [x]"})]
    uids = [str(header.SeriesInstanceUID) for header in headers]

    def found(**keys: object) -> list[str]:
        query = Dataset()
        query.SeriesInstanceUID = None
        for keyword, value in keys.items():
            setattr(query, keyword, value)
        return [str(answer.SeriesInstanceUID) for answer in find(query, "SERIES", headers)]

    assert found() == uids
    assert found(SeriesDescription="*TSE*") == uids[:1]
    assert found(SeriesDescription="T1 [x]") == uids[1:]
    assert found(SeriesDescription="T? *") == uids
    assert found(SeriesInstanceUID=uids) == uids
    assert found(SeriesInstanceUID=uids[0]) == uids[:1]
    assert found(StudyDate="20200101-20200103") == uids
    assert found(StudyDate="-20200101") == []
    assert found(StudyDate="20200102-") == uids


def test_a_level_that_the_model_lacks_is_refused(pacs: Pacs) -> None:
    assert "PATIENT" not in FIND_MODELS[STUDY_ROOT]
    assert ask(pacs, "PATIENT", PatientID="") == []


def test_it_finds_its_files_again_and_passes_over_what_is_no_dicom(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "in", mr_datasets(slices=2))
    with Pacs(tmp_path / "pacs") as pacs:
        store(pacs, paths)
    (tmp_path / "pacs" / "stray.dcm").write_text("no DICOM")
    with Pacs(tmp_path / "pacs") as again:
        assert len(again.held()) == 2
        assert len(ask(again, "IMAGE", SOPInstanceUID="")) == 2


@needs_dcmtk
def test_dcmtk_stores_and_asks(pacs: Pacs, tmp_path: Path) -> None:
    datasets = mr_datasets(slices=4)
    paths = write_series(tmp_path / "in", datasets)
    to = ["127.0.0.1", str(pacs.port)]
    subprocess.run([program("storescu"), *to, *map(str, paths)], env=environment(), check=True)
    keys = ["-k", "QueryRetrieveLevel=SERIES", "-k", "SeriesInstanceUID", "-k", "NumberOfSeriesRelatedInstances"]
    subprocess.run([program("findscu"), "-S", "-X", "-od", str(tmp_path), *keys, *to], env=environment(), check=True)
    answer = dcmread(next(path for path in tmp_path.iterdir() if re.match(r"rsp0*1\.dcm", path.name)), force=True)
    assert str(answer.SeriesInstanceUID) == str(datasets[0].SeriesInstanceUID)
    assert answer.NumberOfSeriesRelatedInstances == 4
