"""Files from disk: folders and names are looked through, each DICOM file goes out once, each failure is reported."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomnode.dimse.outcome import RequestReason
from dicomnode.ids import AeTitle
from dicomnode.push.dimse_carrier import DimseCarrier
from dicomnode.push.send_files import send_files
from dicomnode.settings.models import PushSettings
from dicomnode.settings.peers import PeerSettings
from tests.support.dcmtk import free_port, needs_dcmtk, storescp
from tests.support.dicom import dataset_bytes
from tests.support.misbehaving_pacs import MisbehavingPacs
from tests.support.mr_series import write_mr_series

PATIENT = DimseCarrier(ae_title=AeTitle("DICOMNODE"), push=PushSettings(connect_timeout_s=5.0, response_timeout_s=10.0))


def peer(port: int) -> PeerSettings:
    return PeerSettings(name="pacs", ae_title=AeTitle("PACS"), address=f"127.0.0.1:{port}")


@pytest.fixture
def pacs() -> Iterator[MisbehavingPacs]:
    with MisbehavingPacs() as running:
        yield running


def test_send_files_sends_folders_and_files_once_and_reports_each(pacs: MisbehavingPacs, tmp_path: Path) -> None:
    paths = write_mr_series(tmp_path / "series", slices=3)
    (tmp_path / "series" / "notes.txt").write_text("no DICOM")
    stray = tmp_path / "stray.txt"
    stray.write_text("no DICOM either")
    gone = tmp_path / "gone.dcm"
    pacs.answers.extend([0x0000, 0xC000])
    sent = list(send_files(PATIENT, peer(pacs.port), [tmp_path / "series", stray, gone]))
    assert {one.path: (one.outcome.reason, one.outcome.status) for one in sent} == {
        stray: (RequestReason.UNREADABLE, None),
        gone: (RequestReason.UNREADABLE, None),
        paths[0]: (RequestReason.ANSWERED, 0x0000),
        paths[1]: (RequestReason.ANSWERED, 0xC000),
        paths[2]: (RequestReason.ANSWERED, 0x0000),
    }
    assert len(pacs.arrivals) == 3


def test_send_files_to_a_peer_that_is_off_reports_each_file(tmp_path: Path) -> None:
    paths = write_mr_series(tmp_path, slices=2)
    sent = list(send_files(PATIENT, peer(free_port()), paths))
    assert [one.outcome.reason for one in sent] == [RequestReason.UNREACHABLE] * 2


@needs_dcmtk
def test_storescp_gets_the_very_bytes(tmp_path: Path) -> None:
    paths = write_mr_series(tmp_path / "in", slices=3, size=64)
    with storescp(tmp_path / "out", "+B") as port:  # +B: written exactly as received
        statuses = [one.outcome.status for one in send_files(PATIENT, peer(port), paths)]
    assert statuses == [0x0000] * 3
    stored = {hashlib.sha256(dataset_bytes(path)).digest() for path in (tmp_path / "out").iterdir()}
    assert stored == {hashlib.sha256(dataset_bytes(path)).digest() for path in paths}
